"""Evaluates a Keras or a TFLite model on a TFDS image classification data set.

    python scripts/evaluate.py --model fbs_keras/models/checkpoints/mcifarnet_cifar10_50.keras
    python scripts/evaluate.py --model model.tflite --threads 2

Prints top-1 and top-5 accuracy and, for a Keras model, its MACs. With --dense, they are compared with another model's,
as they should be where channels were removed for good.
"""

from absl import flags

from _fbs_scripts import accuracy, program

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "A .keras or .tflite file.", required=True)
flags.DEFINE_string("dataset", "cifar10", "Name of a TFDS image classification data set.")
flags.DEFINE_string("data_dir", None, "TFDS data directory. Defaults to TFDS_DATA_DIR, else ./data.")
flags.DEFINE_string("split", None, "Split to evaluate on. Defaults to validation if there is one, else test.")
flags.DEFINE_integer(
    "image_size", None, "Height and width. Defaults to the images' own, or 224 where they vary in size."
)
flags.DEFINE_integer("batch_size", 250, "Batch size of a Keras model; a .tflite file has its own.")
flags.DEFINE_float("density", None, "Set this density before evaluating a Keras model. Default: the model's own.")
flags.DEFINE_string(
    "dense",
    None,
    "A .keras file whose MACs a Keras model's are compared with. Default: the model's own, were all channels active.",
)
flags.DEFINE_integer("threads", 1, "Threads of a .tflite file's interpreter.")
flags.DEFINE_bool("delegate", True, "Run a .tflite file with our delegate.")


def load_function(path):
    """A function from images to logits, and a line that says what the model is."""
    import fbs_keras

    if path.endswith(".tflite"):
        if FLAGS.density is not None:
            raise ValueError(f"--density needs a Keras model: {path} has the density it was exported with")
        interpreter = fbs_keras.Interpreter(path, num_threads=FLAGS.threads, use_delegate=FLAGS.delegate)
        return interpreter.predict, f"{path}, {'with' if FLAGS.delegate else 'without'} the delegate"
    model = program.load_model(path)
    if FLAGS.density is not None:
        fbs_keras.set_density(model, FLAGS.density)
    return lambda images: model.predict_on_batch(images), f"{path}, {describe_macs(model)}"


def describe_macs(model):
    """The model's MACs, and how many times fewer they are than the dense model's."""
    import fbs_keras

    report = fbs_keras.count_macs(model)
    dense, name = report.dense, "dense"
    if FLAGS.dense is not None:
        dense = fbs_keras.count_macs(program.load_model(FLAGS.dense)).dense
        name = FLAGS.dense
    macs = report.fbs if report.conv < report.dense else report.dense
    return f"{macs / 1e6:.2f} M MACs" + (f", {dense / macs:.2f}x fewer than {name}" if macs < dense else "")


def evaluate():
    """Evaluates as the flags say, and prints the result."""
    program.start_tensorflow()
    from fbs_keras import data

    function, what = load_function(FLAGS.model)
    split = FLAGS.split or data.evaluation_split(FLAGS.dataset, FLAGS.data_dir)
    test = data.load(FLAGS.dataset, split, FLAGS.batch_size, data_dir=FLAGS.data_dir, image_size=FLAGS.image_size)
    logits, labels = accuracy.predict(function, test.batches, test.steps)
    print(what)
    print(
        f"{FLAGS.dataset}, {split}, {len(labels)} images: "
        f"top-1 {accuracy.top_k(logits, labels, 1):.2%}, top-5 {accuracy.top_k(logits, labels, 5):.2%}"
    )


if __name__ == "__main__":
    program.run(evaluate)
