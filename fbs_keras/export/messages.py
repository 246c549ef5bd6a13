"""What TensorFlow's converter writes to stderr: pages of progress where all is well, the reason where it is not."""

import contextlib
import logging
import os
import re
import sys
import tempfile
import threading

# Of TensorFlow's own lines, those that tell of progress, with what follows some of them.
_PROGRESS = re.compile(
    r"[IWEF]\d{4} \d\d:|\d{4}-\d\d-\d\d [\d:.]+: [IWEF] |(INFO|WARNING):(absl|tensorflow):"
    r"|WARNING: All log messages before absl|To enable the following instructions:"
    r"|(Custom|Flex|Resource) ops: |Details:|\t|See instructions: |Summary on the non-converted ops:|-{9,}| \* |  - "
    r"|Type is unsupported, or the types of|'NoneType' object has no attribute 'name'"
)
_ERROR = re.compile(r"^(?:E\d{4} \S+ +\d+ \S+\] |\d{4}-\d\d-\d\d \S+ E \S+\] |.*?\berror: )(.+)")
_MOST = 1 << 20  # bytes that are kept

_lock = threading.RLock()  # stderr is the process's, not a thread's


class Said:
    """What was written to stderr.

    Attributes:
        text: All of it; empty until the block ends.
    """

    text = ""

    @property
    def error(self):
        """The last line that tells of an error, without its time and place; empty if there is none."""
        found = [match[1] for line in self.text.splitlines() if "cuda" not in line and (match := _ERROR.match(line))]
        return found[-1] if found else ""

    @property
    def others(self):
        """The lines that are not TensorFlow's, but those of other threads, say."""
        lines = self.text.splitlines(keepends=True)
        return "".join(line for line in lines if not _PROGRESS.match(line) and not _ERROR.match(line))


@contextlib.contextmanager
def held():
    """Holds back what the process writes to stderr, from Python and C++, and then leaves out TensorFlow's progress.

    What other threads write meanwhile comes when the block ends. One thread at a time can be in such a block.

    Yields:
        A `Said`.
    """
    said = Said()
    with _lock, contextlib.ExitStack() as stack:
        absl = logging.getLogger("absl")
        stack.callback(absl.setLevel, absl.level)
        absl.setLevel(logging.ERROR)
        try:
            stderr = os.dup(2)
        except OSError:  # a process without one, as services are
            yield said
            return
        stack.callback(os.close, stderr)
        file = stack.enter_context(_file())
        _flush()
        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            _flush()
            os.dup2(stderr, 2)
            with contextlib.suppress(OSError):
                file.seek(0)
                said.text = file.read(_MOST).decode("utf-8", "replace")
                os.write(2, said.others.encode())


def _flush():
    if sys.stderr is not None:
        sys.stderr.flush()


def _file():
    """A file to write to that needs no room in the temporary folder, where there is such a thing."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("stderr"), "w+b", buffering=0)
    try:
        return tempfile.TemporaryFile(buffering=0)
    except OSError:
        return open(os.devnull, "w+b", buffering=0)
