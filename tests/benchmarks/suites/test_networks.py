"""The suite of networks: what it times is a live FBS network, and its figures are what they say."""

import dataclasses
import json
import os

import keras
import numpy as np
import pytest

import fbs_keras
from fbs_keras import plots
from fbs_keras.benchmarks.measurement import Candidate, Timing
from fbs_keras.benchmarks.suites import memory, networks
from fbs_keras.benchmarks.suites.memory import Memory
from fbs_keras.benchmarks.suites.networks import Network, NetworkResult, NetworkRow


def tiny():
    """One residual block."""

    def conv(x, filters):
        x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        return keras.layers.ReLU()(keras.layers.BatchNormalization()(x))

    inputs = keras.Input((16, 16, 3))
    x = conv(inputs, 64)
    x = keras.layers.Add()([x, conv(x, 64)])
    x = conv(x, 128)
    return keras.Model(inputs, keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(x)))


TINY = Network("tiny", "Tiny", tiny, 0.5)


@pytest.fixture(scope="module")
def model():
    """A deep network as the suite times it."""
    model = fbs_keras.wrap(fbs_keras.models.ResNet18((16, 16, 3), classes=5, stem="cifar"), 0.5)
    networks.randomise_gates(model)
    networks.calibrate(model)
    return model


def test_gates_choose_from_anywhere_and_by_the_input(model):
    images = np.random.default_rng(1).normal(size=(32, 16, 16, 3)).astype("float32")
    _, gates = plots.gate_model(model).predict(images, verbose=0)
    layers = {layer.name: layer for layer in fbs_keras.layers.densities.fbs_layers(model)}
    for name, g in gates.items():
        wins = keras.ops.convert_to_numpy(layers[name].winners(keras.ops.convert_to_tensor(g)))
        assert (g * wins > 0).sum(axis=1).mean() > 0.95 * layers[name].active_channels  # winners are alive
        runs = (np.diff(wins, axis=1) != 0).sum(axis=1)
        assert runs.min() > wins.shape[1] / 8  # not one run of neighbours
    rates = np.concatenate([layers[name].winners(keras.ops.convert_to_tensor(g)) for name, g in gates.items()], axis=1)
    rates = rates.mean(axis=0)
    assert 0.05 < ((rates > 0) & (rates < 1)).mean() < 0.95


def test_activations_keep_their_scale(model):
    images = np.random.default_rng(2).normal(size=(4, 16, 16, 3)).astype("float32")
    names = [layer.name for layer in fbs_keras.layers.densities.fbs_layers(model)]
    outputs = keras.Model(model.inputs, [model.get_layer(name).output for name in names])(images)
    for output in outputs:
        assert 0.05 < np.std(output) < 20
    assert all(layer.norm.momentum == 0.99 for layer in fbs_keras.layers.densities.fbs_layers(model))


def test_measure():
    result = networks.measure(TINY, seconds=1e-3)
    rows = {row.timing.name: row for row in result.rows}
    assert list(rows) == [
        *("dense", "static", "FBS portable", "FBS delegate", "FBS delegate, direct"),
        *("density 1, delegate", "density 1, delegate, direct"),
    ]
    report = fbs_keras.count_macs(fbs_keras.wrap(TINY.make(), 0.5))
    assert rows["dense"].timing.macs == report.dense and rows["dense"].r == pytest.approx(1)
    assert rows["FBS delegate"].mac_ratio == report.dense / report.conv
    assert rows["FBS delegate"].mac_ratio_with_gates == report.dense / report.fbs
    assert rows["density 1, delegate"].mac_ratio == 1 > rows["density 1, delegate"].mac_ratio_with_gates
    # In FBS the addition has all channels, in the static network half of them, as everywhere.
    static = 9 * 16 * 16 * (3 * 32 + 32 * 32 + 32 * 64) + 64 * 5
    assert (rows["static"].timing.macs, rows["static"].mac_ratio) == (static, report.dense / static)
    assert (result.peak_dense, result.peak_fbs) == (report.peak_dense, report.peak_fbs)
    for ours, open_ in networks.OURS.items():
        assert rows[ours].r == pytest.approx(rows[ours].timing.speedup / rows[ours].mac_ratio)
        own = rows[open_].timing.median / rows[ours].timing.median / rows[ours].mac_ratio
        assert rows[ours].r_own == pytest.approx(own)
        assert rows[open_].r == pytest.approx(rows[open_].timing.speedup) and rows[open_].r_own is None
    if os.path.exists("/proc/self/status"):
        for row in result.rows:
            assert 1e6 < row.memory.anonymous <= row.memory.resident < 1e9


