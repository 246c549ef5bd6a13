"""Runs the scripts as a user does, or in this process."""

import contextlib
import importlib
import io
import os
import pathlib
import runpy
import subprocess
import sys
import traceback
import warnings

import keras
from absl import flags
from absl.testing import flagsaver

SCRIPTS = pathlib.Path(__file__).parents[1] / "scripts"


def command(script, *arguments):
    return [sys.executable, str(SCRIPTS / script), *map(str, arguments)]


def run_alone(script, *arguments, **environment):
    """Runs a script in a process of its own."""
    return subprocess.run(
        command(script, *arguments), capture_output=True, text=True, env={**os.environ, **environment}
    )


def run(script, *arguments):
    """Runs a script in this process, where all is imported: seconds less than `run_alone`, with the same result."""
    line = command(script, *arguments)
    stdout, stderr = io.StringIO(), io.StringIO()
    policy, argv, code = keras.config.dtype_policy(), sys.argv, 0
    outer = _own_flags()  # of a script that calls another
    flags.FLAGS.remove_flag_values(outer)
    sys.argv = line[1:]
    try:
        with (
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
            flagsaver.flagsaver(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("default")
            try:
                runpy.run_path(line[1], run_name="__main__")
            except SystemExit as error:
                code = error.code or 0
            except Exception:
                traceback.print_exc()
                code = 1
            if isinstance(code, str):
                print(code, file=sys.stderr)
                code = 1
    finally:
        flags.FLAGS.remove_flag_values(_own_flags())
        flags.FLAGS.append_flag_values(outer)
        sys.argv = argv
        keras.config.set_dtype_policy(policy)
    return subprocess.CompletedProcess(line, code, stdout.getvalue(), stderr.getvalue())


def _own_flags():
    """The flags of scripts, not of absl and other packages."""
    own, names = flags.FlagValues(), {path.stem for path in SCRIPTS.glob("*.py")}
    for flag in flags.FLAGS:
        if pathlib.Path(flags.FLAGS.find_module_defining_flag(flag)).stem in names:
            own[flag] = flags.FLAGS[flag]
    return own


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
