import argparse
import json
import pickle
import struct
import sys
import time
import zipfile

import numpy as np
import pytest
from torch_files import (
    ORDERED_DICT,
    Build,
    Call,
    Global,
    Raw,
    Reference,
    old_file,
    pickled,
    safetensors_file,
    save_old,
    save_safetensors,
    save_zip,
    storage,
    tensor,
    zip_file,
)

from fbs_keras.models import pickles, tensor_files
from fbs_keras.models.pickles import Name, Opaque
from fbs_keras.models.state_dict import read_state_dict
from fbs_keras.models.tensor_files import Tensor

ARRAYS = {
    "conv.weight": np.arange(24, dtype="<f4").reshape(2, 3, 2, 2),
    "half": np.linspace(-1, 1, 5).astype("<f2"),
    "double": np.array([[0.1, 0.2]]),
    "norm.num_batches_tracked": np.array(7),
    "empty": np.zeros((0, 3), "<f4"),
}
WRITERS = {"zip": save_zip, "old": save_old, "safetensors": save_safetensors}


@pytest.mark.parametrize("form", WRITERS)
def test_every_format(form, tmp_path):
    path = tmp_path / "weights"  # what is in it tells, not the name
    WRITERS[form](path, ARRAYS)
    tensors = read_state_dict(path)
    assert list(tensors) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert tensors[name].shape == array.shape
        value = tensors[name].read()
        assert value.dtype == array.dtype
        np.testing.assert_array_equal(value, array)


def rebuilt(array, offset, shape, strides):
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), (storage(array, 0), offset, shape, strides, False, None))


def test_views_of_one_storage(tmp_path):
    array = np.arange(12, dtype="<f4")
    state = {"row": rebuilt(array, 4, (4,), (1,)), "transposed": rebuilt(array, 0, (4, 3), (1, 4))}
    (tmp_path / "weights.pth").write_bytes(zip_file(state, [array], byteorder="little"))
    tensors = read_state_dict(tmp_path / "weights.pth")
    np.testing.assert_array_equal(tensors["row"].read(), array[4:8])
    np.testing.assert_array_equal(tensors["transposed"].read(), array.reshape(3, 4).T)


