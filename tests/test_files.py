import errno
import os
import subprocess
import sys

import pytest

from fbs_keras import files


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "model.keras"
    path.write_text("old")
    with files.replacing(path) as temporary:
        temporary.write_text("new")
        assert temporary.suffix == ".keras"  # by which Keras knows the format
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), ValueError("x"), OSError(errno.ENOSPC, "No space left on device")]
)
def test_what_was_there_stays_when_writing_fails(tmp_path, error):
    path = tmp_path / "curve.csv"
    path.write_text("old")
    with pytest.raises(type(error)) as raised, files.replacing(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    if isinstance(error, OSError):
        assert str(raised.value) == f"cannot write {str(path)!r}: No space left on device"


def test_links_and_permissions_stay(tmp_path):
    path, link = tmp_path / "a.json", tmp_path / "b.json"
    path.write_text("old")
    path.chmod(0o640)
    link.symlink_to(path)
    files.write(link, "new")
    assert link.is_symlink() and path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o640


def test_what_is_no_file_is_written_as_it_is():
    code = "from fbs_keras import files; files.write('/dev/stdout', 'text'); files.write('/dev/null', b'x')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "text"
    assert not os.path.isfile(os.devnull)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cannot write .*x/a\.json.*: No such file or directory"):
        files.write(tmp_path / "x" / "a.json", "text")


@pytest.mark.skipif(sys.platform == "win32", reason="files are limited by setrlimit")
def test_a_model_for_which_the_disk_is_too_small(tmp_path):
    """A limit of a file's size stands for a full disk; the script ends with a sentence, and leaves nothing."""
    code = f"""
import resource, signal, sys
import keras
from _fbs_scripts import program
model = keras.Sequential([keras.Input((100,)), keras.layers.Dense(1000)])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
program.run(lambda: program.save_model(model, {str(tmp_path / "model.keras")!r}))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].endswith(f"cannot write '{tmp_path / 'model.keras'}': File too large")
    assert not list(tmp_path.iterdir())


def test_figures(tmp_path):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    files.save_figure(figure, tmp_path / "a.svg")
    files.save_figure(figure, str(tmp_path / "b"))
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
