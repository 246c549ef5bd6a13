"""The networks that scripts/train.py can train from scratch."""

import keras

from fbs_keras import graph, models
from fbs_keras.graph import copying, rewriting


def by_name(name, input_shape, classes):
    """The model that `--model` names, with random weights, from normalised images to logits."""
    if name in models.__all__:
        return getattr(models, name)(input_shape=input_shape, classes=classes)
    make = getattr(keras.applications, name, None)
    if not callable(make):
        ours = ", ".join(models.__all__)
        raise ValueError(f"--model must be one of {ours}, or a model of keras.applications, got {name!r}")
    model = make(weights=None, input_shape=input_shape, classes=classes, classifier_activation=None)
    # Some scale pixels of 0 to 255 themselves, but ours are normalised already.
    kinds = (keras.layers.Rescaling, keras.layers.Normalization)
    scaling = [layer for layer in model.layers if isinstance(layer, kinds)]
    return rewriting.rewrite(model, lambda layer: None, skip=scaling)[0]


def with_weight_decay(model, weight):
    """A copy of a model whose kernels, but for the depthwise ones, have this L2 weight."""
    return _with_config(model, "kernel_regularizer", keras.regularizers.L2(weight))


def with_dropout(model, rate):
    """A copy of a model whose dropout layers have this rate."""
    return _with_config(model, "rate", rate, keras.layers.Dropout)


def with_policy(model, policy):
    """A copy of a saved model that computes as a dtype policy says, but for float32 outputs, which the loss wants."""
    outputs = {ref.layer for ref in graph.refs(graph.flatten(model).outputs)}

    def make(layer):
        if layer.name in outputs or layer.dtype_policy.name != "float32":
            return None
        return copying.remake(layer, dtype=policy)

    return rewriting.replace(model, make)


def _with_config(model, key, value, kind=keras.layers.Layer):
    def make(layer):
        if not isinstance(layer, kind) or key not in layer.get_config():
            return None
        return copying.remake(layer, **{key: value})

    return rewriting.replace(model, make)
