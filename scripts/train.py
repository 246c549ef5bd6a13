"""Trains a dense model, or an FBS model made from a trained one, on any TFDS image classification data set.

    python scripts/train.py --epochs 40 --run_dir runs/dense
    python scripts/train.py --pretrained runs/dense/model.keras --density 0.5 --epochs 30 --run_dir runs/fbs

Every epoch ends with a checkpoint in --run_dir; the same command with --resume goes on from there, to the same model as
without the interruption, as order, augmentation and dropout follow from --seed and the epoch. `model.keras` is the
trained model, `history.csv` its curve, and `tensorboard --logdir runs` shows both as they grow. ImageNet, and training
on several devices: docs/imagenet.md.
"""

import csv
import dataclasses
import io
import os
import pathlib

from absl import flags

from _fbs_scripts import distribution, program

FLAGS = flags.FLAGS
flags.DEFINE_string("dataset", "cifar10", "Name of a TFDS image classification data set.")
flags.DEFINE_string("data_dir", None, "TFDS data directory. Defaults to TFDS_DATA_DIR, else ./data.")
flags.DEFINE_string("train_split", "train", "Split to train on, such as train or train[:90%].")
flags.DEFINE_string(
    "eval_split", None, "Split to evaluate on after each epoch. Defaults to validation if there is one, else test."
)
flags.DEFINE_integer(
    "image_size", None, "Height and width. Defaults to the images' own, or 224 where they vary in size."
)
flags.DEFINE_string(
    "model",
    "MCifarNet",
    "A model of fbs_keras.models or keras.applications to train from scratch, when --pretrained is not given.",
)
flags.DEFINE_string(
    "pretrained",
    None,
    "A .keras file to start from. With --density or --macs_saving it is wrapped, unless it has FBS layers already.",
)
flags.DEFINE_float(
    "density", None, "Wrap the model and train it to this density, in (0, 1]. Default: train it as it is."
)
flags.DEFINE_list(
    "densities", [], "Densities of single layers, by name or pattern, before --density's: conv0=0.25,conv7=0.2."
)
flags.DEFINE_float("macs_saving", None, "Or to the highest density at which it needs so many times fewer MACs.")
flags.DEFINE_enum("schedule", "stepdown", ["constant", "stepdown", "polynomial"], "How the density falls from 1.")
flags.DEFINE_integer("density_epochs", None, "Epochs until the density is reached. Defaults to half of --epochs.")
flags.DEFINE_enum("gates", "learnt", ["learnt", "random"], "Random gates are a control: what are learnt ones worth?")
flags.DEFINE_enum(
    "init",
    "preserve",
    ["preserve", "paper", "fit"],
    "How fbs_keras.wrap starts the gates, or that fbs_keras.fit_gates fits them to some training images.",
)
flags.DEFINE_float(
    "remove_unused", None, "Take the channels away first that a trained FBS model uses for a smaller share of images."
)
flags.DEFINE_integer("group_size", 1, "Winners are whole groups of so many neighbouring channels.", lower_bound=1)
flags.DEFINE_integer("round_channels", 1, "The number of winners is rounded up to a multiple of this.", lower_bound=1)
flags.DEFINE_float("saliency_weight", 1e-8, "Weight (lambda) of the gates' L1 regularisation.")
flags.DEFINE_float("slimming_weight", None, "Weight of the L1 penalty on batch norms' gammas, before fbs_keras.slim.")
flags.DEFINE_integer("epochs", 40, "Epochs to train.")
flags.DEFINE_integer("batch_size", 128, "Batch size, that of all devices together.")
flags.DEFINE_float("learning_rate", 0.1, "Highest learning rate; it rises from 0, then falls to 0 as a cosine.")
flags.DEFINE_float("warmup_epochs", 1, "Epochs in which the learning rate rises, a fifth of --epochs at most.")
flags.DEFINE_float(
    "weight_decay",
    None,
    "L2 weight of convolutions' and dense layers' kernels. Default: the model's own, 1e-4 in fbs_keras.models, none in "
    "keras.applications.",
)
flags.DEFINE_float(
    "dropout", None, "Rate of the model's dropout layers, in [0, 1). Default: the model's own, 0.5 in MCifarNet."
)
flags.DEFINE_string("teacher", None, "A .keras file whose probabilities are learnt too, such as the dense model's.")
flags.DEFINE_float("teacher_weight", 0.5, "The teacher's share of the labels.", lower_bound=0.0, upper_bound=1.0)
flags.DEFINE_float("label_smoothing", 0, "Share of a label's probability that is spread over all classes.")
flags.DEFINE_float(
    "ema", None, "Evaluate and save a moving average of the weights, with this momentum, such as 0.9999. Default: none."
)
flags.DEFINE_string("dtype_policy", "float32", "Keras dtype policy, such as mixed_bfloat16.")
flags.DEFINE_integer("seed", 0, "Seed of weights, shuffling and augmentation.")
flags.DEFINE_integer("steps_per_epoch", None, "Steps of an epoch, for a quick try. Default: all images once.")
flags.DEFINE_bool("distribute", False, "Train on all devices of this machine, or of several: docs/imagenet.md.")
flags.DEFINE_string("run_dir", None, "Folder of checkpoints, curve and model.", required=True)
flags.DEFINE_bool("resume", False, "Go on from the last checkpoint in --run_dir, if there is one.")

