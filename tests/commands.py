"""Runs the scripts as a user does."""

import os
import pathlib
import subprocess
import sys

SCRIPTS = pathlib.Path(__file__).parents[1] / "scripts"


def command(script, *arguments):
    return [sys.executable, str(SCRIPTS / script), *map(str, arguments)]


def run(script, *arguments, **environment):
    return subprocess.run(
        command(script, *arguments), capture_output=True, text=True, env={**os.environ, **environment}
    )