ONES = np.ones(6, "<f4")
GOOD = {"a": tensor(ONES, 0)}
REBUILD = Global("torch._utils", "_rebuild_tensor_v2")
FLOATS = Global("torch", "FloatStorage")
TOUCH = Call(Global("os", "system"), ("touch EXECUTED",))
HOSTILE = {
    "a system call": ({"a": TOUCH}, r"it names os\.system, which is not read"),
    "eval": ({"a": Call(Global("builtins", "eval"), ("open('EXECUTED', 'w')",))}, r"it names builtins\.eval"),
    "numpy's pickle": ({"a": Call(Global("numpy", "load"), ("x", None, True))}, r"it names numpy\.load"),
    "a call in a storage": ({"a": Reference(TOUCH)}, r"it names os\.system"),
    "a whole model": (
        {"a": Global("torchvision.models.resnet", "ResNet")},
        "ResNet, which is not read; expected",
    ),
    "an attribute of something known": ({"a": Global("collections", "OrderedDict.fromkeys")}, "it names collections"),
    "a state for a class": ({"a": Build(ORDERED_DICT, {"x": 1})}, "it gives a state to a Name, as no state dict does"),
    "a state for a type": ({"a": Build(FLOATS, {"x": 1})}, "it gives a state to a Name"),
    "a state for a function": ({"a": Build(REBUILD, (None, {"__defaults__": (1,)}))}, "it gives a state to a Name"),
    "a state for a dict": ({"a": Build(Call(ORDERED_DICT), {"x": 1})}, "it gives a state to a dict"),
    "a state for a list": ({"a": Build([], {"x": 1})}, "it gives a state to a list"),
    "a state for a tensor": ({"a": Build(tensor(ONES, 0), {"x": 1})}, "it gives a state to a Tensor"),
    "a state for a storage": ({"a": Build(storage(ONES, 0), {"x": 1})}, "it gives a state to a _Storage"),
    "slots for a storage": ({"a": Build(storage(ONES, 0), (None, {"x": 1}))}, "it gives a state to a _Storage"),
    "a storage as a value": ({"a": storage(ONES, 0)}, "no tensors by name, but 'a', a _Storage; save|its list of"),
    "an extension": ({"a": Raw(b"\x82\x01")}, "it names extension 1, which is not read"),
    "a new object with keywords": (
        {"a": Raw(b"\x8c\x02os\x8c\x06system\x93)}\x92")},
        r"it names os\.system, which is not read",
    ),
    "a function as a value": ({"a": REBUILD}, "for 'a' it names torch._utils._rebuild_tensor_v2, which is not read"),
    "a checkpoint without a state dict": (
        {"epoch": 3, "model": Global("net", "Net")},
        "for 'model' it names net.Net, which is not read",
    ),
    "a checkpoint with two": (
        {"epoch": 3, "model": GOOD, "ema": {"a": tensor(ONES, 0)}},
        "it holds 2 state dicts, under 'model', 'ema'; save one of them by itself",
    ),
    "a list": ([1], r"it holds a list; save model.state_dict|its list of"),
    "names that are numbers": ({3: tensor(ONES, 0)}, "it holds no tensors by name, but 3, a Tensor"),
    "a name that comes twice": (Raw(b"}(" + 2 * pickled("a")[2:-1].join([b"", b"K\x01"]) + b"u"), "it names 'a' twice"),
    "very many dimensions": (
        {"a": rebuilt(ONES, 0, (1,) * 10**4, (1,) * 10**4)},
        "expected the sizes of at most 32 dimensions, got 10000 of them",
    ),
    "a size beyond 64 bits": ({"a": rebuilt(ONES, 0, (2**70,), (1,))}, "expected a size or an offset, got 1180591"),
    "a shape of numbers and texts": ({"a": rebuilt(ONES, 0, ("1",), (1,))}, "expected a size or an offset, got '1'"),
    "a type that is no number's": (
        {"a": Call(REBUILD, (Reference(("storage", Global("torch", "PyObject"), "0", "cpu", 6)), 0, (6,), (1,)))},
        r"it names torch\.PyObject, which is not read|its list of storages does not fit",
    ),
    "a type of its own": (
        {"a": Call(REBUILD, (Reference(("storage", "O", "0", "cpu", 6)), 0, (6,), (1,)))},
        "expected the storage of a tensor, got",
    ),
    "a shape too large": ({"a": rebuilt(ONES, 0, (7,), (1,))}, r"of shape \(7,\) at 0 exceeds its storage of 6 values"),
    "a huge broadcast": ({"a": rebuilt(ONES, 0, (10**9, 10**9), (0, 0))}, "exceeds its storage"),
    "an offset too large": ({"a": rebuilt(ONES, 1, (6,), (1,))}, "exceeds its storage"),
    "strides too large": ({"a": rebuilt(ONES, 0, (3,), (3,))}, "exceeds its storage"),
    "a negative stride": ({"a": rebuilt(ONES, 5, (3,), (-1,))}, "expected a size or an offset, got -1"),
    "a negative offset": ({"a": rebuilt(ONES, -1, (3,), (1,))}, "expected a size or an offset, got -1"),
    "more strides than axes": ({"a": rebuilt(ONES, 0, (3,), (1, 1))}, "zip"),
    "no storage": ({"a": Call(REBUILD, ("x", 0, (1,), (1,)))}, "expected the storage of a tensor, got 'x'"),
    "another kind of reference": (
        {"a": Call(REBUILD, (Reference(("module", None, "0", "cpu", 6)), 0, (6,), (1,)))},
        "expected the storage of a tensor",
    ),
    "a storage of another size": (
        {"a": Call(REBUILD, (Reference(("storage", FLOATS, "0", "cpu", 7)), 0, (6,), (1,)))},
        "expected a record 'archive/data/0' of 28 bytes|is cut off, or has 6 values where 7|got",
    ),
    "a storage out of the folder": (
        {"a": Call(REBUILD, (Reference(("storage", FLOATS, "../x", "cpu", 6)), 0, (6,), (1,)))},
        "expected a record|its list of storages|got",
    ),
}


