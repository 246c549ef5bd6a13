"""Times a training step of an FBS model against one of the plain model, side by side.

    python scripts/benchmark_training.py
    python scripts/benchmark_training.py --jit --dtype_policy mixed_bfloat16 --batch_size 256

Prints both medians and their ratio. The steps take turns, so that what else the machine does slows both.
"""

import statistics
import time

from absl import flags

from _fbs_scripts import program

FLAGS = flags.FLAGS
flags.DEFINE_string("model", "MCifarNet", "A model of fbs_keras.models or keras.applications.")
flags.DEFINE_integer("image_size", 32, "Height and width of the images.", lower_bound=1)
flags.DEFINE_float("density", 0.5, "Density of the FBS layers, in (0, 1].")
flags.DEFINE_integer("batch_size", 128, "Batch size.", lower_bound=1)
flags.DEFINE_integer("steps", 20, "Steps of each model that are timed.", lower_bound=1)
flags.DEFINE_bool("jit", False, "Compile the steps with XLA (or torch.compile).")
flags.DEFINE_string("dtype_policy", "float32", "Keras dtype policy, such as mixed_bfloat16.")

WARMUP_STEPS = 3  # the first is traced and compiled


def compiled(model):
    """The model, ready to train as scripts/train.py does."""
    import keras

    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True, global_clipnorm=5.0),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        jit_compile=FLAGS.jit,
    )
    return model


def seconds(model, images, labels):
    """The time of one step."""
    begin = time.perf_counter()
    model.train_on_batch(images, labels)  # returns the loss as a number, so the step is over
    return time.perf_counter() - begin


def benchmark():
    """Times as the flags say, and prints the result."""
    program.start_tensorflow()
    import keras
    import numpy as np

    import fbs_keras
    from _fbs_scripts import network

    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(FLAGS.dtype_policy)
    plain = network.by_name(FLAGS.model, (FLAGS.image_size, FLAGS.image_size, 3), 10)
    models = [compiled(plain), compiled(fbs_keras.wrap(plain, FLAGS.density))]
    rng = np.random.default_rng(0)
    images = rng.standard_normal((FLAGS.batch_size, *plain.input_shape[1:]), "float32")
    labels = np.eye(10, dtype="float32")[rng.integers(0, 10, FLAGS.batch_size)]
    times: list[list[float]] = [[], []]
    for step in range(WARMUP_STEPS + FLAGS.steps):
        for model, measured in zip(models, times, strict=True):
            taken = seconds(model, images, labels)
            if step >= WARMUP_STEPS:
                measured.append(taken)
    plain_step, fbs_step = map(statistics.median, times)
    print(
        f"{FLAGS.model}, batch {FLAGS.batch_size}, {FLAGS.dtype_policy}, Keras {keras.__version__} on "
        f"{keras.backend.backend()}, jit {'on' if FLAGS.jit else 'off'}: a plain step {plain_step * 1e3:.0f} ms, "
        f"an FBS step {fbs_step * 1e3:.0f} ms, {fbs_step / plain_step:.2f}x"
    )


if __name__ == "__main__":
    program.run(benchmark)
