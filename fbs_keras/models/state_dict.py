"""Reads PyTorch's state dicts without PyTorch: `.pth` files, new and old, and `.safetensors`.

A `.pth` file holds a pickle, which may name any function for Python to call. Here it can name what state dicts consist
of and nothing else, and none of that is imported. Sizes and offsets are checked against the file before use, and a
tensor is read only when asked for.
"""

import collections
import contextlib
import dataclasses
import json
import math
import os
import pickle
import pickletools
import typing
import zipfile

import numpy as np

# What a tensor's values are, as numpy writes it; all little-endian.
_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "<u1",
}
_SAFETENSORS = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1", "U8": "<u1"},
    "BOOL": "<u1",
}
_ZIP_START = b"PK\x03\x04"
# The first pickle of a file that torch.save wrote before version 1.6: the number 0x1950a86a20f9469cfc6c.
_OLD_START = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_OLD_PROTOCOL = 1001
# Tuples in each other to a depth of 200,000 overflow CPython's stack when one is hashed as a dict's key. A tensor needs
# five tuples, and no network of torchvision has 3,000 tensors.
_MOST_TUPLES = 20_000


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor in a file.

    Attributes:
        shape: Its shape.
        read: A function that reads its values from the file, as a numpy array.
    """

    shape: tuple
    read: typing.Callable

    def __setstate__(self, state):
        """Ignores the state that a pickle gives a tensor: old files say so whether it takes gradients."""


def read_state_dict(path):
    """Reads the names and shapes of the tensors in a file, and how to read each.

    Args:
        path: A file that `torch.save(model.state_dict(), path)` or `safetensors.torch.save_file` wrote.

    Returns:
        `{name: Tensor}`, in the file's order.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If it is none of these, is damaged, or holds anything but names and tensors.

    Example:

    >>> tensors = read_state_dict("resnet18.pth")
    >>> tensors["conv1.weight"].shape
    (64, 3, 7, 7)
    >>> tensors["conv1.weight"].read().mean()
    """
    with open(path, "rb") as file:
        start = file.read(len(_OLD_START))
        file.seek(0)
        with _sentences(path):
            if start.startswith(_ZIP_START):
                state = _read_zip(file, path)
            elif start == _OLD_START:
                state = _read_old(file, path)
            elif start[8:9] == b"{":
                state = _read_safetensors(file, path)
            else:
                raise ValueError("it starts like neither; expected what torch.save or safetensors write")
            return _checked(state, path)


@contextlib.contextmanager
def _sentences(path):
    """Turns whatever a damaged or hostile file makes the standard library raise into a `ValueError` with the path."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{os.fspath(path)!r} is no state dict that can be read: {error}") from error


def _checked(state, path):
    """A dict of tensors, which tell when they are read what is wrong with the file."""
    if not isinstance(state, dict):
        raise ValueError(f"it holds a {type(state).__name__}; save model.state_dict()")
    for name, value in state.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise ValueError(
                f"{name!r} is of type {type(value).__name__}, not a tensor; save model.state_dict() itself"
            )

    def reader(tensor):
        def read():
            with _sentences(path):
                return tensor.read()

        return read

    return {name: Tensor(tensor.shape, reader(tensor)) for name, tensor in state.items()}


@dataclasses.dataclass
class _Storage:
    """A run of values in a file; `read` returns its bytes."""

    dtype: str
    count: int
    read: typing.Callable

    @property
    def size(self):
        return self.count * np.dtype(self.dtype).itemsize


class _Unpickler(pickle.Unpickler):
    """Unpickles dicts of tensors. `storages`: a function from key, dtype and count to a `_Storage`."""

    def __init__(self, file, storages):
        super().__init__(file, encoding="utf-8")
        self.storages = storages
        # Made for each file, so that nothing a file does to them reaches the next.
        self.known = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor"): lambda *args: _tensor(*args),
            ("torch._utils", "_rebuild_tensor_v2"): lambda *args: _tensor(*args[:4]),
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
            ("torch.nn.parameter", "Parameter"): lambda data, *_: data,
            **{("torch", name): dtype for name, dtype in _STORAGES.items()},
        }

    def find_class(self, module, name):
        if (module, name) not in self.known:
            raise ValueError(
                f"it names {module}.{name}, which is not read; expected model.state_dict() of float32, 64 or 16 tensors"
            )
        return self.known[module, name]

    def persistent_load(self, reference):
        kind, dtype, key, _, count, *view = reference
        if kind != "storage" or dtype not in _STORAGES.values() or any(part is not None for part in view):
            raise ValueError(f"expected the storage of a tensor, got {reference!r}")
        return self.storages(key, dtype, _whole(count))


