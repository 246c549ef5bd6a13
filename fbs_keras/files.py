"""Files that are there whole or not at all."""

import contextlib
import os
import pathlib
import shutil
import threading

_DPI = 130


@contextlib.contextmanager
def replacing(path):
    """Gives the path of a temporary file to write, which replaces `path` when the block ends well.

    When it does not, because the disk is full or the user interrupts it, the temporary file goes, and what was at
    `path` is as before. Links are followed. What is no file, such as `/dev/stdout`, is written as it is.

    Args:
        path: The file to write, a string or path.

    Yields:
        A `pathlib.Path` beside it, with the same suffix.

    Raises:
        OSError: If it cannot be written, with a sentence that names it.

    Example:

    >>> with replacing("model.keras") as temporary:
    ...     model.save(temporary)
    """
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        yield pathlib.Path(path)
        return
    wanted = pathlib.Path(os.path.realpath(path))
    # Not of the file's own name, which may be as long as names can be.
    temporary = wanted.with_name(f".fbs_{os.getpid()}_{threading.get_ident()}.tmp{wanted.suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())  # a rename may reach the disk before what was written
        if wanted.exists():
            shutil.copymode(wanted, temporary)
        os.replace(temporary, wanted)
    except OSError as error:
        raise type(error)(f"cannot write {os.fspath(path)!r}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write(path, content):
    """Writes bytes or text to a file, whole or not at all; see `replacing`."""
    with replacing(path) as temporary:
        if isinstance(content, str):
            temporary.write_text(content, encoding="utf-8")
        else:
            temporary.write_bytes(content)


def save_figure(figure, path):
    """Saves a matplotlib figure to a file whole or not at all, or to an open file.

    Args:
        figure: The figure.
        path: Where to; without a suffix it gets `.png`, as matplotlib does it.
    """
    if not isinstance(path, str | os.PathLike):
        figure.savefig(path, dpi=_DPI)
        return
    path = pathlib.Path(path)
    with replacing(path if path.suffix else path.with_name(f"{path.name}.png")) as temporary:
        figure.savefig(temporary, dpi=_DPI)
