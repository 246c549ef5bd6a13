import keras
import numpy as np
import pytest
from keras import layers
from model_table import MODELS, all_layers, arrays, images, randomise

import fbs_keras
from fbs_keras import FBSConv2D
from fbs_keras.wrapping import folding


def outputs(model, x):
    return [keras.ops.convert_to_numpy(output) for output in keras.tree.flatten(model(x))]


@pytest.mark.parametrize("name", MODELS)
def test_preserves_the_function_at_density_1(name):
    model = randomise(MODELS[name]())
    x = images(model)
    before = outputs(model, x)
    wrapped = fbs_keras.wrap(model)
    for output, expected in zip(outputs(wrapped, x), before, strict=True):
        assert np.abs(output - expected).max() <= 1e-4 * np.abs(expected).max()
    assert wrapped.name == model.name
    for output, expected in zip(outputs(model, x), before, strict=True):
        np.testing.assert_array_equal(output, expected)  # the given model is left alone
    assert not any(isinstance(layer, FBSConv2D) for layer in all_layers(model))


@pytest.mark.parametrize("name", MODELS)
def test_trains_and_is_saved(name, tmp_path):
    wrapped = fbs_keras.wrap(randomise(MODELS[name]()), 0.5)
    x = images(wrapped)
    wrapped.compile(keras.optimizers.SGD(1e-3), "mse", run_eagerly=True)
    before = [keras.ops.convert_to_numpy(layer.kernel) for layer in fbs_keras.layers.densities.fbs_layers(wrapped)]
    wrapped.fit(x, [np.ones_like(output) for output in outputs(wrapped, x)], verbose=0)
    for kernel, layer in zip(before, fbs_keras.layers.densities.fbs_layers(wrapped), strict=True):
        assert np.isfinite(keras.ops.convert_to_numpy(layer.kernel)).all()
        assert (keras.ops.convert_to_numpy(layer.kernel) != kernel).any()
    wrapped.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=False)  # one model has a Lambda
    for output, expected in zip(outputs(loaded, x), outputs(wrapped, x), strict=True):
        np.testing.assert_array_equal(output, expected)


def test_preserves_mcifarnet():
    model = randomise(fbs_keras.models.MCifarNet())
    x = images(model)
    (expected,), (output,) = outputs(model, x), outputs(fbs_keras.wrap(model), x)
    assert np.abs(output - expected).max() <= 1e-4 * np.abs(expected).max()


def test_a_gate_starts_at_the_size_of_gamma():
    model = randomise(MODELS["sequential"]())
    gamma = keras.ops.convert_to_numpy(model.layers[1].gamma)
    layer = fbs_keras.wrap(model).layers[0]
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(layer.gate_bias), np.maximum(np.abs(gamma), folding.SMALLEST_GATE), rtol=1e-6
    )
    assert not keras.ops.convert_to_numpy(layer.gate_kernel).any()


def test_paper_init():
    model = MODELS["sequential"]()
    layer = fbs_keras.wrap(model, init="paper").layers[0]
    phi = keras.ops.convert_to_numpy(layer.gate_kernel)
    assert (keras.ops.convert_to_numpy(layer.gate_bias) == 1).all()
    assert 0.3 < phi.std() / np.sqrt(2 / 3) < 1.5  # He-normal of 3 inputs
    np.testing.assert_array_equal(layer.get_weights()[0], model.layers[0].get_weights()[0])


def test_prints_the_plan(capsys):
    fbs_keras.wrap(fbs_keras.models.MCifarNet(), print_fn=print)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "conv0: FBSConv2D of conv0 + conv0_norm + conv0_relu"
    assert lines[-1] == "logits: left alone: it computes the model's output"


