import warnings

import keras
import numpy as np
import pytest

import fbs_keras
from fbs_keras import DensityScheduler, FBSConv2D, SaliencyRegularizer
from fbs_keras.training import schedules


def make_model():
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            FBSConv2D(8, 3, name="first"),
            FBSConv2D(4, 3, name="second"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
    )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def fit(model, callbacks, epochs=2, **arguments):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 6, 6, 3)).astype("float32"), rng.integers(0, 2, 24)
    return model.fit(x, y, batch_size=8, epochs=epochs, callbacks=callbacks, verbose=0, **arguments).history


def active(model):
    return [layer.active_channels for layer in fbs_keras.layers.densities.fbs_layers(model)]


class Record(keras.callbacks.Callback):
    """Records how many channels of the first layer really win at each step."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        self.seen.append(active(self.model)[0])


def test_density_by_epoch():
    model, record = make_model(), Record()
    history = fit(model, [DensityScheduler(schedules.StepDown(0.5, drop=0.25)), record], epochs=4)
    assert record.seen == [8] * 3 + [6] * 3 + [4] * 6
    assert history["density"] == [1.0, 0.75, 0.5, 0.5]
    assert active(model) == [4, 2]


def test_density_by_step():
    model, record = make_model(), Record()
    fit(model, [DensityScheduler(lambda step: 1 - step / 16, unit="step"), record], epochs=2)
    assert record.seen == [8, 8, 7, 7, 6, 6]
    # A resumed run goes on by the optimizer's steps, not from 0.
    fit(model, [DensityScheduler(lambda step: 1 - step / 16, unit="step"), record], epochs=3, initial_epoch=2)
    assert record.seen[6:] == [5, 5, 4]


def test_each_layer_falls_to_its_own_density():
    model = make_model()
    scheduler = DensityScheduler(schedules.StepDown({"first": 0.75, "sec*": 0.25}, drop=0.25))
    history = fit(model, [scheduler], epochs=4)
    assert active(model) == [6, 1]
    assert history["density"] == [1.0, 0.75, (0.75 + 0.5) / 2, 0.5]
    with pytest.raises(ValueError, match=r"no FBSConv2D layer matches 'third'; the model has \['first', 'second'\]"):
        fit(model, [DensityScheduler(schedules.Constant({"third": 0.5}))])


def test_a_scheduler_serves_several_models():
    scheduler = DensityScheduler(schedules.Constant(0.5))
    for model in (make_model(), make_model()):
        fit(model, [scheduler], epochs=1)
        assert active(model) == [4, 2]


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras takes one step an execution on PyTorch")
def test_several_steps_an_execution_count():
    model, seen = make_model(), []
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), steps_per_execution=3)
    fit(model, [DensityScheduler(lambda step: seen.append(step) or 1.0, unit="step")], epochs=3)
    assert seen == [0, 3, 6]


def test_density_changes_what_training_computes():
    model = make_model()
    fit(model, [DensityScheduler(schedules.Constant(0.25))], epochs=1)
    x = np.random.default_rng(1).normal(size=(4, 6, 6, 3)).astype("float32")
    y = keras.ops.convert_to_numpy(model.layers[0](x))
    assert (np.abs(y).sum(axis=(1, 2)) > 0).sum(axis=1).max() <= 2


def test_density_in_a_custom_loop():
    model = make_model()
    scheduler = DensityScheduler(schedules.StepDown(0.5, drop=0.5))
    scheduler.set_model(model)
    scheduler.on_epoch_begin(0)
    assert active(model) == [8, 4]
    scheduler.on_epoch_begin(1)
    assert active(model) == [4, 2]
    scheduler = DensityScheduler(lambda step: 1 / (step + 1), unit="step")
    scheduler.set_model(model)
    scheduler.on_train_batch_begin(3)
    assert active(model) == [2, 1]


def test_tfmot_schedules():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("tfmot computes with TensorFlow")
    tfmot = pytest.importorskip("tensorflow_model_optimization")
    model, record = make_model(), Record()
    schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, 0.5, begin_step=1, end_step=5, power=1, frequency=1)
    scheduler = DensityScheduler(schedule)
    assert scheduler.unit == "step"
    fit(model, [scheduler, record], epochs=2)
    assert record.seen == [8, 8, 7, 6, 5, 4]
    constant = tfmot.sparsity.keras.ConstantSparsity(0.75, begin_step=0, frequency=1)
    fit(model, [DensityScheduler(constant)], epochs=1)
    assert active(model) == [2, 1]


def test_saliency_regularizer_sets_the_weight_and_reports():
    model, lines = make_model(), []
    weights = []
    spy = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: weights.append(float(model.layers[0].saliency_weight.value))
    )
    regularizer = SaliencyRegularizer(lambda epoch: [0.0, 0.5][epoch], print_fn=lines.append)
    history = fit(model, [DensityScheduler(schedules.Constant(0.5)), regularizer, spy])
    assert weights == [0.0, 0.5]
    assert set(history) >= {"density", "gate_saliency", "gate_never", "gate_always"}
    assert len(lines) == 4
    assert lines[0].startswith("first: density 0.5, saliency ")
    rows = fbs_keras.gate_statistics(model)
    assert [row.name for row in rows] == ["first", "second"]
    assert all(0 <= row.dynamic <= 1 and row.saliency > 0 for row in rows)


def test_channels_that_never_win_are_counted_from_the_first_steps():
    model = make_model()
    for layer in fbs_keras.layers.densities.fbs_layers(model):
        layer.gate_kernel.assign(np.zeros(layer.gate_kernel.shape))
        layer.gate_bias.assign(np.arange(layer.filters) + 1.0)
    callbacks = [DensityScheduler(lambda epoch: [1.0, 0.75, 0.25][epoch]), SaliencyRegularizer()]
    history = fit(model, callbacks, epochs=3)
    np.testing.assert_allclose(history["gate_never"], [0, 0.25, 0.75])
    np.testing.assert_allclose(history["gate_always"], [1, 0.75, 0.25])


@pytest.mark.parametrize(
    ("momentum", "validate", "warns"),
    [(0.99, True, True), (0.99, False, False), (0.3, True, False), (0.0, True, False)],
)
def test_a_validation_soon_after_a_change_of_density_is_warned_of(momentum, validate, warns):
    model = make_model()
    for layer in fbs_keras.layers.densities.fbs_layers(model):
        layer.norm.momentum = momentum
    data = {"validation_data": (np.zeros((4, 6, 6, 3)), np.zeros(4))} if validate else {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(model, [DensityScheduler(schedules.Constant(0.5))], epochs=2, **data)
    texts = [str(each.message) for each in caught if "moving averages" in str(each.message)]
    assert len(texts) == warns
    if warns:
        assert "epoch 1 was validated after 3 steps" in texts[0] and "train for 299 steps" in texts[0]


def test_no_warning_long_after_a_change_of_density():
    model = make_model()
    fbs_keras.set_density(model, 0.5)
    model.optimizer.iterations.assign(1000)  # as of a model that is trained on
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = (np.zeros((4, 6, 6, 3)), np.zeros(4))
        fit(model, [DensityScheduler(schedules.Constant(0.5))], epochs=1, validation_data=data)
    assert not [each for each in caught if "moving averages" in str(each.message)]


def test_regularisation_shrinks_the_gates():
    sizes = []
    for weight in (0.0, 1.0):
        keras.utils.set_random_seed(0)
        model = make_model()
        fit(model, [SaliencyRegularizer(weight)], epochs=8)
        sizes.append(fbs_keras.gate_statistics(model)[0].saliency)
    assert sizes[1] < 0.9 * sizes[0]


def plain_model():
    model = keras.Sequential([keras.Input((6, 6, 3)), keras.layers.Flatten(), keras.layers.Dense(2)], name="plain")
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.mark.parametrize("callback", [lambda: DensityScheduler(schedules.Constant(0.5)), SaliencyRegularizer])
def test_a_model_without_fbs_layers_is_refused(callback):
    with pytest.raises(ValueError, match="found no FBSConv2D layer in model 'plain'"):
        fit(plain_model(), [callback()])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: DensityScheduler(0.5), TypeError, "schedule must be a function .* use fbs_keras.set_density"),
        (lambda: DensityScheduler(schedules.Constant(0.5), unit="day"), ValueError, "unit must be .*, got 'day'"),
        (lambda: SaliencyRegularizer(-1.0), ValueError, "weight must be finite and not below 0, got -1"),
        (lambda: SaliencyRegularizer(float("nan")), ValueError, "weight must be finite and not below 0, got nan"),
        (lambda: SaliencyRegularizer("much"), TypeError, "weight must be a number .*, got 'much'"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()
