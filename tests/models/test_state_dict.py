import pickle
import zipfile

import numpy as np
import pytest
from torch_files import (
    ORDERED_DICT,
    Build,
    Call,
    Global,
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

from fbs_keras.models.state_dict import read_state_dict

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
    "a state for a class": ({"a": Build(ORDERED_DICT, {"items": 1})}, ""),
    "a state for a type": ({"a": Build(FLOATS, {"x": 1})}, ""),
    "a function as a value": ({"a": REBUILD}, "'a' is of type function, not a tensor|its list of"),
    "a checkpoint": ({"epoch": 3, "model": GOOD}, "'epoch' is of type int, not a tensor; save model.state_dict"),
    "a list": ([1], "it holds a list; save model.state_dict|its list of"),
    "names that are numbers": ({3: tensor(ONES, 0)}, "3 is of type Tensor"),
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
    (tmp_path / "weights.pth").write_bytes(form(state, [ONES]))
    with pytest.raises(ValueError, match=f"'weights.pth' is no state dict that can be read: .*({message})"):
        read_state_dict("weights.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]


def entry(dtype="F32", shape=(6,), offsets=(0, 24)):
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


VALUES = ONES.tobytes()
DEEP = b"\x80\x02}(" + b")" + b"\x85" * 200_000 + b"K\x01u."  # hashing this key would overflow the stack
FAR = b"\x80\x02}r\x00\x00\x00\x10."  # a note at place 2**28, for which Python would take 4 GB
DAMAGED = {
    "a note far away": (old_file({}, [])[: len(pickled(1 << 70))] + FAR, "it notes a value at place 268435456"),
    "a deep pickle": (old_file({}, [])[: len(pickled(1 << 70))] + DEEP, "more than 20000 tuples"),
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
    "a header beyond the end": (b"\xff" * 7 + b"\x00{}", "longer than the file"),
    "a header that is no JSON": (safetensors_file(b"{nothing}"), "no state dict that can be read"),
    "a deep header": (safetensors_file(b'{"a":' + b"[" * 100_000), "no state dict that can be read"),
    "an entry without a shape": (safetensors_file({"a": {"dtype": "F32"}}), "no state dict that can be read"),
    "offsets beyond the end": (safetensors_file(entry(offsets=(1, 25)), VALUES), "has bytes 1 to 25 of 24"),
    "offsets that do not fit the shape": (safetensors_file(entry(shape=(5,)), VALUES), r"of shape \(5,\) has bytes"),
    "offsets backwards": (safetensors_file(entry(shape=(0,), offsets=(24, 0)), VALUES), "has bytes 24 to 0"),
    "a negative size": (safetensors_file(entry(shape=(-6,)), VALUES), "expected a size or an offset, got -6"),
    "a size that is no integer": (safetensors_file(entry(shape=(6.0,)), VALUES), "expected a size .*, got 6.0"),
    "another type": (safetensors_file(entry("BF16", offsets=(0, 12)), VALUES), "'a' is of type 'BF16'; save it as F32"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_refused(name, tmp_path):
    content, message = DAMAGED[name]
    path = tmp_path / "weights"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_state_dict(path)


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


def test_a_state_that_outlives_the_file(tmp_path):
    """A file gives a function that it may name other defaults; the next file is read as ever."""
    state = {"a": Build(REBUILD, (None, {"__defaults__": (1, 2, 3), "__kwdefaults__": None}))}
    (tmp_path / "hostile.pth").write_bytes(zip_file(state, [ONES]))
    with pytest.raises(ValueError, match="no state dict"):
        read_state_dict(tmp_path / "hostile.pth")
    save_zip(tmp_path / "good.pth", ARRAYS)
    assert list(read_state_dict(tmp_path / "good.pth")) == list(ARRAYS)


def test_a_missing_file_is_told_as_such(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_state_dict(tmp_path / "nothing.pth")


def test_the_writer_writes_pickles():
    value = {"a": (1, -2, None, True, [2**70]), "b": {}}
    assert pickle.loads(pickled(value)) == value