def test_suppressed_channels_stay_so_behind_a_depthwise_convolution():
    wrapped = fbs_keras.wrap(randomise(MODELS["mobile"]()), 0.5)
    layer = wrapped.get_layer("expand_suppress")
    y, mask = keras.Model(wrapped.input, [layer.output, layer.input[1]])(images(wrapped))
    active = np.abs(keras.ops.convert_to_numpy(y)).sum(axis=(1, 2)) > 0
    np.testing.assert_array_equal(active, keras.ops.convert_to_numpy(mask) > 0)
    assert (active.sum(axis=1) == 6).all()


def test_takes_in_norm_and_activation():
    wrapped = fbs_keras.wrap(fbs_keras.models.MCifarNet(), 0.5)
    fbs = [layer for layer in wrapped.layers if isinstance(layer, FBSConv2D)]
    assert [layer.name for layer in fbs] == [f"conv{i}" for i in range(8)]
    assert not any(isinstance(layer, layers.BatchNormalization | layers.ReLU) for layer in wrapped.layers)
    assert [layer.active_channels for layer in fbs] == [32, 32, 64, 64, 64, 96, 96, 96]
    assert isinstance(wrapped.get_layer("logits"), layers.Conv2D)


def test_activations_that_conv2d_cannot_name_stay_outside():
    wrapped = fbs_keras.wrap(MODELS["plain"]())
    kinds = [type(layer).__name__ for layer in wrapped.layers]
    assert kinds == ["InputLayer", "FBSConv2D", "FBSConv2D", "FBSConv2D", "LeakyReLU", "Flatten", "Dense"]
    assert wrapped.layers[2].activation is keras.activations.relu6


def test_group_size_and_round_channels(tmp_path):
    lines = []
    wrapped = fbs_keras.wrap(MODELS["sequential"](), 0.5, group_size=4, round_channels=3, print_fn=lines.append)
    notes = [line.partition(", ")[2] for line in lines]
    assert notes == ["", "group_size 2: its 6 filters are no multiple of 4"]
    wrapped.save(tmp_path / "model.keras")
    for model in (wrapped, keras.saving.load_model(tmp_path / "model.keras")):
        found = fbs_keras.layers.densities.fbs_layers(model)
        assert [(layer.group_size, layer.round_channels) for layer in found] == [(4, 3), (2, 3)]
        assert [layer.active_channels for layer in found] == [8, 6]  # multiples of 12 and 6, but not above all
        assert [row.active_out for row in fbs_keras.count_macs(model).rows[:2]] == [8, 6]


def test_the_scheduler_honours_round_channels():
    wrapped = fbs_keras.wrap(fbs_keras.models.MCifarNet(), round_channels=16)
    scheduler = fbs_keras.DensityScheduler(fbs_keras.schedules.Constant(0.3))
    scheduler.set_model(wrapped)
    scheduler.on_epoch_begin(0)
    active = [layer.active_channels for layer in fbs_keras.layers.densities.fbs_layers(wrapped)]
    assert active == [32, 32, 48, 48, 48, 64, 64, 64]


def names(model):
    return [layer.name for layer in fbs_keras.layers.densities.fbs_layers(model)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"include": ["conv1", "conv2"]}, ["conv1", "conv2"]),
        ({"include": "conv1"}, ["conv1"]),
        ({"exclude": [f"conv{i}" for i in range(7)]}, ["conv7"]),
        ({"include": ["conv1", "conv2"], "exclude": "conv2"}, ["conv1"]),
        ({"include": ["logits"]}, ["logits"]),  # named by the user, even a classifier is wrapped
        ({"include": "*"}, [f"conv{i}" for i in range(8)]),  # not so by a pattern
        ({"include": ["conv[0-3]", "logits"], "exclude": "*[12]"}, ["conv0", "conv3", "logits"]),
    ],
)
def test_include_and_exclude(arguments, expected):
    assert names(fbs_keras.wrap(fbs_keras.models.MCifarNet(), **arguments)) == expected


def test_include_takes_paths_of_nested_layers():
    assert names(fbs_keras.wrap(MODELS["nested"](), include=["middle/first"])) == ["first"]
    assert names(fbs_keras.wrap(MODELS["nested"](), include="middle/f*")) == ["first"]


