"""Calls of every form after FBS layers: several outputs, structures, keywords, constants, the same tensor twice."""

import keras
import numpy as np
import pytest
import small_models
from keras import layers, ops

import fbs_keras
from fbs_keras.export import convert, explain, verify
from fbs_keras.runtime import Interpreter


class Halves(layers.Layer):
    """Returns two halves of its input in the structure named `form`."""

    def __init__(self, form, **kwargs):
        super().__init__(**kwargs)
        self.form = form

    def call(self, x):
        a, b = ops.split(x, 2, axis=-1)
        forms = {"pair": (a, b), "list": [a, b], "dict": {"z": a, "a": b}, "nested": {"b": (a, {"c": b}), "a": [b - a]}}
        return forms[self.form]

    def get_config(self):
        return {**super().get_config(), "form": self.form}


class Weighted(layers.Layer):
    """Reads tensors by keyword and from structures."""

    def call(self, x, others=None, *, weight=None, scale=1.0):
        x = x * scale
        for other in [] if others is None else keras.tree.flatten(others):
            x = x + other
        return x if weight is None else x * weight


# Each: what is made of `x` `[N, 8, 9, 8]`, compact, `same`, which holds the same channels, `other`, which holds others,
# `dense`, which holds all, and `mask`, x's winners `[N, 8]`.
CALLS = {
    "split": lambda x, **_: ops.split(x, 2, axis=-1),
    "split_sum": lambda x, **_: sum(ops.split(x, 4, axis=-1)),
    "unstack": lambda x, **_: ops.unstack(x, axis=1)[:2],
    "moments": lambda x, **_: ops.moments(x, axes=[1, 2]),
    "top_k": lambda x, **_: ops.top_k(x, 3)[0],
    "split_mask": lambda x, mask, **_: ops.split(mask, 2, axis=-1),
    "pair": lambda x, **_: Halves("pair")(x),
    "list": lambda x, **_: Halves("list")(x),
    "dict": lambda x, **_: list(Halves("dict")(x).values()),
    "nested": lambda x, **_: Halves("nested")(x),
    "keyword": lambda x, same, **_: Weighted()(x, weight=same),
    "structure": lambda x, same, dense, **_: Weighted()(x, {"b": same, "a": [dense]}),
    "none": lambda x, **_: Weighted()(x, None, weight=None),
    "setting": lambda x, **_: Weighted()(x, scale=2.0),
    "twice": lambda x, **_: layers.Add()([x, x]),
    "twice_in_a_product": lambda x, **_: layers.Multiply()([x, x]),
    "twice_joined": lambda x, **_: fbs_keras.FBSConv2D(8, 1, density=0.5)(layers.Concatenate()([x, x])),
    "twice_by_keyword": lambda x, **_: Weighted()(x, [x, x], weight=x),
    "constant_joined": lambda x, **_: fbs_keras.FBSConv2D(8, 1, density=0.5)(
        ops.concatenate([x, np.full((1, 8, 9, 2), 3, "float32")], axis=-1)
    ),
    "constant_added": lambda x, same, **_: layers.Add()([x, same, np.ones((1, 8, 9, 8), "float32")]),
    "constant_maximum": lambda x, **_: ops.maximum(x, 0.5),
    "constants_of_channels": lambda x, **_: ops.multiply(x, np.arange(8, dtype="float32")),
    "where": lambda x, same, dense, **_: ops.where(ops.greater(x, 0.1), dense, same),
    "integers": lambda x, other, **_: [
        ops.concatenate([x, ops.cast(10 * other, "int32")], axis=-1),
        x * ops.cast(10 * layers.GlobalMaxPooling2D(keepdims=True)(x), "int32"),
    ],
    "half": lambda x, **_: fbs_keras.FBSConv2D(8, 1, density=0.5)(ops.cast(x, "float16")),
    "keywords_only": lambda x, other, **_: ops.add(x1=x, x2=other),
    "fbs_by_keyword": lambda x, **_: fbs_keras.FBSConv2D(8, 1, density=0.5)(inputs=x),
    "matmul": lambda x, **_: ops.matmul(x, ops.transpose(x, (0, 1, 3, 2))),
    "einsum": lambda x, mask, **_: ops.einsum("nhwc,nc->nhw", x, mask),
    "mask_twice": lambda mask, **_: [mask * 2.0, layers.Dense(3)(mask), ops.max(mask, axis=-1)],
    "mask_on_image": lambda x, other, mask, **_: other * layers.Reshape((1, 1, 8))(mask),
    "suppressed_twice": lambda x, mask, **_: fbs_keras.Suppress()([fbs_keras.Suppress()([x, mask]), mask]),
    "mean_of_vectors": lambda x, same, **_: layers.Average()(
        [layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(same)]
    ),
}


