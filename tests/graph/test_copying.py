import inspect

import keras
import numpy as np
import pytest
from keras import layers, ops

from fbs_keras.graph.copying import carry_state, inner_layers, remake
from fbs_keras.graph.rewriting import as_float32, rewrite

OLD = tuple(map(int, keras.__version__.split(".")[:2])) < (3, 15)


def twice_relu(x):
    return ops.relu(x) * 2.0


def relu(x):
    """Has the name of another function, which Keras knows."""
    return ops.maximum(x, 0.0) * 3.0


def ones(shape, dtype=None):
    return ops.ones(shape, dtype) * 0.5


class Plain:
    """To call, but without get_config, as none of these classes is registered either."""

    def __call__(self, x):
        return ops.relu(x) * 4.0


class Half(keras.regularizers.Regularizer):
    def __call__(self, x):
        return 0.5 * ops.sum(x)


class Halved(keras.constraints.Constraint):
    def __call__(self, w):
        return w * 0.5


# Made by exec: no source, so that Keras cannot serialize it.
without_source = eval("lambda x: ops.relu(x) * 5.0", {"ops": ops})

PARTS = {
    "activation": [twice_relu, relu, lambda x: ops.relu(x) * 2.0, without_source, Plain(), keras.activations.gelu],
    "initializer": [ones, lambda shape, dtype=None: ops.zeros(shape, dtype)],
    "regularizer": [Half(), lambda x: ops.sum(x)],
    "constraint": [Halved()],
}
# Arguments that layers need, none of which is a function.
NEEDED = {
    **dict(units=4, filters=4, kernel_size=3, num_heads=2, key_dim=2, input_dim=5, output_dim=4, head_dim=2),
    **dict(num_query_heads=2, num_key_value_heads=1, equation="ab,bc->ac", output_shape=(4,)),
}


def kinds_with_parts():
    """Every Keras layer that takes a function or an object to call, with the names of these arguments."""
    for name in sorted(dir(layers)):
        kind = getattr(layers, name)
        if not inspect.isclass(kind) or kind in (layers.Layer, layers.InputLayer) or kind.__name__ != name:
            continue
        parameters = inspect.signature(kind.__init__).parameters
        takes = [key for key in parameters if key.rpartition("_")[2] in PARTS]
        if takes:
            required = [key for key in parameters if parameters[key].default is inspect.Parameter.empty]
            needed = {key: NEEDED[key] for key in required if key in NEEDED}
            yield pytest.param(kind, needed, takes, id=name)


def part_of(layer, key):
    part = getattr(layer, key, None)
    return getattr(layer, f"_{key}", None) if part is None else part


@pytest.mark.parametrize(("kind", "needed", "takes"), kinds_with_parts())
def test_every_keras_layer_keeps_its_live_parts(kind, needed, takes):
    for number in range(max(map(len, PARTS.values()))):
        chosen = {key: PARTS[key.rpartition("_")[2]] for key in takes}
        chosen = {key: parts[number % len(parts)] for key, parts in chosen.items()}
        layer = kind(**needed, **chosen)
        copy = remake(layer)
        assert type(copy) is kind
        assert copy.name == layer.name
        for key in takes:
            assert part_of(copy, key) is part_of(layer, key)
        assert part_of(layer, takes[0]) is chosen[takes[0]]  # the layer is as it was


class Scaled(layers.Layer):
    """No layer that Keras knows: adapted by hand, to an attribute; a function; a layer in it."""

    def __init__(self, function=None, inner=None, **kwargs):
        super().__init__(**kwargs)
        self.function, self.inner = function, inner
        self.scale, self.table, self.steps = 1.0, np.ones(2), {"seen": [0]}

    def build(self, input_shape):
        if self.inner is not None and not self.inner.built:
            self.inner.build(input_shape)

    def call(self, x):
        x = x if self.inner is None else self.inner(x)
        x = x if self.function is None else self.function(x)
        return x * self.scale * self.table[1]

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        inner = keras.saving.serialize_keras_object(self.inner)
        return {**super().get_config(), "function": self.function, "inner": inner}

    @classmethod
    def from_config(cls, config):
        if isinstance(config["inner"], dict):
            config["inner"] = keras.saving.deserialize_keras_object(config["inner"])
        return cls(**config)


class Strict(Scaled):
    """Makes its parts from what get_config() wrote, and from nothing else."""

    def get_config(self):
        return {**super().get_config(), "function": keras.saving.serialize_keras_object(self.function)}

    @classmethod
    def from_config(cls, config):
        parts = {key: keras.saving.deserialize_keras_object(config.pop(key)) for key in ("function", "inner")}
        return cls(**config, **parts)


class ByName(layers.Layer):
    """Looks a function up by its name, and finds another one."""

    def __init__(self, function="relu", **kwargs):
        super().__init__(**kwargs)
        self.function = keras.activations.get(function)

    def call(self, x):
        return self.function(x)

    def get_config(self):
        return {**super().get_config(), "function": self.function.__name__}

    @classmethod
    def from_config(cls, config):
        return cls(keras.activations.get(getattr(config.pop("function"), "__name__", "relu")), **config)


