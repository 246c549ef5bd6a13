"""Prunes single weights of a trained Keras model by magnitude with tfmot, as a baseline for FBS.

    python scripts/prune_magnitude.py --model runs/dense/model.keras --sparsity 0.75 --epochs 2 --run_dir runs/tfmot

tfmot knows Keras 2 only, so the model is rebuilt in `tf_keras`: Sequential or chain-like models of convolutions, batch
norms, ReLUs, dropout, pooling, flattening and dense layers. Writes `model.keras`, the pruned model in Keras 3.
"""

import os
import pathlib

import numpy as np
from absl import flags

from _fbs_scripts import program

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "The trained .keras file.", required=True)
flags.DEFINE_float("sparsity", None, "Share of each convolution's weights that is pruned, in (0, 1).", required=True)
flags.DEFINE_integer("epochs", 2, "Epochs to train.")
flags.DEFINE_integer("batch_size", 128, "Batch size.")
flags.DEFINE_float("learning_rate", 0.02, "Highest learning rate; it falls to 0 as a cosine.")
flags.DEFINE_float("label_smoothing", 0, "Share of a label's probability that is spread over all classes.")
flags.DEFINE_string("dtype_policy", "float32", "Keras dtype policy, such as mixed_bfloat16.")
flags.DEFINE_string("dataset", "cifar10", "Name of a TFDS image classification data set.")
flags.DEFINE_string("data_dir", None, "TFDS data directory. Defaults to TFDS_DATA_DIR, else ./data.")
flags.DEFINE_string("train_split", "train", "Split to train on.")
flags.DEFINE_integer("steps_per_epoch", None, "Stop each epoch after so many steps, for a quick try.")
flags.DEFINE_string("run_dir", None, "Folder of the pruned model.", required=True)

# What each layer's copy takes from its config; the rest is the default in both.
SETTINGS = {
    "Conv2D": ("filters", "kernel_size", "strides", "padding", "use_bias"),
    "Dense": ("units", "use_bias"),
    "BatchNormalization": ("epsilon", "momentum"),
    "ReLU": (),
    "Dropout": ("rate",),
    "MaxPooling2D": ("pool_size", "strides", "padding"),
    "GlobalAveragePooling2D": ("keepdims",),
    "Flatten": (),
}


def in_tf_keras(model, wrap):
    """The same model in Keras 2, where it is a chain of layers that `SETTINGS` knows, each passed through `wrap`."""
    import keras
    import tf_keras

    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    copies = []
    for layer in layers:
        kind = type(layer).__name__
        if kind not in SETTINGS:
            raise ValueError(f"expected layers of {', '.join(SETTINGS)}, got {layer.name!r}, a {kind}")
        config = layer.get_config()
        settings = {name: config[name] for name in SETTINGS[kind]}
        if getattr(layer, "kernel_regularizer", None) is not None:
            settings["kernel_regularizer"] = tf_keras.regularizers.L2(float(layer.kernel_regularizer.l2))
        copies.append(getattr(tf_keras.layers, kind)(**settings, name=layer.name))
    copy = tf_keras.Sequential([tf_keras.layers.InputLayer(model.input_shape[1:]), *map(wrap, copies)])
    for layer, new in zip(layers, copies, strict=True):
        new.set_weights(layer.get_weights())
    return copy


def prune():
    """Prunes as the flags say."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"  # tfmot asks for it
    program.start_tensorflow()
    import keras
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot
    import tf_keras

    from fbs_keras import data

    if not 0 < FLAGS.sparsity < 1:
        raise ValueError(f"--sparsity must be in (0, 1), got {FLAGS.sparsity}")
    keras.utils.set_random_seed(0)
    tf_keras.mixed_precision.set_global_policy(FLAGS.dtype_policy)
    model = program.load_model(FLAGS.model)
    train = data.load(
        FLAGS.dataset, FLAGS.train_split, FLAGS.batch_size, data_dir=FLAGS.data_dir, training=True, seed=0
    )
    batches = train.batches.map(lambda images, labels: (images, tf.one_hot(labels, train.classes)))
    steps = FLAGS.steps_per_epoch or train.steps
    last = [layer.name for layer in model.layers if hasattr(layer, "kernel")][-1]  # left alone, as by FBS
    schedule = tfmot.sparsity.keras.ConstantSparsity(FLAGS.sparsity, begin_step=0, frequency=min(50, steps))

    def wrap(layer):
        if isinstance(layer, tf_keras.layers.Conv2D) and layer.name != last:
            return tfmot.sparsity.keras.prune_low_magnitude(layer, schedule)
        return layer

    pruned = in_tf_keras(model, wrap)
    pruned.compile(
        tf_keras.optimizers.legacy.SGD(
            tf_keras.optimizers.schedules.CosineDecay(FLAGS.learning_rate, FLAGS.epochs * steps),
            momentum=0.9,
            nesterov=True,
        ),
        tf_keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=FLAGS.label_smoothing),
        metrics=["accuracy"],
    )
    pruning = tfmot.sparsity.keras.UpdatePruningStep()
    pruned.fit(batches.repeat(), epochs=FLAGS.epochs, steps_per_epoch=steps, callbacks=[pruning])
    stripped = tfmot.sparsity.keras.strip_pruning(pruned)
    model.set_weights(stripped.get_weights())
    zeros = [float(np.mean(layer.kernel.numpy() == 0)) for layer in model.layers if hasattr(layer, "kernel")]
    print(f"zeros in each kernel: {', '.join(f'{share:.1%}' for share in zeros)}")
    folder = pathlib.Path(FLAGS.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    program.save_model(model, folder / "model.keras")
    print(f"saved {folder / 'model.keras'}")


if __name__ == "__main__":
    program.run(prune)
