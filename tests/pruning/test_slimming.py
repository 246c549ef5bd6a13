import keras
import numpy as np
import pytest
from keras import layers
from model_table import MODELS
from padding_nets import pad, pad_by_concatenation, resnet, silence

import fbs_keras
from fbs_keras import SlimmingRegularizer, models, slim


def unit(x, filters, name, scale=True):
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=name)(x)
    return layers.ReLU()(layers.BatchNormalization(scale=scale, name=f"{name}_norm")(x))


def set_gammas(model, **gammas):
    for name, values in gammas.items():
        model.get_layer(f"{name}_norm").gamma.assign(values)
    return model


def chain(scale=True):
    x = inputs = keras.Input((8, 8, 3))
    x = unit(unit(x, 4, "a", scale), 4, "b", scale)
    x = layers.Conv2D(4, 1, name="plain")(x)
    return keras.Model(inputs, layers.Dense(2, name="logits")(layers.GlobalAveragePooling2D()(x)), name="chain")


def chain_with_gammas():
    return set_gammas(chain(), a=[0.9, -0.8, 0.1, 0.7], b=[0.2, 0.3, -0.4, 0.05])


def widths(model, *names):
    return [model.get_layer(name).filters for name in names or ("a", "b")]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"keep": 1.0}, [4, 4]),
        ({"keep": 0.75}, [3, 3]),
        ({"keep": 0.5}, [3, 1]),
        ({"keep": 0.01}, [1, 1]),  # each layer keeps one channel
        ({"keep": 0.5, "min_channels": 3}, [3, 3]),
        ({"threshold": 0.25}, [3, 2]),
        ({"threshold": 0.0}, [4, 4]),
        ({"widths": {"a": 1}}, [1, 4]),
        ({"widths": {"a": 2, "b": 3}}, [2, 3]),
        ({"keep": 0.5, "exclude": "b"}, [2, 4]),
        ({"keep": 0.5, "include": ["b"]}, [4, 2]),
    ],
    ids=str,
)
def test_how_many_channels_stay(arguments, expected):
    assert widths(slim(chain_with_gammas(), **arguments)) == expected


def test_the_largest_gammas_stay():
    model = chain_with_gammas()
    slimmed = slim(model, keep=0.5)
    assert keras.ops.convert_to_numpy(slimmed.get_layer("a_norm").gamma).tolist() == pytest.approx([0.9, -0.8, 0.7])
    kernel = keras.ops.convert_to_numpy(model.get_layer("b").kernel)
    np.testing.assert_array_equal(slimmed.get_layer("b").kernel, kernel[:, :, [0, 1, 3]][..., [2]])


def test_report_and_compile():
    model, lines = chain_with_gammas(), []
    model.compile("sgd", "mse")
    assert slim(model, keep=0.5, print_fn=lines.append).compiled
    assert lines == [
        "a: 4 -> 3 channels",
        "b: 4 -> 1 channels",
        "plain: 4 channels: no gamma scales it before it is read",
        "logits: 2 channels: it computes the model's output",
    ]


def residual(bias=False):
    inputs = keras.Input((8, 8, 3))
    x = unit(inputs, 4, "a")
    y = layers.Conv2D(4, 1, name="raw")(x) if bias else unit(x, 4, "b")
    x = unit(layers.Add()([x, y]), 4, "c")
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    return set_gammas(model, a=[0.9, 0.1, 0.1, 0.5], c=[0.01, 1, 1, 1])


def test_an_addition_ranks_its_channels_by_their_largest_gamma():
    model = set_gammas(residual(), b=[0.1, 0.1, 0.7, 0.5])
    slimmed = slim(model, threshold=0.3)
    assert widths(slimmed, "a", "b", "c") == [3, 3, 3]
    assert keras.ops.convert_to_numpy(slimmed.get_layer("b_norm").gamma).tolist() == pytest.approx([0.1, 0.7, 0.5])
    assert widths(slim(model, widths={"a": 2, "b": 2}), "a", "b", "c") == [2, 2, 4]
    with pytest.raises(ValueError, match="'b' cannot have 3 channels: it is joined to 'a'; give both the same width"):
        slim(model, widths={"a": 2, "b": 3})


def test_a_small_gamma_says_nothing_of_a_way_around_it():
    assert widths(slim(residual(bias=True), threshold=0.3), "a", "raw", "c") == [4, 4, 3]


def test_a_small_gamma_says_nothing_of_what_is_added_to_all_channels():
    inputs = keras.Input((8, 8, 1))
    x = layers.Add()([unit(inputs, 4, "a"), inputs])
    x = unit(layers.Multiply()([unit(x, 4, "b"), inputs]), 4, "c")
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    few = [0.9, 0.1, 0.1, 0.5]
    assert widths(slim(set_gammas(model, a=few, b=few, c=few), threshold=0.3), "a", "b", "c") == [4, 2, 2]


