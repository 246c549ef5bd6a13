"""Trains a dense model, or an FBS model made from a trained one, on any TFDS image classification data set.

    python scripts/train.py --epochs 40 --run_dir runs/dense
    python scripts/train.py --pretrained runs/dense/model.keras --density 0.5 --epochs 30 --run_dir runs/fbs

Every epoch ends with a checkpoint in --run_dir; the same command with --resume goes on from there. `model.keras` is the
trained model, `history.csv` its curve, and `tensorboard --logdir runs` shows both as they grow.
"""

import os
import pathlib

import program
from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_string("dataset", "cifar10", "Name of a TFDS image classification data set.")
flags.DEFINE_string("data_dir", None, "TFDS data directory. Defaults to TFDS_DATA_DIR, else ./data.")
flags.DEFINE_string("train_split", "train", "Split to train on, such as train or train[:90%].")
flags.DEFINE_string("eval_split", "test", "Split to evaluate on after each epoch; imagenet2012 has validation.")
flags.DEFINE_string(
    "model", "MCifarNet", "A model of fbs_keras.models to train from scratch, when --pretrained is not given."
)
flags.DEFINE_string("pretrained", None, "A .keras file to start from; it is wrapped when --density is given.")
flags.DEFINE_float(
    "density", None, "Wrap the model and train it to this density, in (0, 1]. Default: train it as it is."
)
flags.DEFINE_enum("schedule", "stepdown", ["constant", "stepdown", "polynomial"], "How the density falls from 1.")
flags.DEFINE_integer("density_epochs", None, "Epochs until the density is reached. Defaults to half of --epochs.")
flags.DEFINE_enum("init", "preserve", ["preserve", "paper"], "How fbs_keras.wrap starts the gates.")
flags.DEFINE_integer("group_size", 1, "Winners are whole groups of so many neighbouring channels.", lower_bound=1)
flags.DEFINE_integer("round_channels", 1, "The number of winners is rounded up to a multiple of this.", lower_bound=1)
flags.DEFINE_float("saliency_weight", 1e-8, "Weight (lambda) of the gates' L1 regularisation.")
flags.DEFINE_float("gamma_l1", None, "Weight of the L1 penalty on gammas, 1e-5 say, for scripts/slim.py later.")
flags.DEFINE_integer("epochs", 40, "Epochs to train.")
flags.DEFINE_integer("batch_size", 128, "Batch size.")
flags.DEFINE_float("learning_rate", 0.1, "Highest learning rate; it rises for an epoch, then falls to 0 as a cosine.")
flags.DEFINE_string("dtype_policy", "float32", "Keras dtype policy, such as mixed_bfloat16.")
flags.DEFINE_integer("seed", 0, "Seed of weights, shuffling and augmentation.")
flags.DEFINE_integer("steps_per_epoch", None, "Stop each epoch after so many steps, for a quick try.")
flags.DEFINE_string("run_dir", None, "Folder of checkpoints, curve and model.", required=True)
flags.DEFINE_bool("resume", False, "Go on from the last checkpoint in --run_dir.")


def fbs_callbacks():
    """The callbacks that lower the density and weigh the gates, as the flags say."""
    import fbs_keras

    epochs = FLAGS.epochs // 2 if FLAGS.density_epochs is None else FLAGS.density_epochs
    if FLAGS.density < 1 and FLAGS.schedule != "constant" and not 0 < epochs < FLAGS.epochs:
        raise ValueError(f"--density_epochs must be in [1, --epochs), to reach --density in time, got {epochs}")
    schedule = density_schedule(FLAGS.schedule, FLAGS.density, epochs)
    return [
        fbs_keras.DensityScheduler(schedule),
        fbs_keras.SaliencyRegularizer(FLAGS.saliency_weight, print_fn=print),
    ]