@pytest.mark.parametrize("form", [zip_file, old_file])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused(name, form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state, message = HOSTILE[name]
    (tmp_path / "weights.pth").write_bytes(form(state, [ONES] if b"storage" in pickled(state) else []))
    with pytest.raises(ValueError, match=f"'weights.pth' is no state dict that can be read: .*({message})"):
        read_state_dict("weights.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]


def test_bombs_are_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "MOST_STEPS", 150_000)
    path = tmp_path / "weights.pth"
    deep = b"}(" + b")" + b"\x85" * 100_000 + b"K\x01u"  # hashing this key would overflow the stack
    doubling = b"]" + b"".join(b"q%c]h%ch%c\x86a" % (n, n, n) for n in range(100))  # 2**100 lists, written out
    colliding = [b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") + b"N" for k in range(40_000)]  # all hash to 0
    shared = b"](" + b"K\x01K\x02\x86" * 20_000 + b"eq\x00ccollections\nOrderedDict\nq\x010"
    shared += b"](" + b"h\x01h\x00\x85R" * 1000 + b"e"  # 1,000 dicts of 20,000 pairs each
    bombs = {
        "deep": (deep, "it holds no tensors by name"),
        "doubling": (doubling, "it holds a list"),
        "colliding": (b"}(" + b"".join(colliding) + b"u", "it holds no tensors by name"),
        "many steps": (b"N0" * 10**5 + b"}", "more than 150000 steps"),
        "many pairs": (shared, "more than 150000 steps"),
        "far": (b"}r\x00\x00\x00\x10", "it notes a value at place 268435456"),
        "long": (b"X\xff\xff\xff\x7f", "no state dict"),
        "huge number": (b"}\x8a\xff" + b"\x7f" * 255 + b"K\x01s", "it holds no tensors by name, but a number of 2039"),
    }
    for name, (instructions, message) in bombs.items():
        path.write_bytes(zip_file(Raw(instructions), []))
        begin = time.process_time()
        with pytest.raises(ValueError, match=message):
            read_state_dict(path)
        assert time.process_time() - begin < 20, name  # it takes 2 at most


CHECKPOINTS = {
    "a training script's": {"epoch": 90, "arch": "resnet18", "state_dict": GOOD, "best_prec1": 69.7, "optimizer": None},
    "another key": {"model_state_dict": GOOD, "loss": [0.5, 0.25], "done": True},
    "an average alone": {"ema": GOOD, "decay": 0.9999},
    "nested twice": {"checkpoint": {"model": GOOD, "epoch": 3}},
    "a tensor beside": {"best_acc1": tensor(ONES, 0), "state_dict": {"a": tensor(ONES, 0)}},
    "an optimizer": {
        "model": GOOD,
        "optimizer": {"state": {0: {"momentum_buffer": tensor(ONES, 0)}}, "param_groups": [{"lr": 0.1}]},
    },
    "other objects": {
        "model": GOOD,
        "args": Build(Call(Global("argparse", "Namespace")), {"lr": 0.1}),
        "best": Call(Global("numpy.core.multiarray", "scalar"), ("f8", "x")),
        "set": Raw(b"\x8f(K\x01\x90"),
    },
    "of several devices": {"state_dict": {"module.a": tensor(ONES, 0)}},
    "of a compiled model": {"module._orig_mod.a": tensor(ONES, 0)},
    "of an averaged model": {"n_averaged": tensor(ONES, 0), "module.a": tensor(ONES, 0)},
    "numbers among the tensors": {"a": tensor(ONES, 0), "version": 2},
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints(name, tmp_path, caplog):
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(zip_file(CHECKPOINTS[name], [ONES]))
    tensors = read_state_dict(path)
    assert list(tensors) == ["a"]
    np.testing.assert_array_equal(tensors["a"].read(), ONES)
    assert str(path) in caplog.text
    for key in ("state_dict", "model_state_dict", "ema", "checkpoint.model"):
        if key.split(".")[0] in CHECKPOINTS[name]:
            assert f"read what is under '{key}'" in caplog.text


def test_a_plain_state_dict_is_read_without_a_word(tmp_path, caplog):
    save_zip(tmp_path / "weights.pth", ARRAYS)
    read_state_dict(tmp_path / "weights.pth")
    assert not caplog.text


def test_what_torch_itself_writes(tmp_path, caplog):
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.ones(2, 3, 5, 5)).sum().backward()
    optimizer.step()
    checkpoint = {"model": torch.nn.DataParallel(model).state_dict(), "optimizer": optimizer.state_dict(), "epoch": 1}
    checkpoint |= {"rng_state": torch.get_rng_state(), "args": argparse.Namespace(lr=0.1), "best": np.float64(0.5)}
    expected = {name: value.numpy() for name, value in model.state_dict().items()}
    for settings in ({}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}):
        for content in (checkpoint, dict(model.named_parameters()), model.state_dict()):
            torch.save(content, tmp_path / "file.pth", **settings)
            got = {name: value.read() for name, value in read_state_dict(tmp_path / "file.pth").items()}
            for name, value in got.items():
                np.testing.assert_array_equal(value, expected[name])
            assert got.keys() == (expected if "epoch" in content else content).keys()


def entry(dtype="F32", shape=(6,), offsets=(0, 24)):
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


def sharing_records():
    """A zip whose directory has a record of 40 kB a hundred times, by other names."""
    content = bytearray(zip_file(GOOD, [np.ones(10**4, "<f4")]))
    start = content.rindex(b"PK\x01\x02")  # the last entry of the directory
    end = content.index(b"PK\x05\x06")
    entries = [content[start:end].replace(b"data/0", f"ata/{n:02}".encode()) for n in range(100)]
    directory = b"".join([content[content.index(b"PK\x01\x02") : end], *entries])
    tail = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 102, 102, len(directory), content.index(b"PK\x01\x02"), 0)
    return bytes(content[: content.index(b"PK\x01\x02")] + directory + tail)