def test_models_without_gammas_are_ranked_by_their_filters():
    model, lines = chain(scale=False), []
    for name in "ab":
        kernel = np.ones(model.get_layer(name).kernel.shape)
        kernel[..., 1] = 0.1
        model.get_layer(name).kernel.assign(kernel)
    slimmed = slim(model, keep=0.75, include=["a", "b"], print_fn=lines.append)
    assert lines[0] == "no gamma ranks the channels: ranked by the size of their filters"
    assert widths(slimmed) == [3, 3]
    assert keras.ops.convert_to_numpy(slimmed.get_layer("a").kernel).min() == 1
    with pytest.raises(ValueError, match="nothing to slim:\n  a: 4 channels: no gamma scales it before it is read\n"):
        slim(model, threshold=0.1)


def test_vgg16_at_the_widths_of_the_paper():
    """15.47 G MACs become 7.90 G, and FBS at density 0.6 on top makes them 5.24 times fewer than at first."""
    model = models.VGG16(include_top=False)
    top = 7 * 7 * 512 * 4096 + 4096 * 4096 + 4096 * 1000  # whose weights take seconds to make
    names = [layer.name for layer in model.layers if isinstance(layer, layers.Conv2D)]
    slimmed = slim(model, widths=dict(zip(names, models.vgg16.SLIM_WIDTHS, strict=True)))
    dense = fbs_keras.count_macs(model).dense + top
    assert dense == 15_470_264_320
    assert round((fbs_keras.count_macs(slimmed).dense + top) / 1e9, 2) == 7.90
    both = fbs_keras.wrap(slimmed, density=0.6)
    assert round(dense / (fbs_keras.count_macs(both).fbs + top), 2) == 5.24


@pytest.mark.parametrize(
    ("make", "arguments", "error", "message"),
    [
        (chain, {}, ValueError, "expected exactly one of keep, threshold and widths, got none"),
        (chain, {"keep": 0.5, "threshold": 0.1}, ValueError, "exactly one of .*, got keep and threshold"),
        (chain, {"keep": 0}, ValueError, r"keep must be in \(0, 1\], got 0"),
        (chain, {"keep": "half"}, TypeError, "keep must be a number, got 'half'"),
        (chain, {"threshold": -1}, ValueError, "threshold must be finite and not below 0, got -1"),
        (chain, {"widths": 8}, TypeError, "widths must be a dict from layer name to channels, got 8"),
        (chain, {"widths": {"a": 0}}, ValueError, r"widths\['a'\] must be at least 1, got 0"),
        (chain, {"widths": {"a": 1.5}}, TypeError, r"widths\['a'\] must be an integer, got 1.5"),
        (chain, {"widths": {"a": 5}}, ValueError, r"widths\['a'\] must be at most the layer's 4 channels, got 5"),
        (chain, {"widths": {"c": 5}}, ValueError, r"widths must name layers with channels, got 'c'; there are \['a',"),
        (chain, {"widths": {"logits": 1}}, ValueError, "'logits' cannot be slimmed to 1 channels: it computes the"),
        (chain, {"keep": 0.5, "min_channels": 0}, ValueError, "min_channels must be at least 1, got 0"),
        (chain, {"keep": 0.5, "exclude": "c"}, ValueError, "exclude must name layers with channels, got 'c'"),
        (
            chain,
            {"keep": 0.5, "include": "logits"},
            ValueError,
            "'logits' is in include but cannot be slimmed: it comp",
        ),
        (MODELS["branches"], {"keep": 0.5}, ValueError, "nothing to slim:\n  shared: 4 channels: 'shared' reads"),
        (lambda: fbs_keras.wrap(chain()), {"keep": 0.5}, ValueError, "'a' is an FBSConv2D already: slim the model fi"),
        (lambda: "model.keras", {"keep": 0.5}, TypeError, "model must be a Keras model, got the string"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_bad_arguments(make, arguments, error, message):
    with pytest.raises(error, match=message):
        slim(make(), **arguments)


def compiled():
    keras.utils.set_random_seed(0)
    model = chain()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def fit(model, *callbacks, epochs=1, **arguments):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 8, 8, 3)).astype("float32"), rng.normal(size=(16, 2))
    return model.fit(x, y, batch_size=16, epochs=epochs, callbacks=callbacks, verbose=0, **arguments).history


def gammas(model):
    return np.concatenate([keras.ops.convert_to_numpy(model.get_layer(f"{name}_norm").gamma) for name in "ab"])


def test_the_penalty_is_in_the_loss_and_in_its_gradient():
    plain, regularised = compiled(), compiled()
    loss = fit(plain)["loss"][0]
    penalised = fit(regularised, SlimmingRegularizer(0.5))["loss"][0]
    assert penalised - loss == pytest.approx(0.5 * 8, rel=1e-5)  # eight gammas of 1
    # One step of SGD at rate 0.1 moves each gamma by that much more.
    np.testing.assert_allclose(gammas(plain) - gammas(regularised), 0.1 * 0.5, rtol=1e-3)


def test_the_penalty_lasts_as_long_as_the_fit():
    model = compiled()
    fit(model)  # compiled without the penalty
    before = fit(model, SlimmingRegularizer(0.0))["loss"][0]
    assert fit(model, SlimmingRegularizer(10.0))["loss"][0] > before + 10
    assert fit(model)["loss"][0] < before + 10
    assert model.losses == []


def test_the_own_regularizer_stays_and_counts(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3)(inputs)
    x = layers.BatchNormalization(gamma_regularizer=keras.regularizers.L2(0.25), name="norm")(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    callback = SlimmingRegularizer(0.5)
    callback.set_model(model)  # as in a custom loop
    for _ in range(2):  # a second start does not count twice
        callback.on_train_begin()
        assert float(keras.ops.convert_to_numpy(sum(model.losses))) == pytest.approx(0.5 * 4 + 0.25 * 4)
    model.save(tmp_path / "model.keras")
    for each in (model, keras.saving.load_model(tmp_path / "model.keras")):
        callback.on_train_end()
        assert float(keras.ops.convert_to_numpy(sum(each.losses))) == pytest.approx(0.25 * 4)


def test_the_report():
    model, lines = set_gammas(compiled(), a=[0.001, 1, 1, 1]), []
    history = fit(model, SlimmingRegularizer(0.0, print_fn=lines.append), epochs=2)
    assert history["gamma_near_zero"][0] == pytest.approx(1 / 8)
    assert 0.7 < history["gamma_mean"][0] < 1
    assert len(lines) == 4
    assert lines[0].startswith("a_norm: mean gamma 0.") and lines[0].endswith(", 1 of 4 near zero")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SlimmingRegularizer(-1.0), ValueError, "weight must be finite and not below 0, got -1"),
        (lambda: SlimmingRegularizer("much"), TypeError, "weight must be a number not below 0, got 'much'"),
    ],
)
def test_bad_weights(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_model_without_gammas_is_refused():
    model = chain(scale=False)
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="found no batch norm with gammas in model 'chain'"):
        fit(model, SlimmingRegularizer())


