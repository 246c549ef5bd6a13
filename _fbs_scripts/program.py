"""How a program starts and ends: TensorFlow starts quietly, models are loaded and saved, errors take one line."""

import errno
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


def load_model(path, compile=False):
    """Loads a .keras file, or says in a sentence why it cannot."""
    import keras

    try:
        return keras.saving.load_model(path, compile=compile)
    except Exception as error:  # Keras raises anything from KeyError to zipfile's errors
        reason = str(error).rpartition("Exception encountered: ")[2] or repr(error)
        raise ValueError(f"{path} cannot be loaded as a Keras model: {reason.strip().splitlines()[0]}") from error


def save_model(model, path):
    """Saves a model to a .keras file, whole or not at all."""
    from fbs_keras import files

    with files.replacing(path) as temporary:
        model.save(temporary)


def run(function):
    """Parses the flags and calls `function`; a user's or the system's error ends it with a line and exit code 1."""

    def main(argv):
        if len(argv) > 1:
            raise app.UsageError(f"expected flags only, got {' '.join(argv[1:])}")
        logging.set_verbosity(logging.WARNING)
        name = os.path.splitext(os.path.basename(sys.argv[0]))[0]
        try:
            function()
        except (OSError, TypeError, ValueError) as error:
            sys.exit(f"{name}: {error}")
        except Exception as error:
            full = os.strerror(errno.ENOSPC)
            if full not in str(error):
                raise
            sys.exit(f"{name}: {full}; make some, and try again")  # TensorFlow says it in an error of its own
        except KeyboardInterrupt:
            print(f"\n{name}: interrupted", file=sys.stderr)
            sys.exit(130)  # as a shell tells it

    app.run(main)
