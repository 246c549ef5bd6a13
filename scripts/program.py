"""What the scripts share: a quiet start of TensorFlow, and errors in one line."""

import os
import sys
import tempfile

from absl import app, logging


def start_tensorflow():
    """Imports TensorFlow and makes it look for devices, keeping what it says on stderr unless that fails.

    No log level turns these lines off, and one of them, on a machine without a GPU, looks like an error.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    with tempfile.TemporaryFile() as log:
        stderr = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            import keras
            import tensorflow as tf

            if keras.backend.backend() != "tensorflow":
                tf.config.set_visible_devices([], "GPU")  # it only reads data: their memory is for what trains
            tf.constant(0)
        except BaseException:
            log.seek(0)
            os.write(stderr, log.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def run(function):
    """Parses the flags and calls `function`; a user's or the system's error ends it with a line and exit code 1."""

    def main(argv):
        if len(argv) > 1:
            raise app.UsageError(f"expected flags only, got {' '.join(argv[1:])}")
        logging.set_verbosity(logging.WARNING)
        try:
            function()
        except (OSError, TypeError, ValueError) as error:
            sys.exit(f"{os.path.splitext(os.path.basename(sys.argv[0]))[0]}: {error}")

    app.run(main)