STREAM = ("stem", "s0_b", "s1_b", "s2_b")


@pytest.mark.parametrize("shortcut", [pad, pad_by_concatenation])
def test_a_stream_that_a_shortcut_pads_loses_channels(shortcut):
    lines = []
    model = resnet(shortcut)
    slimmed = slim(model, keep=0.1, print_fn=lines.append)
    assert sum(widths(slimmed, *STREAM)) < sum(widths(model, *STREAM))
    assert lines[-1] == "logits: 5 channels: it computes the model's output"
    assert not any(": it " in line or "reads it" in line for line in lines[:-1])
    assert slimmed.predict(np.zeros((2, 16, 16, 3)), verbose=0).shape == (2, 5)
    assert fbs_keras.wrap(slimmed, density=0.5).count_params() > 0


def test_a_padded_stream_keeps_the_function_without_dead_channels():
    model = silence(resnet(), [7, 9, 20, 30, 31])  # 7 and 9 of the stem and the stages, the others of the last
    slimmed = slim(model, threshold=1e-9)
    assert widths(slimmed, *STREAM) == [6, 6, 14, 27]
    x = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype("float32")
    np.testing.assert_allclose(slimmed.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"s2_b": 20, "s1_b": 10, "stem": 6}, [6, 6, 10, 20]),  # in any order
        ({"stem": 6, "s0_b": 6}, [6, 6, 14, 30]),
        ({"s0_a": 2, "s2_a": 3}, [8, 8, 16, 32]),
    ],
    ids=str,
)
def test_widths_of_a_padded_stream(wanted, expected):
    slimmed = slim(resnet(), widths=wanted)
    assert widths(slimmed, *STREAM) == expected
    assert widths(slimmed, *wanted) == list(wanted.values())


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"stem": 2, "s2_b": 31}, "'s2_b' cannot have 31 channels: it is joined to 'stem'; give it 2 to 26 channels"),
        ({"stem": 6, "s0_b": 5}, "'s0_b' cannot have 5 channels: it is joined to 'stem'; give both the same width"),
        ({"s2_b": 33}, r"widths\['s2_b'\] must be at most the layer's 32 channels, got 33"),
    ],
)
def test_widths_that_a_padded_stream_cannot_have(wanted, message):
    with pytest.raises(ValueError, match=message):
        slim(resnet(), widths=wanted)


def test_channels_that_go_together_have_even_widths():
    inputs = keras.Input((8, 8, 3))
    x = unit(inputs, 2, "a")
    x = layers.Add()([layers.Concatenate()([x, x]), unit(inputs, 4, "b")])
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalMaxPooling2D()(x)))
    assert widths(slim(model, widths={"b": 2})) == [1, 2]
    with pytest.raises(ValueError, match="'b' cannot have 3 channels, since some go together: 2 would stay"):
        slim(model, widths={"b": 3})
