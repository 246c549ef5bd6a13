"""Averages the weights of models that were trained one from the other: more accurate than each, at no cost.

    python scripts/average.py --model runs/first/model.keras --model runs/second/model.keras --output model.keras

Between the ends of two cycles of the learning rate the loss is flat, and lower in the middle. The batch norms' moving
averages are averaged like all other weights.

Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018.
"""

from absl import flags

from _fbs_scripts import program

FLAGS = flags.FLAGS
flags.DEFINE_multi_string("model", None, "A .keras file; to be given at least twice.", required=True)
flags.DEFINE_string("output", None, "The .keras file to write.", required=True)


def average():
    """Writes the model whose weights are the means of the models' weights."""
    program.start_tensorflow()
    import numpy as np

    import fbs_keras  # noqa: F401  so that Keras knows its layers when it loads a model

    if len(FLAGS.model) < 2:
        raise ValueError(f"expected --model at least twice, got it once: {FLAGS.model[0]}")
    models = [program.load_model(path) for path in FLAGS.model]
    first = models[0]
    for path, model in zip(FLAGS.model, models, strict=True):
        if shapes(model) != shapes(first):
            raise ValueError(
                f"{path} has other weights than {FLAGS.model[0]}; expected one to be trained from the other"
            )
    weights = zip(*(model.get_weights() for model in models), strict=True)
    first.set_weights([np.mean(values, axis=0) for values in weights])
    program.save_model(first, FLAGS.output)
    print(f"saved {FLAGS.output}: the mean of {len(models)} models")


def shapes(model):
    """The names and shapes of a model's weights."""
    return [(weight.path, tuple(weight.shape)) for weight in model.weights]


if __name__ == "__main__":
    program.run(average)
