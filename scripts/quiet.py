"""Starts TensorFlow without its greetings."""

import os
import sys
import tempfile


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
            import tensorflow as tf

            tf.constant(0)
        except BaseException:
            log.seek(0)
            os.write(stderr, log.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
