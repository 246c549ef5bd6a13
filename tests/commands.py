"""Runs the scripts as a user does, or in this process."""

import contextlib
import importlib
import os
import pathlib
import subprocess
import sys

from absl import flags
from absl.testing import flagsaver

SCRIPTS = pathlib.Path(__file__).parents[1] / "scripts"


def command(script, *arguments):
    return [sys.executable, str(SCRIPTS / script), *map(str, arguments)]


def run(script, *arguments, **environment):
    return subprocess.run(
        command(script, *arguments), capture_output=True, text=True, env={**os.environ, **environment}
    )


class Script:
    """A script as a module, whose flags are only there while it is used: scripts have flags of the same names."""

    def __init__(self, name):
        others, self.flags = set(flags.FLAGS), flags.FlagValues()
        self.module = importlib.import_module(name)
        for flag in set(flags.FLAGS) - others:
            self.flags[flag] = flags.FLAGS[flag]
        flags.FLAGS.remove_flag_values(self.flags)

    @contextlib.contextmanager
    def called_with(self, *arguments):
        """The module, with flags as these arguments set them."""
        flags.FLAGS.append_flag_values(self.flags)
        try:
            with flagsaver.flagsaver():
                flags.FLAGS([self.module.__name__, *map(str, arguments)])
                yield self.module
        finally:
            flags.FLAGS.remove_flag_values(self.flags)