class Silent(layers.Layer):
    """Has an argument that Keras cannot tell, and does not tell it either."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, x):
        return self.function(x)


class Late(layers.Layer):
    """Gets a weight that no config tells of."""

    def call(self, x):
        return x


def adapted(layer):
    layer.adapt(np.random.default_rng(0).normal(3, 5, size=(20, 6)).astype("float32"))
    return layer


def changed(layer, **values):
    for key, value in values.items():
        setattr(layer, key, value)
    return layer


# Layers of six features, and what of them a config does not tell, or tells by a name that finds something else.
STATEFUL = {
    "activation": lambda: layers.Dense(6, activation=relu),
    "lambda": lambda: layers.Dense(6, activation=lambda x: ops.relu(x) * 2.0),
    "no source": lambda: layers.Dense(6, activation=without_source),
    "no get_config": lambda: layers.Dense(6, activation=Plain()),
    "PReLU": lambda: layers.Dense(6, activation=layers.PReLU(alpha_initializer=keras.initializers.Constant(0.3))),
    "own layer as activation": lambda: layers.Dense(6, activation=changed(Scaled(), scale=3.0)),
    "Lambda": lambda: layers.Lambda(lambda x, by: twice_relu(x) * by, arguments={"by": np.arange(6.0)}),
    "TimeDistributed": lambda: layers.TimeDistributed(layers.Dense(6, activation=relu)),
    "TimeDistributed model": lambda: layers.TimeDistributed(
        keras.Sequential([keras.Input((6,)), layers.Dense(6, activation=relu), adapted(layers.Normalization())])
    ),
    "Bidirectional": lambda: layers.Bidirectional(layers.LSTM(3, activation=relu, return_sequences=True)),
    "RNN": lambda: layers.RNN([layers.GRUCell(6, activation=relu), layers.LSTMCell(6)], return_sequences=True),
    "SpectralNormalization": lambda: layers.SpectralNormalization(layers.Dense(6, activation=relu)),
    "Normalization": lambda: adapted(layers.Normalization()),
    "Discretization": lambda: adapted(layers.Discretization(num_bins=4)),
    "Scaled": lambda: changed(Scaled(), scale=3.0, table=np.arange(2.0), steps={"seen": [3]}),
    "Scaled with parts": lambda: changed(Scaled(relu, layers.Dense(6, activation=relu)), scale=3.0),
    "Scaled in Scaled": lambda: Scaled(None, changed(Scaled(twice_relu), scale=3.0)),
    "Strict": lambda: changed(Strict(twice_relu, layers.Dense(6, activation=twice_relu)), scale=2.0),
    "tensor": lambda: changed(Scaled(), scale=ops.cast(7.0, keras.config.dtype_policy().compute_dtype)),
}


def make_model(layer):
    inputs = keras.Input((4, 6))
    model = keras.Model(inputs, layers.Dense(3, name="last")(layer(inputs)), name="model")
    model(np.zeros((1, 4, 6), "float32"))
    rng = np.random.default_rng(1)
    for weight in layer.trainable_weights:
        weight.assign(rng.normal(size=weight.shape))
    return model


@pytest.mark.parametrize("name", STATEFUL)
def test_copies_compute_the_same(name):
    model = make_model(STATEFUL[name]())
    x = np.random.default_rng(2).normal(size=(2, 4, 6)).astype("float32")
    copy, _ = rewrite(model, lambda layer: None)
    expected = ops.convert_to_numpy(model(x))
    np.testing.assert_array_equal(copy(x), expected)
    mine, others = (set(map(id, each.variables)) for each in (model, copy))
    assert not mine & others
    for layer in inner_layers(copy):
        for weight in layer.weights:
            weight.assign(np.zeros(weight.shape))
    np.testing.assert_array_equal(model(x), expected)


@pytest.mark.parametrize("name", STATEFUL)
def test_float32_copies_compute_the_same(name):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = make_model(STATEFUL[name]())
    finally:
        keras.config.set_dtype_policy(policy)
    copy = as_float32(model)
    dtypes = {layer.compute_dtype for layer in inner_layers(copy) if not isinstance(layer, keras.Model)}
    assert dtypes <= {"float32", "int64"} or name == "Strict"  # which makes what is in it itself
    x = np.random.default_rng(2).normal(size=(2, 4, 6)).astype("float32")
    expected = ops.convert_to_numpy(ops.cast(model(x), "float32"))
    error = np.abs(ops.convert_to_numpy(copy(x)) - expected).max()
    assert error <= 0.05 * np.abs(expected).max()


def test_seeds_go_on():
    x = np.ones((8, 6), "float32")
    for seed in (None, 7):
        model = keras.Sequential([keras.Input((6,)), layers.Dropout(0.5, seed=seed), layers.GaussianNoise(1.0)])
        model(x, training=True)
        copy, _ = rewrite(model, lambda layer: None)
        for _ in range(2):
            np.testing.assert_array_equal(copy(x, training=True), model(x, training=True))
        copy(x, training=True)  # and apart
        assert np.abs(copy(x, training=True) - ops.convert_to_numpy(model(x, training=True))).max() > 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: layers.StringLookup(), ["a", "b", "b", "c d"]),
        (lambda: layers.StringLookup(vocabulary=["x", "a"]), None),
        (lambda: layers.StringLookup(output_mode="tf_idf"), ["a", "b", "b", "c d"]),
        (lambda: layers.TextVectorization(standardize=lambda x: x, output_sequence_length=3), ["a b", "b c"]),
        (lambda: layers.TextVectorization(output_mode="tf_idf"), ["a b", "b c"]),
    ],
)
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow has strings")
def test_vocabularies_are_kept(make, words):
    layer = make()
    if "tf_idf" in str(layer.get_config()) and OLD:
        pytest.skip("this Keras cannot load such a layer itself")
    if words:
        layer.adapt(words)
    model = keras.Sequential([keras.Input((1,), dtype="string"), layer])
    x = ops.convert_to_tensor(np.array([["a"], ["b"], ["c d"], ["never seen"]], object))
    copy, _ = rewrite(model, lambda layer: None)
    np.testing.assert_array_equal(copy(x), model(x))


def test_what_hangs_on_a_variable_is_kept():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4, kernel_regularizer="l1"), layers.Dense(3)])
    first, second = model.layers
    first.kernel.trainable = False
    first.bias.regularizer = keras.regularizers.L2(0.1)
    first.bias.assign(np.ones(4))
    second.kernel.constraint = keras.constraints.NonNeg()
    first.autocast = False
    copy, _ = rewrite(model, lambda layer: None)
    assert [v.path for v in copy.trainable_variables] == [v.path for v in model.trainable_variables]
    assert float(sum(copy.losses)) == pytest.approx(float(sum(model.losses))) == pytest.approx(0.4)
    assert copy.layers[1].kernel.constraint is second.kernel.constraint
    assert not copy.layers[0].autocast
    first.kernel.trainable = True
    assert len(copy.trainable_variables) == 3


def test_a_frozen_model_stays_frozen_around_trainable_layers():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4), layers.Dense(3)])
    model.trainable = False
    model.layers[0].trainable = True
    copy, _ = rewrite(model, lambda layer: None)
    assert not copy.trainable
    assert [layer.trainable for layer in copy.layers] == [True, False]
    assert copy.layers[0].kernel.trainable


def replaced_call():
    layer = layers.Dense(3, name="odd")
    layer.call = lambda x: x
    return layer


def with_late_weight():
    layer = Late(name="odd")
    layer.build((None, 4, 6))
    layer._tracker.unlock()
    layer.late = layer.add_weight(shape=(3,), name="late")
    return layer


def with_hook():
    layer = layers.Dense(3, name="odd")
    layer._forward_hooks = {0: print}  # as torch keeps them
    return layer


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Silent(twice_relu, name="odd"), r"'odd' \(Silent, twice_relu\) cannot be copied: .*get_config"),
        (lambda: ByName(relu, name="odd"), "'odd' cannot be copied: its function is the function relu"),
        (replaced_call, "'odd' cannot be copied: its call was replaced on the object"),
        (with_late_weight, r"'odd' \(Late\) cannot be copied: it has the variables late \(3,\), .* has none"),
        (with_hook, "'odd' cannot be copied: it has hooks"),
        (
            lambda: Scaled(None, Silent(twice_relu, name="odd"), name="outer"),
            r"'outer' \(Scaled, odd\) cannot be copied: .*Silent",
        ),
    ],
    ids=["silent", "by name", "replaced call", "late weight", "hook", "inner"],
)
def test_what_cannot_be_copied_is_named(make, message):
    layer = make()
    with pytest.raises(ValueError, match=message):
        carry_state(layer, remake(layer))


def test_layers_that_share_a_weight_are_named():
    one, other = layers.Dense(4, name="one"), Late(name="other")
    other.inner = one
    model = keras.Sequential([keras.Input((4,)), one, other])
    with pytest.raises(ValueError, match="layers 'one' and 'other' share the weight 'kernel'"):
        rewrite(model, lambda layer: None)


@pytest.mark.parametrize("mode", ["int8", "float8", "int4"])
def test_quantized_layers_are_copied(mode):
    model = keras.Sequential([keras.Input((8,)), layers.Dense(8, activation=relu), layers.Dense(4)])
    if mode == "int4" and OLD:
        pytest.skip("this Keras does not know it")
    model.quantize(mode)
    x = np.random.default_rng(0).normal(size=(2, 8)).astype("float32")
    copy, _ = rewrite(model, lambda layer: None)
    np.testing.assert_array_equal(copy(x), model(x))
    assert [layer.quantization_mode for layer in copy.layers] == [mode, mode]


def test_lora_is_copied():
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(4)])
    for layer in (model.layers[0], model.layers[2]):
        layer.enable_lora(2)
        layer.lora_kernel_b.assign(np.ones(layer.lora_kernel_b.shape))
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    copy, _ = rewrite(model, lambda layer: None)
    np.testing.assert_array_equal(copy(x), model(x))
    assert [v.name for v in copy.trainable_variables] == [v.name for v in model.trainable_variables]
