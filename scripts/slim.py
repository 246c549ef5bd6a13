"""Removes the channels of a trained Keras model that its batch norms scale to almost nothing (network slimming).

    python scripts/train.py --slimming_weight 1e-5 --run_dir runs/ns
    python scripts/slim.py --model runs/ns/model.keras --keep 0.6 --output runs/ns/slim.keras
    python scripts/train.py --pretrained runs/ns/slim.keras --learning_rate 0.01 --run_dir runs/slim

Prints how many channels of each layer stay, and the MACs before and after.
"""

from absl import flags

from _fbs_scripts import program

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "The .keras file to slim.", required=True)
flags.DEFINE_string("output", None, "The .keras file to write. Default: only print.")
flags.DEFINE_float("keep", None, "Keep this fraction of all channels, in (0, 1].")
flags.DEFINE_float("threshold", None, "Or remove the channels with a smaller |gamma|.")
flags.DEFINE_integer("min_channels", 1, "Each layer keeps at least this many channels.", lower_bound=1)


def slim():
    """Slims as the flags say."""
    program.start_tensorflow()
    import fbs_keras
    from fbs_keras.costs.summary import millions

    model = program.load_model(FLAGS.model)
    slimmed = fbs_keras.slim(
        model, FLAGS.keep, threshold=FLAGS.threshold, min_channels=FLAGS.min_channels, print_fn=print
    )
    before, after = fbs_keras.count_macs(model), fbs_keras.count_macs(slimmed)
    print(
        f"MACs {millions(before.dense)} -> {millions(after.dense)} ({before.dense / after.dense:.2f}x fewer), "
        f"parameters {before.parameters:,} -> {after.parameters:,}"
    )
    if FLAGS.output is not None:
        program.save_model(slimmed, FLAGS.output)
        print(f"saved {FLAGS.output}")


if __name__ == "__main__":
    program.run(slim)