# Constants of one example: Keras, too, takes them with batches of one only.
OF_ONE_EXAMPLE = {"constant_joined", "constant_added"}


def model_of(names):
    """A model whose outputs are all that the calls return, and how many each returned."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 9, 3))
    x, mask = fbs_keras.FBSConv2D(8, 3, padding="same", density=0.5, return_mask=True)(image)
    tensors = {
        "x": x,
        "mask": mask,
        "same": layers.MaxPooling2D(3, 1, padding="same")(x),
        "other": fbs_keras.FBSConv2D(8, 3, padding="same", density=0.5)(image),
        "dense": layers.Conv2D(8, 1)(image),
    }
    results = [keras.tree.flatten(CALLS[name](**tensors)) for name in names]
    return keras.Model(image, [y for result in results for y in result]), [len(result) for result in results]


@pytest.fixture(scope="module", params=[1, 2], ids="batch{}".format)
def outputs(request):
    """What Keras and the file compute for each call; all are in one model, which is converted once."""
    names = [name for name in CALLS if request.param == 1 or name not in OF_ONE_EXAMPLE]
    model, counts = model_of(names)
    x = small_models.noise(model, request.param)
    content = convert(model, batch_size=request.param)
    results = [small_models.expected(model, x)]
    results += [Interpreter(content, use_delegate=use_delegate).predict(x) for use_delegate in (True, False)]
    ends = np.cumsum(counts)
    return {
        name: [result[end - count : end] for result in results]
        for name, count, end in zip(names, counts, ends, strict=True)
    }


@pytest.mark.parametrize("name", CALLS)
def test_computes_what_keras_does(name, outputs):
    if name not in outputs:
        pytest.skip("a constant of one example")
    expected, *others = outputs[name]
    for got in others:
        for a, b in zip(got, expected, strict=True):
            assert a.shape == b.shape and np.abs(b).max() > 0
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("quantize", [None, "float16", "dynamic_int8"])
def test_a_mask_alone_is_read(quantize):
    """The layer's image has no reader: the runtime gives an op no memory for such an output."""
    image = keras.Input((8, 9, 3))
    _, mask = fbs_keras.FBSConv2D(8, 3, density=0.5, return_mask=True, gate_kernel_initializer="he_normal")(image)
    model = keras.Model(image, mask)
    x = small_models.noise(model)
    content = convert(model, quantize=quantize)
    for use_delegate in (True, False):
        got = Interpreter(content, use_delegate=use_delegate).predict(x[0])
        np.testing.assert_array_equal(got, small_models.expected(model, x)[0])


def test_says_why_constants_make_it_dense():
    model, _ = model_of(["constant_joined"])
    assert "(expanded: called with constants too)" in explain(model)


class Misleading(layers.Layer):
    """Tells Keras another shape than it computes."""

    def call(self, x):
        return x[:, 1:]

    def compute_output_shape(self, input_shape):
        return input_shape


def test_refuses_a_shape_that_is_not_computed():
    image = keras.Input((8, 9, 3))
    model = keras.Model(image, fbs_keras.FBSConv2D(8, 3, density=0.5)(Misleading(name="mine")(image)))
    shapes = r"'mine' \(Misleading\) computes the shape \(7, 9, 3\) without the batch, .* tells Keras \(8, 9, 3\)"
    with pytest.raises(ValueError, match=shapes):
        convert(model)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float16"])
def test_inputs_of_other_types(dtype):
    """Two inputs, an image and a number; of the image a half-precision one is read by the FBS layer itself."""
    image, number = keras.Input((8, 8, 3), dtype=dtype), keras.Input((), dtype="int32")
    x = image if dtype == "float16" else layers.Rescaling(1 / 255)(image)
    x = fbs_keras.FBSConv2D(8, 3, density=0.5)(x)
    model = keras.Model([image, number], x * layers.Reshape((1, 1, 8))(layers.Embedding(10, 8)(number)))
    random = np.random.default_rng(0)
    x = [random.integers(0, 255, (4, 8, 8, 3)).astype(dtype), np.arange(4, dtype="int32")]
    assert verify(model, convert(model), x).difference < 1e-5