def test_int8_against_int8():
    candidates, macs, _ = networks.make_candidates(TINY, quantize="dynamic_int8")
    float32, _, _ = networks.make_candidates(TINY)
    # Without those that forbid Winograd's algorithm, which int8 does not have.
    float32 = [each for each in float32 if "direct" not in each.name]
    assert [each.name for each in candidates] == [each.name for each in float32]
    assert all(each.name in macs for each in candidates)
    for int8, same in zip(candidates, float32, strict=True):
        assert (int8.macs, int8.use_delegate) == (same.macs, same.use_delegate)
        assert len(int8.model) < 0.6 * len(same.model)
        networks.check_outputs(int8)


def test_static_macs_of_a_chain_are_the_fbs_ones():
    model = fbs_keras.wrap(fbs_keras.models.MCifarNet(), 0.5)
    # The classifier reads active channels only in the static network; the FBS model's count has all of them.
    assert fbs_keras.count_macs(model).conv - networks.count_static_macs(model) == (192 - 96) * 10


def test_dead_activations_are_refused():
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(4, 3, kernel_initializer="zeros")(inputs))
    candidate = Candidate("dead", fbs_keras.convert(model), False)
    with pytest.raises(ValueError, match=r"'dead' computes values up to 0.0, so its time means nothing"):
        networks.check_outputs(candidate)


def test_table():
    rows = [
        NetworkRow(
            Timing("dense", 8.0, 7.5, 9.0, 1.0, 50, 100, 5_000_000), 1, 1, 1, None, Memory(21_000_000, 7_500_000)
        ),
        NetworkRow(Timing("FBS delegate", 2.5, 2.0, 3.0, 3.2, 50, 25, 5_500_000), 4, 3.9, 0.8, 0.75, None),
    ]
    assert networks.table(NetworkResult("net", "Net", 0.5, 4_000_000, 2_210_000, rows)).splitlines() == [
        "Net, float32, density 0.5: 4.00x fewer MACs (3.90x with the gates'), peak of one image's activations "
        "4.00 -> 2.21 MB",
        "              median ms      p10-p90  speed-up     R  R own  memory MB  anonymous MB  file MB",
        "dense             8.000  7.500-9.000     1.00x     -      -       21.0           7.5     5.00",
        "FBS delegate      2.500  2.000-3.000     3.20x  0.80   0.75          -             -     5.50",
    ]


def test_unknown_network():
    with pytest.raises(
        ValueError, match="no network is called 'alexnet'; the networks are vgg16, resnet18, resnet18_groups, mcifarnet"
    ):
        networks.networks("alexnet")
    assert [network.name for network in networks.networks("resnet")] == ["resnet18", "resnet18_groups"]


def test_memory_counts_packed_weights():
    """XNNPACK packs a copy of the weights: 4 MB of a dense layer, which are in the file's pages, too."""
    if not os.path.exists("/proc/self/status"):
        pytest.skip("memory is measured on Linux only")
    sizes = []
    for units in (8, 1032):
        inputs = keras.Input((1, 1, 1024))
        sizes.append(memory.measure(fbs_keras.convert(keras.Model(inputs, keras.layers.Dense(units)(inputs)))))
    small, large = sizes
    assert 0.9 * 2**22 < large.anonymous - small.anonymous < 1.5 * 2**22
    assert large.resident - small.resident > 1.9 * 2**22


def test_memory_says_why_a_file_cannot_be_run():
    if not os.path.exists("/proc/self/status"):
        pytest.skip("memory is measured on Linux only")
    with pytest.raises(ValueError, match="cannot measure the memory of a file: "):
        memory.measure(b"nonsense")


def test_results_go_into_json():
    row = NetworkRow(Timing("dense", 8.0, 7.5, 9.0, 1.0, 50, 100, 5), 1, 1, 1, None, Memory(2, 1))
    result = json.loads(json.dumps(dataclasses.asdict(NetworkResult("net", "Net", 0.5, 4, 2, [row]))))
    assert result["rows"][0]["memory"] == {"resident": 2, "anonymous": 1}