def _unpickle(file, storages):
    """Reads one pickle; the file is then at its end."""
    start = file.tell()
    tuples = 0
    for index, (code, argument, _) in enumerate(pickletools.genops(file)):
        tuples += code.name.startswith("TUPLE")
        if tuples > _MOST_TUPLES:
            raise ValueError(f"it has more than {_MOST_TUPLES} tuples, as no state dict needs")
        # Python makes a list as long as the largest place, gigabytes if it says so; writers count from 0.
        if code.name.endswith("PUT") and int(argument or 0) > index:
            raise ValueError(f"it notes a value at place {argument} after {index} steps")
    file.seek(start)
    return _Unpickler(file, storages).load()


def _whole(value):
    if type(value) is not int or value < 0:
        raise ValueError(f"expected a size or an offset, got {value!r}")
    return value


def _tensor(storage, offset, shape, strides):
    """The tensor of a storage's values from `offset` on; `strides` count values."""
    if not isinstance(storage, _Storage):
        raise ValueError(f"expected the storage of a tensor, got {storage!r}")
    shape, strides = tuple(map(_whole, shape)), tuple(map(_whole, strides))
    last = _whole(offset) + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if math.prod(shape) > storage.count or (math.prod(shape) and last >= storage.count):
        raise ValueError(f"a tensor of shape {shape} at {offset} exceeds its storage of {storage.count} values")
    dtype = np.dtype(storage.dtype)

    def read():
        steps = [stride * dtype.itemsize for stride in strides]
        return np.ndarray(shape, dtype, storage.read(), offset * dtype.itemsize, steps)

    return Tensor(shape, read)


def _read_zip(file, path):
    """A file of torch.save since version 1.6: a zip of a pickle and one file a storage."""
    with zipfile.ZipFile(file) as archive:
        records = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in records if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("expected one data.pkl in the zip: what torch.save wrote, not torch.jit.save")
        folder = pickles[0].removesuffix("data.pkl")
        if any(info.compress_type != zipfile.ZIP_STORED for info in records.values()):
            raise ValueError("it is compressed, as torch.save never writes it")
        order = f"{folder}byteorder"
        if order in records and archive.read(order) != b"little":
            raise ValueError("it was saved on a big-endian machine")

        def storages(key, dtype, count):
            name = f"{folder}data/{key}"
            storage = _Storage(dtype, count, lambda: read(name))
            if name not in records or records[name].file_size != storage.size:
                raise ValueError(f"expected a record {name!r} of {storage.size} bytes")
            return storage

        def read(name):
            with zipfile.ZipFile(path) as archive:
                return archive.read(name)

        with archive.open(pickles[0]) as data:
            return _unpickle(data, storages)


def _read_old(file, path):
    """A file of torch.save before version 1.6, such as torchvision's first VGGs: pickles, then the storages."""
    found: dict[str, _Storage] = {}

    def storages(key, dtype, count):
        return found.setdefault(key, _Storage(dtype, count, lambda: None))

    _, protocol, system, state, keys = (_unpickle(file, storages) for _ in range(5))
    if protocol != _OLD_PROTOCOL or not system["little_endian"]:
        raise ValueError(f"expected protocol {_OLD_PROTOCOL} of a little-endian machine, got {protocol} of {system}")
    if sorted(keys) != sorted(found):
        raise ValueError("its list of storages does not fit its tensors")
    end = os.fstat(file.fileno()).st_size
    for key in keys:
        storage = found[key]
        count, place = int.from_bytes(file.read(8), "little"), file.tell()
        if count != storage.count or place + storage.size > end:
            raise ValueError(f"storage {key!r} is cut off, or has {count} values where {storage.count} were expected")
        storage.read = _part(path, place, storage.size)
        file.seek(place + storage.size)
    return state


def _read_safetensors(file, path):
    """A .safetensors file: the length of its header, the header in JSON, the values."""
    end = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    start = 8 + length
    if start > end:
        raise ValueError(f"its header of {length} bytes is longer than the file")
    tensors = {}
    for name, entry in json.loads(file.read(length)).items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _SAFETENSORS:
            raise ValueError(f"{name!r} is of type {entry['dtype']!r}; save it as F32")
        shape, (first, last) = tuple(map(_whole, entry["shape"])), map(_whole, entry["data_offsets"])
        storage = _Storage(_SAFETENSORS[entry["dtype"]], math.prod(shape), _part(path, start + first, last - first))
        if last - first != storage.size or start + last > end:
            raise ValueError(f"{name!r} of shape {shape} has bytes {first} to {last} of {end - start}")
        strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        tensors[name] = _tensor(storage, 0, shape, strides)
    return tensors


def _part(path, place, size):
    """A function that reads a part of a file."""

    def read():
        with open(path, "rb") as file:
            file.seek(place)
            return file.read(size)

    return read