def test_new_layers_take_no_names_of_the_users():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.SeparableConv2D(4, 3, activation="relu", name="conv")(x)
    x = layers.DepthwiseConv2D(3, padding="same", name="conv_suppress")(x)
    x = layers.Conv2D(4, 1, activation="relu", name="conv_depthwise")(x)
    model = randomise(keras.Model(inputs, layers.Dense(2)(layers.Flatten(name="conv_suppress_1")(x))))
    wrapped = fbs_keras.wrap(model)
    added = [wrapped.get_layer(name) for name in ("conv_depthwise_1", "conv_suppress_2")]
    assert [type(layer) for layer in added] == [layers.DepthwiseConv2D, fbs_keras.Suppress]
    np.testing.assert_allclose(outputs(wrapped, images(model))[0], outputs(model, images(model))[0], atol=1e-4)


def test_an_operation_ends_a_chain():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(x)
    x = layers.Conv2D(4, 1, activation="relu")(keras.ops.relu6(layers.DepthwiseConv2D(3)(x)))
    model = randomise(keras.Model(inputs, x))
    wrapped = fbs_keras.wrap(model)
    assert type(wrapped.get_layer("conv_suppress").input[0]._keras_history.operation).__name__ == "Relu6"
    np.testing.assert_allclose(outputs(wrapped, images(model))[0], outputs(model, images(model))[0], atol=1e-4)


def test_frozen_layers_stay_frozen():
    model = MODELS["sequential"]()
    model.layers[0].trainable = False
    model.layers[1].trainable = False
    layer = fbs_keras.wrap(model).layers[0]
    assert not layer.trainable
    assert not layer.norm.trainable


def test_compiled_model_stays_compiled():
    model = MODELS["sequential"]()
    model.compile("sgd", "mse")
    assert fbs_keras.wrap(model).compiled


def test_wrapped_model_can_be_wrapped_again_in_part():
    once = fbs_keras.wrap(fbs_keras.models.MCifarNet(), 0.5, include=["conv1"])
    twice = fbs_keras.wrap(once, 0.25)
    densities = [layer.active_channels / layer.filters for layer in fbs_keras.layers.densities.fbs_layers(twice)]
    assert densities == [0.25, 0.5, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25]


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


def dense_only():
    return keras.Sequential([keras.Input((4,)), layers.Dense(2)], name="mlp")


@pytest.mark.parametrize(
    ("make", "arguments", "error", "message"),
    [
        (MODELS["sequential"], {"density": 0}, ValueError, r"density must be in \(0, 1\], got 0"),
        (MODELS["sequential"], {"density": 1.5}, ValueError, r"density must be in \(0, 1\], got 1.5"),
        (MODELS["sequential"], {"density": float("nan")}, ValueError, r"density must be in \(0, 1\], got nan"),
        (MODELS["sequential"], {"density": "half"}, TypeError, "density must be a number .*, got 'half'"),
        (MODELS["sequential"], {"init": "zero"}, ValueError, "init must be one of 'preserve', 'paper', got 'zero'"),
        (MODELS["sequential"], {"include": ["x"]}, ValueError, "must name convolutions of model 'sequential', got 'x'"),
        (MODELS["sequential"], {"exclude": "x*"}, ValueError, "must name convolutions of model 'sequential', got 'x"),
        (MODELS["sequential"], {"exclude": "x"}, ValueError, "must name convolutions of model 'sequential', got 'x'"),
        (MODELS["sequential"], {"include": 5}, TypeError, "include must be a layer name or pattern, .*, got 5"),
        (MODELS["sequential"], {"init": ["paper"]}, ValueError, "init must be one of"),
        (MODELS["sequential"], {"group_size": 0}, ValueError, "group_size must be at least 1, got 0"),
        (MODELS["sequential"], {"group_size": "all"}, TypeError, "group_size must be an integer, got 'all'"),
        (MODELS["sequential"], {"round_channels": -16}, ValueError, "round_channels must be at least 1, got -16"),
        (MODELS["sequential"], {"round_channels": 1.5}, TypeError, "round_channels must be an integer, got 1.5"),
        (MODELS["sequential"], {"include": [1]}, TypeError, "include must hold layer names, got 1"),
        (MODELS["branches"], {"include": ["grouped"]}, ValueError, "'grouped' is in include but cannot be wrapped"),
        (dense_only, {}, ValueError, "model 'mlp' has nothing to wrap:\n  it has no convolution"),
        (
            MODELS["branches"],
            {"exclude": ["taken", "separable", "last"]},
            ValueError,
            "has nothing to wrap:\n  shared: left alone",
        ),
        (Subclassed, {}, ValueError, "is a subclassed model"),
        (lambda: keras.Sequential([layers.Conv2D(2, 3)]), {}, ValueError, "is not built"),
        (lambda: "model.keras", {}, TypeError, "model must be a Keras model, got the string 'model.keras'"),
    ],
)
def test_bad_input(make, arguments, error, message):
    with pytest.raises(error, match=message):
        fbs_keras.wrap(make(), **arguments)


