"""Exports a Keras model to a .tflite file, whose FBS layers compute their winning channels only.

    python scripts/export_tflite.py --model runs/fbs/model.keras --output fbs.tflite --verify
    python scripts/export_tflite.py --model runs/fbs/model.keras --output int8.tflite --quantize dynamic_int8 --verify
    python scripts/export_tflite.py --model runs/fbs/model.keras --explain

What cannot be exported ends with exit code 1 and a line that says why.
"""

from absl import flags

from _fbs_scripts import program

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "The .keras or .h5 file to export.", required=True)
flags.DEFINE_string("output", None, "The .tflite file to write.")
flags.DEFINE_string("target", "portable", "What FBS layers become: portable, builtin or custom.")
flags.DEFINE_string("quantize", None, "How weights are stored: float16 or dynamic_int8. Defaults to float32.")
flags.DEFINE_integer("batch_size", 1, "The file's batch size.")
flags.DEFINE_bool("verify", False, "Compare the file with the Keras model on random inputs.")
flags.DEFINE_bool(
    "explain", False, "Print how each layer is exported, and why tensors become dense; needs no --output."
)


def export():
    program.start_tensorflow()
    from fbs_keras import export

    if FLAGS.output is None and not FLAGS.explain:
        raise ValueError("expected --output or --explain, got neither")
    model = export.load(FLAGS.model)
    if FLAGS.explain:
        print(export.explain(model, batch_size=FLAGS.batch_size))
    if FLAGS.output is None:
        return
    content = export.convert(
        model, FLAGS.output, target=FLAGS.target, quantize=FLAGS.quantize, batch_size=FLAGS.batch_size
    )
    print(
        f"{FLAGS.output}: {len(content) / 1e6:.2f} MB, {FLAGS.quantize or 'float32'}, target {FLAGS.target}, "
        f"batch size {FLAGS.batch_size}"
    )
    if FLAGS.target == "custom":
        print("It needs the delegate: use fbs_keras.Interpreter, or load the library at fbs_keras.delegate_path().")
    if FLAGS.verify:
        # With the file, not with `model`: what is exported is a copy where the file computes in half precision.
        print(f"verified: {export.verify(FLAGS.model, content)}")


if __name__ == "__main__":
    program.run(export)