def density_schedule(name, density, epochs):
    """The schedule that `--schedule` names, from epoch to density."""
    from fbs_keras import schedules
    from fbs_keras.gating import check_density

    if name == "constant" or density == 1:
        return schedules.Constant(density)
    if name == "polynomial":
        return schedules.Polynomial(density, finish=epochs)
    check_density(density)
    drops = min(epochs, max(1, round((1 - density) / 0.1)))
    return schedules.StepDown(density, drop=(1 - density) / drops, every=max(1, epochs // drops))


def make_model(train, steps):
    """Builds and compiles the model that the flags ask for."""
    import keras

    import fbs_keras

    if FLAGS.pretrained:
        model = keras.saving.load_model(FLAGS.pretrained, compile=False)
    else:
        make = getattr(fbs_keras.models, FLAGS.model, None)
        if make is None:
            raise ValueError(f"--model must be one of {', '.join(fbs_keras.models.__all__)}, got {FLAGS.model!r}")
        model = make(input_shape=train.image_shape, classes=train.classes)
    if FLAGS.density is not None:
        model = fbs_keras.wrap(
            model,
            init=FLAGS.init,
            group_size=FLAGS.group_size,
            round_channels=FLAGS.round_channels,
            print_fn=print,
        )
    warmup = min(steps, steps * FLAGS.epochs // 5)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps * FLAGS.epochs - warmup, warmup_target=FLAGS.learning_rate, warmup_steps=warmup
    )
    model.compile(
        # Clipping keeps the first steps of a gate from running away: see docs/design.md.
        keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, global_clipnorm=5.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(5, name="top5")],
    )
    return model


def checkpoint(path):
    """A callback that saves the model, its optimizer included, at the end of each epoch; never half a file."""
    import keras

    def save(epoch, logs):
        temporary = path.with_name("saving.keras")
        callback.model.save(temporary)
        os.replace(temporary, path)

    callback = keras.callbacks.LambdaCallback(on_epoch_end=save)
    return callback


def uncompiled(model):
    """A copy without optimizer, whose state would double the file."""
    from fbs_keras.rewriting import rewrite

    return rewrite(model, lambda layer: None)[0]


def cut_history(history, epochs):
    """Drops what the curve says of later epochs: a run may stop between writing the curve and the checkpoint."""
    lines = history.read_text().splitlines(keepends=True) if history.exists() else []
    history.write_text("".join(lines[: epochs + 1]))  # the header and a line for each epoch


def train():
    """Trains as the flags say."""
    program.start_tensorflow()  # which reads the data, whatever backend trains
    import keras

    import fbs_keras
    from fbs_keras import data
    from fbs_keras.rewriting import as_float32

    keras.utils.set_random_seed(FLAGS.seed)
    run_dir = pathlib.Path(FLAGS.run_dir)
    last, history = run_dir / "last.keras", run_dir / "history.csv"
    if last.exists() and not FLAGS.resume:
        raise ValueError(f"{last} exists: add --resume to go on with it, or choose another --run_dir")
    callbacks = fbs_callbacks() if FLAGS.density is not None else []
    if FLAGS.gamma_l1 is not None:
        callbacks.append(fbs_keras.SlimmingRegularizer(FLAGS.gamma_l1, print_fn=print))
    keras.config.set_dtype_policy(FLAGS.dtype_policy)
    load = {"batch_size": FLAGS.batch_size, "data_dir": FLAGS.data_dir, "seed": FLAGS.seed}
    train = data.load(FLAGS.dataset, FLAGS.train_split, training=True, **load)
    test = data.load(FLAGS.dataset, FLAGS.eval_split, **load)
    steps = FLAGS.steps_per_epoch or train.steps
    if last.exists():
        model = keras.saving.load_model(last)
        start = int(model.optimizer.iterations) // steps
        cut_history(history, start)
        print(f"resuming after epoch {start}")
    else:
        model, start = make_model(train, steps), 0
    run_dir.mkdir(parents=True, exist_ok=True)
    callbacks += [
        keras.callbacks.CSVLogger(history, append=start > 0),
        keras.callbacks.TensorBoard(run_dir / "tensorboard"),
        checkpoint(last),
    ]
    model.fit(
        train.batches,
        epochs=FLAGS.epochs,
        initial_epoch=start,
        steps_per_epoch=FLAGS.steps_per_epoch,
        validation_data=test.batches,
        callbacks=callbacks,
    )
    uncompiled(as_float32(model)).save(run_dir / "model.keras")
    print(f"saved {run_dir / 'model.keras'}")


if __name__ == "__main__":
    program.run(train)