def test_model_with_a_subclassed_part_is_wrapped_around_it():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(Subclassed(name="odd")(x)))
    wrapped = fbs_keras.wrap(model)
    x = images(model)
    np.testing.assert_allclose(outputs(wrapped, x)[0], outputs(model, x)[0], rtol=1e-5)
    assert names(wrapped) == ["conv"]


def normalised():
    """A preprocessing layer whose state is more than its weights."""
    norm = layers.Normalization()
    norm.adapt(np.random.default_rng(0).normal(3, 5, size=(20, 8, 8, 3)).astype("float32"))
    return keras.Sequential([keras.Input((8, 8, 3)), norm, layers.Conv2D(4, 3), layers.ReLU(), layers.Flatten()])


def shared_activation():
    """A ReLU after a convolution in a nested model, and again after an addition outside."""
    relu = layers.ReLU(name="relu")
    block_input = keras.Input((8, 8, 4))
    block = keras.Model(block_input, relu(layers.Conv2D(4, 3, padding="same")(block_input)), name="block")
    inputs = keras.Input((8, 8, 4))
    x = relu(layers.Add()([block(inputs), inputs]))
    return keras.Model(inputs, layers.Flatten()(x))


def shared_convolution():
    """A convolution inside a nested model and outside of it."""
    conv = layers.Conv2D(4, 3, padding="same", name="shared")
    block_input = keras.Input((8, 8, 4))
    block = keras.Model(block_input, layers.ReLU()(layers.BatchNormalization()(conv(block_input))), name="block")
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(4, 1, activation="relu")(layers.ReLU()(conv(block(inputs))))
    return keras.Model(inputs, layers.Flatten()(x))


def nested_twice():
    """A model that two nested models share."""
    shared = keras.Sequential([keras.Input((8, 8, 4)), layers.Conv2D(4, 3, padding="same", activation="relu")])
    inputs = keras.Input((8, 8, 4))
    parents = []
    for _ in range(2):
        x = parent_input = keras.Input((8, 8, 4))
        parents.append(keras.Model(parent_input, shared(x)))
    return keras.Model(inputs, layers.Flatten()(parents[1](parents[0](inputs))))


def norm_in_training_mode():
    inputs = keras.Input((8, 8, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3)(inputs), training=True)
    return keras.Model(inputs, layers.Flatten()(layers.ReLU()(x)))


def norm_by_keyword():
    inputs = keras.Input((8, 8, 3))
    x = layers.BatchNormalization()(inputs=layers.Conv2D(4, 3)(inputs))
    return keras.Model(inputs, layers.Flatten()(layers.ReLU()(x)))