CHECKPOINTS = ("last.keras", "previous.keras")


def with_fbs():
    """Whether the flags ask for FBS layers."""
    if FLAGS.density is not None and FLAGS.macs_saving is not None:
        raise ValueError("expected one of --density and --macs_saving, got both")
    if FLAGS.densities and FLAGS.density is None:
        raise ValueError("--densities needs --density, that of the other layers")
    return FLAGS.density is not None or FLAGS.macs_saving is not None


def fbs_callbacks(model):
    """The callbacks that lower the density, if the flags say so, and weigh the gates."""
    import fbs_keras

    regularizer = fbs_keras.SaliencyRegularizer(FLAGS.saliency_weight, print_fn=print)
    if not with_fbs():
        return [regularizer]
    density = wanted_density() if FLAGS.macs_saving is None else fbs_keras.density_for_macs(model, FLAGS.macs_saving)
    epochs = FLAGS.epochs // 2 if FLAGS.density_epochs is None else FLAGS.density_epochs
    if lowest(density) < 1 and FLAGS.schedule != "constant" and not 0 < epochs < FLAGS.epochs:
        raise ValueError(f"--density_epochs must be in [1, --epochs), to reach the density in time, got {epochs}")
    schedule = density_schedule(FLAGS.schedule, density, epochs)
    return [fbs_keras.DensityScheduler(schedule), regularizer]


def wanted_density():
    """What `--density` and `--densities` ask for, as `fbs_keras.set_density` takes it."""
    if not FLAGS.densities:
        return FLAGS.density
    layers = {}
    for text in FLAGS.densities:
        name, _, value = text.partition("=")
        try:
            layers[name] = float(value)
        except ValueError:
            raise ValueError(f"--densities must be a list of name=density, got {text!r}") from None
    return {"*": FLAGS.density, **layers}


def lowest(density):
    """The lowest of one or several densities, checked."""
    from fbs_keras.layers.gating import check_density

    return min(map(check_density, density.values())) if isinstance(density, dict) else check_density(density)


