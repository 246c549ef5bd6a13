"""Fuzzes for as long as is asked, and prints what came of it: `make fuzz`.

    PYTHONPATH=tests:tflite python -m fuzz.run --seconds 3600 --mutants 100000

The time is shared among the targets of tests/native (fuzz_*.c), which are built with AddressSanitizer and
UndefinedBehaviorSanitizer; then so many changed model files run in LiteRT with the delegate built like that
(mutants.py). Inputs that failed are left in the folder's `findings`. The exit status is 1 where there are any.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import builds
from fuzz import targets


def run_targets(seconds, folder):
    """Fuzzes each target; returns how many stopped at a finding."""
    reason = targets.missing()
    if reason is not None:
        raise SystemExit(f"run.py: {reason}; Debian and Ubuntu: apt-get install clang libclang-rt-dev")
    executables = targets.build(folder / "targets")
    failed = 0
    for name, share in targets.budgets(seconds).items():
        result = targets.run(executables[name], share, folder / "corpus" / name, folder / "findings" / name)
        print(result, flush=True)
        if result.finding:
            print(result.finding, file=sys.stderr, flush=True)
            failed += 1
    return failed


def run_mutants(count, folder):
    """Runs changed model files; returns how many processes ended only with the delegate, as a truth value."""
    library = builds.delegate(*builds.SANITIZERS)
    models = folder / "models"
    subprocess.run([sys.executable, "-m", "fuzz.exported", models], check=True)
    command = [sys.executable, "-m", "fuzz.mutants", library, "--sanitized", "--count", count]
    command += ["--refusing", builds.failing_delegate()]
    command += ["--models", models, "--findings", folder / "findings" / "mutants"]
    environment = {**os.environ, **targets.sanitized_environment()}
    return subprocess.run([str(part) for part in command], env=environment).returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600, help="of all targets together (default: %(default)s)")
    parser.add_argument("--mutants", type=int, default=100000, help="changed model files (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz"), help="for all files (default: %(default)s)")
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    failed = run_targets(arguments.seconds, folder) if arguments.seconds > 0 else 0
    failed += run_mutants(arguments.mutants, folder) if arguments.mutants > 0 else 0
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