ODD = [normalised, shared_activation, shared_convolution, nested_twice, norm_in_training_mode, norm_by_keyword]


@pytest.mark.parametrize("make", ODD, ids=lambda make: make.__name__)
def test_preserves_odd_models(make):
    model = randomise(make())
    x = images(model)
    expected, wrapped = outputs(model, x), fbs_keras.wrap(model)
    for output, value in zip(outputs(wrapped, x), expected, strict=True):
        assert np.abs(output - value).max() <= 1e-4 * np.abs(value).max()
    assert len(wrapped.trainable_weights) >= len(fbs_keras.layers.densities.fbs_layers(wrapped))


def test_what_models_share_stays_shared():
    wrapped = fbs_keras.wrap(shared_activation())
    assert sum(layer.name == "relu" for layer in set(all_layers(wrapped))) == 1
    with pytest.raises(ValueError, match="shared by 2 models"):
        fbs_keras.wrap(shared_convolution(), include=["shared"])
    assert len({id(layer) for layer in fbs_keras.layers.densities.fbs_layers(fbs_keras.wrap(nested_twice()))}) == 1


def test_dict_inputs_and_outputs():
    inputs = {"b": keras.Input((6, 6, 2), name="b"), "a": keras.Input((6, 6, 2), name="a")}
    x = layers.Conv2D(4, 3, activation="relu")(inputs["b"] - 2 * inputs["a"])
    model = keras.Model(inputs, {"z": layers.Flatten()(x), "c": layers.GlobalAveragePooling2D()(x)})
    rng = np.random.default_rng(0)
    x = {name: rng.normal(size=(2, 6, 6, 2)).astype("float32") for name in "ab"}
    expected, result = model(x), fbs_keras.wrap(model)(x)
    assert set(result) == {"c", "z"}
    for output, wanted in zip(arrays(result), arrays(expected), strict=True):  # sorted by name
        np.testing.assert_allclose(output, wanted, rtol=1e-4, atol=1e-5)


def heads():
    """Classifiers that are convolutions: in a nested model, before upsampling, before an operation."""
    backbone = layers.Conv2D(4, 3, activation="relu", name="body")
    nested_head = [keras.Input((6, 6, 4)), layers.Conv2D(3, 1, name="head"), layers.Flatten()]
    yield keras.Sequential([keras.Input((8, 8, 3)), backbone, keras.Sequential(nested_head)])
    for end in (lambda x: layers.Softmax()(layers.UpSampling2D()(x)), keras.ops.softmax):
        inputs = keras.Input((8, 8, 3))
        x = layers.Conv2D(4, 3, activation="relu", name="body")(inputs)
        yield keras.Model(inputs, end(layers.Conv2D(3, 1, name="head")(x)))


def test_classifiers_are_left_alone():
    for model in heads():
        assert names(fbs_keras.wrap(model)) == ["body"]


def test_features_are_wrapped():
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.LeakyReLU()])
    assert len(names(fbs_keras.wrap(model))) == 1


def test_frozen_norm_stays_frozen_when_saved(tmp_path):
    model = MODELS["sequential"]()
    model.layers[1].trainable = False
    fbs_keras.wrap(model).save(tmp_path / "model.keras")
    layer = keras.saving.load_model(tmp_path / "model.keras").layers[0]
    assert layer.trainable
    assert not layer.norm.trainable


def test_a_loss_of_ones_own_leaves_the_copy_uncompiled():
    model = MODELS["sequential"]()
    model.compile("sgd", loss=lambda y, x: keras.ops.mean(x - y))
    assert not fbs_keras.wrap(model).compiled


class Trained(keras.Model):
    """A user's own training step on a Functional model."""


def test_a_users_class_is_kept():
    inputs = keras.Input((8, 8, 3))
    model = Trained(inputs, layers.Flatten()(layers.Conv2D(4, 3, activation="relu")(inputs)))
    assert type(fbs_keras.wrap(model)).__name__ == "Trained"


