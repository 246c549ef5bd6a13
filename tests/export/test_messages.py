"""Tests of fbs_keras/export/messages.py: TensorFlow's progress is left out, nothing else that is written to stderr."""

import logging
import os
import subprocess
import sys
import textwrap
import threading

import pytest

from fbs_keras.export import converter, messages

PROGRESS = """\
W0000 00:00:1796066566.158580   13902 tf_tfl_flatbuffer_helpers.cc:364] Ignored output_format.
2026-03-01 10:00:00.158580: I tensorflow/cc/saved_model/reader.cc:83] Reading SavedModel from: /tmp/a
2026-03-01 10:00:00.158580: W tensorflow/compiler/mlir/lite/flatbuffer_export.cc:4248] The following operation(s) need
Custom ops: FbsConv2D
Details:
	tf.FbsConv2D(tensor<1x2xf32>) -> (tensor<1x2xf32>) : {device = ""}
See instructions: https://www.tensorflow.org/lite/guide/ops_custom
WARNING:absl:Please consider providing the trackable_obj argument
"""
ERRORS = [
    (
        'loc(callsite("x"("a.py":1:2))): error: \'tfl.add\' op operand #0 must be a tensor',
        "'tfl.add' op operand #0 must be a tensor",
    ),
    ("error: invalid TFLite type: 'f8'", "invalid TFLite type: 'f8'"),
    ("E0000 00:00:1.5   18 op.cc:47] no space left", "no space left"),
    ("E0000 00:00:1.5   18 cuda_platform.cc:52] failed call to cuInit", ""),
    ("WARNING:absl: an error occurred", ""),
]


def test_keeps_what_others_write(capfd):
    def other():
        print("printed", file=sys.stderr, flush=True)
        logging.getLogger("other").error("logged")

    with messages.held() as said:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        os.write(2, PROGRESS.encode())
        os.write(2, "größe\n".encode())
    assert capfd.readouterr().err.replace("logged\n", "") == "printed\ngröße\n"
    assert PROGRESS in said.text
    assert said.error == ""


@pytest.mark.parametrize(("line", "error"), ERRORS)
def test_finds_the_error(line, error, capfd):
    with pytest.raises(ValueError), messages.held() as said:
        os.write(2, f"{PROGRESS}{line}\n{PROGRESS}".encode())
        raise ValueError
    assert said.error == error
    assert capfd.readouterr().err == ""


def test_a_failed_conversion_says_what_was_written(capfd):
    class Failing:
        def convert(self):
            os.write(2, b"I0000 00:00:1.1  12 pass.cc:3] Running\n<unknown>:0: error: 'tf.Foo' op has no shape\nmine\n")
            raise RuntimeError("Could not translate MLIR to FlatBuffer.")

    with pytest.raises(ValueError, match=r"to TFLite: Could not translate .*\. \('tf\.Foo' op has no shape\)"):
        converter._run(Failing())
    assert capfd.readouterr().err == "mine\n"


def test_several_threads(capfd):
    """Two threads that each put stderr back must not put back what the other had put there."""

    def hold():
        for _ in range(20):
            with messages.held():
                os.write(2, PROGRESS.encode())

    threads = [threading.Thread(target=hold) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.write(2, b"still there\n")
    assert capfd.readouterr().err == "still there\n"


def test_without_stderr():
    code = """
        import os, sys
        from fbs_keras.export import messages
        sys.stderr = None
        os.close(2)
        with messages.held() as said:
            pass
        print("done", repr(said.text))
    """
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert done.stdout == "done ''\n"


NO_ROOM = """
    import os, resource, sys, tempfile
    import keras
    import fbs_keras
    model = keras.Sequential([keras.Input((4, 4, 3)), fbs_keras.FBSConv2D(8, 3)])
    {how}
    try:
        fbs_keras.convert(model)
    except ValueError as error:
        print("said:", error)
    print([entry.name for entry in os.scandir(os.environ["TMPDIR"]) if entry.is_dir()])
"""


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))", "File too large"),
        ("tempfile.tempdir = os.environ['TMPDIR'] + '/none'", "No such file or directory"),
    ],
)
def test_no_room_for_temporary_files(how, reason, tmp_path):
    code = textwrap.dedent(NO_ROOM).format(how=how)
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    folder = f"{tmp_path}/none" if "none" in how else str(tmp_path)
    assert f"said: the conversion cannot write temporary files to {folder}: {reason}; make room, or set" in done.stdout
    assert done.stdout.endswith("[]\n")
    assert "flatbuffer" not in done.stderr