def density_schedule(name, density, epochs):
    """The schedule that `--schedule` names, from epoch to density."""
    from fbs_keras.training import schedules

    fall = 1 - lowest(density)
    if name == "constant" or not fall:
        return schedules.Constant(density)
    if name == "polynomial":
        return schedules.Polynomial(density, finish=epochs)
    drops = min(epochs, max(1, round(fall / 0.1)))
    return schedules.StepDown(density, drop=fall / drops, every=max(1, epochs // drops))


def some_images():
    """Some 4,000 training images as they are, in batches: enough to fit gates of some hundred inputs to."""
    from fbs_keras import data

    part = data.load(
        FLAGS.dataset, FLAGS.train_split, FLAGS.batch_size, data_dir=FLAGS.data_dir, image_size=FLAGS.image_size
    )
    return part.batches.take(-(-4000 // FLAGS.batch_size)).map(lambda images, labels: images)


def make_model(train, steps):
    """Builds and compiles the model that the flags ask for."""
    import keras

    import fbs_keras
    from _fbs_scripts import controls, network
    from fbs_keras.layers.densities import fbs_layers

    if FLAGS.pretrained:
        model = network.with_policy(program.load_model(FLAGS.pretrained), FLAGS.dtype_policy)
    else:
        model = network.by_name(FLAGS.model, train.image_shape, train.classes)
    if FLAGS.weight_decay is not None:
        model = network.with_weight_decay(model, FLAGS.weight_decay)
    if FLAGS.dropout is not None:
        model = network.with_dropout(model, FLAGS.dropout)
    if with_fbs() and not fbs_layers(model):
        model = fbs_keras.wrap(
            model,
            init="preserve" if FLAGS.init == "fit" else FLAGS.init,
            group_size=FLAGS.group_size,
            round_channels=FLAGS.round_channels,
            print_fn=print,
        )
        if FLAGS.init == "fit":
            fbs_keras.fit_gates(model, some_images(), print_fn=print)
    if FLAGS.remove_unused is not None:
        model = fbs_keras.remove_unused(model, FLAGS.remove_unused, print_fn=print)
    if with_fbs() and FLAGS.gates == "random":
        model = controls.with_random_gates(model)
    warmup = min(int(steps * FLAGS.warmup_epochs), steps * FLAGS.epochs // 5)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps * FLAGS.epochs - warmup, warmup_target=FLAGS.learning_rate, warmup_steps=warmup
    )
    average = {} if FLAGS.ema is None else {"use_ema": True, "ema_momentum": FLAGS.ema}
    model.compile(
        # Clipping keeps the first steps of a gate from running away: see docs/design.md.
        keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, global_clipnorm=5.0, **average),
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=FLAGS.label_smoothing),
        metrics=["accuracy", keras.metrics.TopKCategoricalAccuracy(5, name="top5")],
    )
    return model


def checkpoint(run_dir, devices):
    """A callback that saves the model, its optimizer included, at the end of each epoch, and keeps the one before."""
    import keras

    from fbs_keras import files

    last, previous = (run_dir / name for name in CHECKPOINTS)

    def save(epoch, logs):
        with files.replacing(last) as temporary:
            with devices.alone():
                callback.model.save(temporary)
            if last.exists():
                os.replace(last, previous)

    callback = keras.callbacks.LambdaCallback(on_epoch_end=save)
    return callback


def load_checkpoint(run_dir):
    """The model of the last checkpoint that can be read; `None` where there is none at all."""
    damaged = {}
    for path in checkpoints(run_dir):
        try:
            model = program.load_model(path, compile=True)
        except ValueError as error:
            damaged[path] = error
            continue
        for other, reason in damaged.items():
            print(f"{reason}; going on from {path}", flush=True)
            other.unlink(missing_ok=True)  # or the next epoch's would keep it, and drop the good one
        return model
    if damaged:
        reasons = "; ".join(map(str, damaged.values()))
        raise ValueError(f"there is no checkpoint to resume from, train anew in another --run_dir: {reasons}")
    return None


def checkpoints(run_dir):
    """The checkpoints in a folder, the newest first."""
    return [run_dir / name for name in CHECKPOINTS if (run_dir / name).exists()]


def epochs_done(model, steps):
    """How many epochs of `steps` steps a model was trained."""
    done, rest = divmod(int(model.optimizer.iterations.numpy()), steps)
    if rest or done > FLAGS.epochs:
        raise ValueError(
            f"the checkpoint was trained for {done * steps + rest} steps, which are no epochs of {steps} or more than "
            f"--epochs={FLAGS.epochs}: resume with the flags of the interrupted run"
        )
    return done


def same_dropout(seed):
    """A callback that makes each epoch's dropout follow from the seed and the epoch, as Keras saves no such state."""
    import keras
    import numpy as np

    def begin(epoch, logs):
        states = [each for each in callback.model.variables if each.path.endswith("seed_generator_state")]
        for number, state in enumerate(states):
            drawn = np.random.SeedSequence([seed, epoch, number]).generate_state(2) >> 1  # below 2**31
            state.assign(drawn.astype(state.dtype))

    callback = keras.callbacks.LambdaCallback(on_epoch_begin=begin)
    return callback


def uncompiled(model):
    """A copy without optimizer, whose state would double the file."""
    from fbs_keras.graph.rewriting import rewrite

    return rewrite(model, lambda layer: None)[0]


def cut_history(history, epochs):
    """Drops what the curve says of later epochs, as a run may stop between writing it and the checkpoint.

    What a full disk or a crash has spoilt is dropped too, and reported: the rows after it would not fit.
    """
    from fbs_keras import files

    if not epochs or not history.exists():
        return
    text = history.read_text(encoding="utf-8", errors="replace")
    rows = list(csv.reader(io.StringIO(text.replace("\0", "\ufffd"))))
    header = rows[0] if rows else []
    good = {int(row[0]): row for row in rows[1:] if len(row) == len(header) and row[0].isdecimal()}
    kept = [good[epoch] for epoch in range(epochs) if epoch in good] if header[:1] == ["epoch"] else []
    if len(kept) < epochs:
        print(f"{history} is damaged: it has {len(kept)} of {epochs} epochs", flush=True)
    output = io.StringIO(newline="")
    csv.writer(output).writerows([header, *kept] if kept else [])
    files.write(history, output.getvalue().encode())


def load_data(devices):
    """The training and the evaluation data that the flags ask for, with one-hot labels, as label smoothing needs."""
    import tensorflow as tf

    from fbs_keras import data

    def load(split, training, seed=None):
        part = data.load(
            FLAGS.dataset,
            split if training and devices.processes == 1 else devices.part(split),
            devices.batch_size(FLAGS.batch_size),
            data_dir=FLAGS.data_dir,
            image_size=FLAGS.image_size,
            training=training,
            seed=seed,
        )

        def one_hot(batches):
            return batches.map(lambda images, labels: (images, tf.one_hot(labels, part.classes)))

        stream = part.from_epoch
        from_epoch = stream and (lambda *epoch_and_steps: one_hot(stream(*epoch_and_steps)))
        return dataclasses.replace(part, batches=one_hot(part.batches), from_epoch=from_epoch)

    eval_split = FLAGS.eval_split or data.evaluation_split(FLAGS.dataset, FLAGS.data_dir)
    return load(FLAGS.train_split, True, FLAGS.seed + devices.process), load(eval_split, False)


def soft_labels(batches):
    """The training batches, with labels that the teacher has a share in."""
    from _fbs_scripts import distillation, network

    teacher = network.with_policy(program.load_model(FLAGS.teacher), FLAGS.dtype_policy)
    return distillation.SoftLabels(batches, teacher, FLAGS.teacher_weight)


def train():
    """Trains as the flags say."""
    run_dir = pathlib.Path(FLAGS.run_dir)
    history = run_dir / "history.csv"
    if checkpoints(run_dir) and not FLAGS.resume:
        raise ValueError(
            f"{checkpoints(run_dir)[0]} exists: add --resume to go on with it, or choose another --run_dir"
        )
    program.start_tensorflow()  # which reads the data, whatever backend trains
    import keras
    import tensorflow as tf

    import fbs_keras
    from _fbs_scripts import controls  # noqa: F401  so that Keras knows its layer when it loads a model
    from fbs_keras.graph.rewriting import as_float32
    from fbs_keras.layers.densities import fbs_layers

    devices = distribution.all_devices() if FLAGS.distribute else distribution.Devices()
    keras.utils.set_random_seed(FLAGS.seed)
    tf.random.set_seed(FLAGS.seed)  # the data's; Keras does that on TensorFlow only
    keras.config.set_dtype_policy(FLAGS.dtype_policy)
    train, test = load_data(devices)
    steps = FLAGS.steps_per_epoch or train.steps
    with devices.scope():
        model = load_checkpoint(run_dir)
        if model is None:
            model = make_model(train, steps)
    callbacks = fbs_callbacks(model) if fbs_layers(model) else []
    if FLAGS.slimming_weight is not None:
        callbacks.append(fbs_keras.SlimmingRegularizer(FLAGS.slimming_weight, print_fn=print))
    if FLAGS.ema is not None:
        callbacks.append(keras.callbacks.SwapEMAWeights())  # while it evaluates; fit ends with the average
    callbacks.append(same_dropout(FLAGS.seed))
    start = epochs_done(model, steps)
    if start:
        print(f"resuming after epoch {start}")
    if devices.chief:
        run_dir.mkdir(parents=True, exist_ok=True)
        for half in run_dir.glob("*.tmp.keras"):
            half.unlink()  # a run was killed as it wrote them
        cut_history(history, start)
        callbacks += [
            keras.callbacks.CSVLogger(history, append=start > 0),
            keras.callbacks.TensorBoard(run_dir / "tensorboard"),
            checkpoint(run_dir, devices),
        ]
    batches = train.from_epoch(start, steps)
    try:
        model.fit(
            batches if FLAGS.teacher is None else iter(soft_labels(batches)),
            epochs=FLAGS.epochs,
            initial_epoch=start,
            steps_per_epoch=steps,
            shuffle=False,  # the batches come shuffled
            validation_data=test.batches,
            callbacks=callbacks,
            verbose="auto" if devices.chief else 0,
        )
    except KeyboardInterrupt:
        print(f"\nstopped; the same command with --resume goes on after the last epoch in {history}", flush=True)
        raise
    if devices.chief:
        with devices.alone():
            program.save_model(uncompiled(as_float32(model)), run_dir / "model.keras")
        print(f"saved {run_dir / 'model.keras'}")


if __name__ == "__main__":
    program.run(train)