def test_a_model_and_its_copy_train_apart():
    """On JAX, training deletes the arrays that it replaces: no variable of the copy may hold the model's own."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.SeparableConv2D(4, 3, use_bias=False)(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x)))
    before = model.get_weights()
    wrapped = fbs_keras.wrap(model)
    wrapped.compile("sgd", "mse")
    wrapped.fit(np.ones((4, 8, 8, 3), "float32"), np.ones((4, 2), "float32"), verbose=0)
    for weight, value in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)


def twice_relu(x):
    return keras.ops.relu(x) * 2.0


def relu(x):
    return keras.ops.relu(x) * 3.0


LIVE = {
    "def": twice_relu,
    "lambda": lambda x: keras.ops.relu(x) * 2.0,
    "name of Keras": relu,
    "no source": eval("lambda x: ops.relu(x) * 5.0", {"ops": keras.ops}),
    "layer": layers.LeakyReLU(0.3),
}


@pytest.mark.parametrize("name", LIVE)
def test_functions_that_keras_does_not_know(name):
    """In the gated layer, in an activation after it, and in a layer beside."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, activation=LIVE[name])(inputs)
    x = layers.Activation(LIVE[name])(layers.BatchNormalization()(layers.Conv2D(8, 3)(x)))
    x = layers.Dense(4, activation=LIVE[name])(layers.GlobalAveragePooling2D()(x))
    model = randomise(keras.Model(inputs, x))
    x = images(model)
    wrapped = fbs_keras.wrap(model)
    assert len(names(wrapped)) == 2
    expected = outputs(model, x)[0]
    assert np.abs(outputs(wrapped, x)[0] - expected).max() <= 1e-4 * np.abs(expected).max()
    layer = wrapped.layers[1]
    assert (layer.activation is LIVE[name]) == (name != "layer")


@pytest.mark.parametrize("name", ["a b", "größe", "_lead", "a:0", "a[0]", "c*d"])
def test_any_layer_name(name):
    stack = [layers.Conv2D(4, 3, activation="relu", name=name), layers.Conv2D(4, 3, activation="relu", name="other")]
    model = keras.Sequential([keras.Input((8, 8, 3)), *stack, layers.Flatten(), layers.Dense(2)])
    assert names(fbs_keras.wrap(model, include=name)) == [name]
    assert names(fbs_keras.wrap(model, exclude=[name])) == ["other"]
    wrapped = fbs_keras.wrap(model, {name: 0.5})
    fbs_keras.set_density(wrapped, {name: 0.25})
    assert [layer.active_channels for layer in fbs_keras.layers.densities.fbs_layers(wrapped)] == [1, 4]


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_quantized_layers_beside(mode):
    model = MODELS["sequential"]()
    if mode == "int4" and tuple(map(int, keras.__version__.split(".")[:2])) < (3, 15):
        pytest.skip("this Keras does not know it")
    model.quantize(mode)
    wrapped = fbs_keras.wrap(model)
    assert len(names(wrapped)) == 2
    assert wrapped.layers[-1].quantization_mode == mode
    x = images(model)
    np.testing.assert_allclose(outputs(wrapped, x)[0], outputs(model, x)[0], rtol=0.1, atol=0.02)


def test_a_layer_without_get_config_is_named():
    class Silent(layers.Layer):
        def __init__(self, function, **kwargs):
            super().__init__(**kwargs)
            self.function = function

        def call(self, x):
            return self.function(x)

    stack = [layers.Conv2D(4, 3, activation="relu"), Silent(twice_relu, name="odd"), layers.Flatten()]
    model = keras.Sequential([keras.Input((8, 8, 3)), *stack])
    for each in (model, keras.Model(model.inputs, model.outputs)):
        with pytest.raises(ValueError, match=r"layer 'odd' \(Silent, twice_relu\) cannot be copied: .*get_config"):
            fbs_keras.wrap(each)