VALUES = ONES.tobytes()
FAR = b"\x80\x02}r\x00\x00\x00\x10."  # a note at place 2**28, for which Python would take 4 GB
FULL = zip_file(GOOD, [ONES], byteorder="little")
LIBRARY = "no state dict that can be read: ."  # and what the package safetensors says
DAMAGED = {
    "a note far away": (old_file({}, [])[: len(pickled(1 << 70))] + FAR, "it notes a value at place 268435456"),
    "nothing": (b"", "it starts like neither"),
    "an archive": (b"torch" * 200, "it starts like neither; expected what torch.save or safetensors write"),
    "a compressed zip": (zip_file(GOOD, [ONES], zipfile.ZIP_DEFLATED), "it is compressed"),
    "a big-endian zip": (zip_file(GOOD, [ONES], byteorder="big"), "big-endian"),
    "a zip with two pickles": (zip_file(GOOD, [ONES], **{"x/data.pkl": b""}), r"expected one data\.pkl"),
    "a zip without the storage": (zip_file(GOOD, []), "expected a record 'archive/data/0' of 24 bytes"),
    "an old file of another protocol": (old_file({}, [], protocol=7), "expected protocol 1001 .*, got 7"),
    "a big-endian old file": (old_file({}, [], little=False), "little-endian machine"),
    "an old file with a storage too many": (old_file({}, [ONES]), "its list of storages does not fit"),
    "an old file cut off": (old_file({"a": tensor(ONES, 0, old=True)}, [ONES])[:-1], "storage '0' is cut off"),
    "a zip cut off": (FULL[:-30], "no state dict that can be read"),
    "a record of another content": (FULL.replace(ONES.tobytes(), b"\x01" * 24), "Bad CRC-32"),
    "two records of a name": (zip_file(GOOD, [ONES], **{"data/0": ONES.tobytes()}), "two records .* the same name"),
    "records that share bytes": (sharing_records(), "its records are larger than the file"),
    "an endless header": (b"\xff" * 7 + b"\x00{}", "its header of 72057594037927935 bytes is longer than"),
    "a header beyond the end": (b"\xff\xff" + b"\x00" * 6 + b"{}", LIBRARY),
    "a header that is no JSON": (safetensors_file(b"{nothing}"), LIBRARY),
    "a deep header": (safetensors_file(b'{"a":' + b"[" * 100_000), LIBRARY),
    "an entry without a shape": (safetensors_file({"a": {"dtype": "F32"}}), LIBRARY),
    "an entry that comes twice": (
        safetensors_file(json.dumps(entry()).encode()[:-1] + b", " + json.dumps(entry()).encode()[1:], VALUES),
        "it names 'a' twice",
    ),
    "offsets beyond the end": (safetensors_file(entry(offsets=(1, 25)), VALUES), LIBRARY),
    "offsets that do not fit the shape": (safetensors_file(entry(shape=(5,)), VALUES), LIBRARY),
    "offsets backwards": (safetensors_file(entry(shape=(0,), offsets=(24, 0)), VALUES), LIBRARY),
    "a negative size": (safetensors_file(entry(shape=(-6,)), VALUES), LIBRARY),
    "a size that is no integer": (safetensors_file(entry(shape=(6.0,)), VALUES), LIBRARY),
    "a shape of very many dimensions": (
        safetensors_file(entry(shape=(1,) * 300_000 + (6,)), VALUES),
        "expected the sizes of at most 32 dimensions, got 300001 of them",
    ),
    "a shape of very many huge dimensions": (
        safetensors_file(entry(shape=(2**62,) * 300_000 + (0,), offsets=(0, 0))),
        LIBRARY,
    ),
    "another type": (
        safetensors_file(entry("BF16", offsets=(0, 12)), VALUES[:12]),
        "'a' is of type 'BF16'; save it as F32",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_refused(name, tmp_path):
    content, message = DAMAGED[name]
    path = tmp_path / "weights"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        for each in read_state_dict(path).values():
            each.read()


@pytest.mark.parametrize("form", WRITERS)
def test_any_damage_is_told_in_a_sentence(form, tmp_path):
    path = tmp_path / "weights"
    WRITERS[form](path, ARRAYS)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(content[: rng.integers(len(content))] if rng.random() < 0.3 else content)
        for place in rng.integers(max(1, len(damaged)), size=rng.integers(1, 4)):
            damaged[place : place + 1] = rng.bytes(1)
        path.write_bytes(damaged)
        try:
            for value in read_state_dict(path).values():
                assert value.read().shape == value.shape
        except ValueError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("dtype", ["O", "|O8", "V8", "<U2"])
def test_bytes_become_numbers_only(dtype):
    """What no file can bring about, as no object takes a state: the last line of defence."""
    values = tensor_files._tensor(tensor_files._Storage(dtype, 3, lambda: bytes(24)), 0, (3,), (1,))
    with pytest.raises(ValueError, match="expected numbers, got"):
        values.read()


@pytest.mark.parametrize(
    "value", [Tensor((), None), tensor_files._Storage("<f4", 1, None), Name("a", "b"), Opaque("a")]
)
def test_nothing_that_is_made_takes_a_state(value):
    assert not hasattr(value, "__setstate__") and not hasattr(value, "__dict__")
    with pytest.raises(AttributeError):
        value.other = 1
    with pytest.raises(AttributeError):
        value.dtype = "O"


def test_safetensors_is_asked_for_where_it_is_missing(tmp_path, monkeypatch):
    save_safetensors(tmp_path / "weights.safetensors", ARRAYS)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=r"weights\.safetensors' is a \.safetensors file, .* pip install safetensors"):
        read_state_dict(tmp_path / "weights.safetensors")


def test_a_missing_file_is_told_as_such(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_state_dict(tmp_path / "nothing.pth")


def test_the_writer_writes_pickles():
    value = {"a": (1, -2, None, True, [2**70]), "b": {}}
    assert pickle.loads(pickled(value)) == value
