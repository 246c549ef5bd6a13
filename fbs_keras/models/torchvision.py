"""Gives a Keras model the weights of torchvision's model of the same architecture."""

import os

import keras

from fbs_keras.models.state_dict import read_state_dict

EPSILON = 1e-5  # of PyTorch's batch norm; Keras's is 1e-3


def load_weights(model, path, names, top):
    """Assigns the tensors of a state dict to the layers of a model; all are checked before the first is assigned.

    Kernels `[out, in, h, w]` become `[h, w, in, out]`, matrices are transposed, and where a feature map is flattened in
    between, their rows go from PyTorch's order, channels first, to Keras's.

    Args:
        model: A Keras model, channels last.
        path: A `.pth` or `.safetensors` file; see `state_dict.read_state_dict`.
        names: `{layer name: name of the PyTorch module}`, layers without weights left out.
        top: What the names of the classifier's tensors start with: they are ignored in a model without classifier.

    Raises:
        TypeError: If `path` is no path.
        OSError: If the file cannot be opened.
        ValueError: If it holds other tensors than the model's, or of other shapes.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"weights must be the path of a .pth or .safetensors file, got {path!r}")
    tensors = read_state_dict(path)
    wanted = {}  # by the tensor's name: (shape in the file, what makes it Keras's, variable)
    flattened = None  # the shape of the feature map that a Flatten handed to the next Dense
    for layer in model.layers:
        if isinstance(layer, keras.layers.Flatten):
            flattened = layer.input.shape[1:]
        for suffix, *rest in _weights(layer, flattened) if layer.name in names else ():
            wanted[f"{names[layer.name]}.{suffix}"] = rest
        if isinstance(layer, keras.layers.Dense):
            flattened = None
    _check(tensors, wanted, f"{os.fspath(path)!r} does not fit model {model.name!r}", top)
    for name, (_, convert, variable) in wanted.items():
        variable.assign(convert(tensors[name].read()))


def _weights(layer, flattened):
    """Yields `(name in PyTorch, shape there, what makes it Keras's, variable)` for the weights of a layer."""

    def same(array):
        return array

    if isinstance(layer, keras.layers.BatchNormalization):
        norm = {
            "weight": layer.gamma,
            "bias": layer.beta,
            "running_mean": layer.moving_mean,
            "running_var": layer.moving_variance,
        }
        for name, variable in norm.items():
            yield name, tuple(variable.shape), same, variable
        return
    kernel = tuple(layer.kernel.shape)
    if isinstance(layer, keras.layers.Dense):
        inputs, outputs = kernel

        def transposed(matrix):
            if flattened is None:
                return matrix.T
            height, width, channels = flattened
            return matrix.reshape(outputs, channels, height, width).transpose(2, 3, 1, 0).reshape(inputs, outputs)

        yield "weight", (outputs, inputs), transposed, layer.kernel
    else:
        height, width, channels, filters = kernel
        yield "weight", (filters, channels, height, width), lambda array: array.transpose(2, 3, 1, 0), layer.kernel
    if layer.use_bias:
        yield "bias", tuple(layer.bias.shape), same, layer.bias


def _check(tensors, wanted, problem, top):
    """Raises unless the file holds exactly what is wanted, in the right shapes."""
    ignored = ("num_batches_tracked",)  # of batch norm; only its training reads it
    has_top = any(name.startswith(top) for name in wanted)
    missing = [name for name in wanted if name not in tensors]
    unexpected = [
        name
        for name in tensors
        if name not in wanted and not name.endswith(ignored) and (has_top or not name.startswith(top))
    ]
    if missing or unexpected:
        lacks = f"it lacks {missing[0]!r} ({len(missing)} missing)" if missing else ""
        holds = f"it holds {unexpected[0]!r} ({len(unexpected)} unexpected)" if unexpected else ""
        raise ValueError(f"{problem}: {' and '.join(filter(None, (lacks, holds)))}")
    for name, (shape, _, _) in wanted.items():
        if tensors[name].shape != shape:
            hint = "; include_top=False leaves the classifier out" if name.startswith(top) else ""
            raise ValueError(f"{problem}: {name!r} has shape {tensors[name].shape}, expected {shape}{hint}")
