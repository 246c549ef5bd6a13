"""Reads the files of tensors that PyTorch writes: `.pth`, new and old, and `.safetensors`.

A `.pth` file holds a pickle, which `pickles` reads as data. Sizes and offsets are checked against the file before use,
the type of the values once more where bytes become an array, and a tensor is read only when asked for.
"""

import functools
import json
import math
import os
import typing
import zipfile

import numpy as np

from fbs_keras.models import pickles
from fbs_keras.models.pickles import Name, Opaque, kind_of, short

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
_SAFETENSORS = ("F64", "F32", "F16", "I64", "I32", "I16", "I8", "U8", "BOOL")
_REBUILDERS = (("torch._utils", "_rebuild_tensor"), ("torch._utils", "_rebuild_tensor_v2"))
_PARAMETERS = (("torch._utils", "_rebuild_parameter"), ("torch.nn.parameter", "Parameter"))
_ZIP_START = b"PK\x03\x04"
# The first pickle of a file that torch.save wrote before version 1.6: the number 0x1950a86a20f9469cfc6c.
_OLD_START = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_OLD_PROTOCOL = 1001
_MOST_DIMENSIONS = 32  # of an array in NumPy 1; a convolution's weights have 5 at most
_MOST_HEADER = 2**24  # bytes of a .safetensors file's header; a tensor takes about 100


class Tensor(typing.NamedTuple):
    """A tensor in a file.

    Attributes:
        shape: Its shape.
        read: A function that reads its values from the file, as a numpy array.
    """

    shape: tuple
    read: typing.Callable


def read(file, path):
    """Reads what a file holds, but not yet its tensors' values.

    Args:
        file: The file, open for reading bytes.
        path: Its path, for reading the values.

    Returns:
        A dict of `Tensor`s, or whatever else the pickle holds: numbers, strings, tuples, lists, dicts, `Opaque`s.

    Raises:
        ImportError: If it is a `.safetensors` file, and the package `safetensors` is not installed.
        Exception: Of any type, if the file is damaged or hostile.
    """
    start = file.read(len(_OLD_START))
    file.seek(0)
    if start.startswith(_ZIP_START):
        return _read_zip(file, path)
    if start == _OLD_START:
        return _read_old(file, path)
    if start[8:9] == b"{":
        return _read_safetensors(file, path)
    raise ValueError("it starts like neither; expected what torch.save or safetensors write")


class _Storage(typing.NamedTuple):
    """A run of values in a file; `content` returns its bytes."""

    dtype: str
    values: int
    content: typing.Callable

    @property
    def size(self):
        return self.values * np.dtype(self.dtype).itemsize


def _unpickle(file, storages):
    """Reads one pickle of tensors; `storages` is a function from key, dtype and count to a `_Storage`."""

    def refer(reference):
        if type(reference) is Opaque:
            return reference
        kind, storage, key, _, count, *view = reference if type(reference) is tuple else 5 * (None,)
        usual = kind == "storage" and type(storage) is Name and type(key) is str
        if not usual or any(part is not None for part in view):
            raise ValueError(f"expected the storage of a tensor, got {short(reference)}")
        if storage.module != "torch" or storage.name not in _STORAGES:
            return Opaque(storage)
        return storages(key, _STORAGES[storage.name], _whole(count))

    return pickles.load(file, _call, refer, _check_state)


def _call(name, arguments):
    """What comes of something that a pickle calls: a tensor, or nothing that can be read."""
    if name in _REBUILDERS and len(arguments) >= 4:
        return _tensor(*arguments[:4])
    if name in _PARAMETERS and arguments:
        return arguments[0]
    return Opaque(name)


def _check_state(target, state):
    """Refuses what PyTorch does not write: state_dict() has versions besides, old files a parameter's gradient."""
    versions = type(target) is dict and type(state) is dict and all(key == "_metadata" for key in state)
    if not versions and not (type(target) is Tensor and type(state) is tuple):
        raise ValueError(f"it gives a state to {kind_of(target)}, as no state dict does")


def _whole(value):
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"expected a size or an offset, got {short(value)}")
    return value


def _shape(sizes):
    if type(sizes) not in (tuple, list) or len(sizes) > _MOST_DIMENSIONS:
        what = f"{len(sizes)} of them" if type(sizes) in (tuple, list) else short(sizes)
        raise ValueError(f"expected the sizes of at most {_MOST_DIMENSIONS} dimensions, got {what}")
    return tuple(map(_whole, sizes))


def _tensor(storage, offset, shape, strides):
    """The tensor of a storage's values from `offset` on; `strides` count values."""
    if type(storage) is Opaque:
        return storage
    if type(storage) is not _Storage:
        raise ValueError(f"expected the storage of a tensor, got {short(storage)}")
    shape, strides = _shape(shape), _shape(strides)
    last = _whole(offset) + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if math.prod(shape) > storage.values or (math.prod(shape) and last >= storage.values):
        raise ValueError(f"a tensor of shape {shape} at {offset} exceeds its storage of {storage.values} values")

    def read():
        if storage.dtype not in _STORAGES.values():  # bytes as anything else than numbers would be taken for addresses
            raise ValueError(f"expected numbers, got {storage.dtype!r}")
        values = np.frombuffer(storage.content(), storage.dtype)
        steps = [stride * values.itemsize for stride in strides]
        return np.ndarray(shape, values.dtype, values, offset * values.itemsize if math.prod(shape) else 0, steps)

    return Tensor(shape, read)


def _read_zip(file, path):
    """A file of torch.save since version 1.6: a zip of a pickle and one file a storage."""
    end = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        records = {info.filename: info for info in archive.infolist()}
        if len(records) < len(archive.infolist()):
            raise ValueError("two records of the zip have the same name")
        pickled = [name for name in records if name.endswith("/data.pkl")]
        if len(pickled) != 1:
            raise ValueError("expected one data.pkl in the zip: what torch.save wrote, not torch.jit.save")
        folder = pickled[0].removesuffix("data.pkl")
        if any(info.compress_type != zipfile.ZIP_STORED for info in records.values()):
            raise ValueError("it is compressed, as torch.save never writes it")
        if sum(max(info.file_size, info.compress_size) for info in records.values()) > end:
            raise ValueError(f"its records are larger than the file of {end} bytes")
        order = f"{folder}byteorder"
        if order in records and archive.read(order) != b"little":
            raise ValueError("it was saved on a big-endian machine")

        def storages(key, dtype, count):
            name = f"{folder}data/{key}"
            storage = _Storage(dtype, count, lambda: contents(name))
            if name not in records or records[name].file_size != storage.size:
                raise ValueError(f"expected a record {short(name)} of {storage.size} bytes")
            return storage

        def contents(name):
            with zipfile.ZipFile(path) as archive:
                return archive.read(name)

        with archive.open(pickled[0]) as data:
            return _unpickle(data, storages)


def _read_old(file, path):
    """A file of torch.save before version 1.6, such as torchvision's first VGGs: pickles, then the storages."""
    found: dict[str, _Storage] = {}
    places: dict[str, int] = {}

    def storages(key, dtype, count):
        storage = found.setdefault(key, _Storage(dtype, count, lambda: _part(path, places[key], storage.size)))
        if (storage.dtype, storage.values) != (dtype, count):
            raise ValueError(f"storage {short(key)} is of two types or sizes")
        return storage

    _, protocol, system, state, keys = (_unpickle(file, storages) for _ in range(5))
    if protocol != _OLD_PROTOCOL or type(system) is not dict or system.get("little_endian") is not True:
        raise ValueError(
            f"expected protocol {_OLD_PROTOCOL} of a little-endian machine, got {short(protocol)} of {short(system)}"
        )
    if type(keys) is not list or any(type(key) is not str for key in keys) or sorted(keys) != sorted(found):
        raise ValueError(
            "its list of storages does not fit its tensors: it is damaged, or holds tensors of another type than "
            f"{', '.join(_STORAGES)}"
        )
    end = os.fstat(file.fileno()).st_size
    for key in keys:
        storage = found[key]
        count, places[key] = int.from_bytes(file.read(8), "little"), file.tell()
        if count != storage.values or places[key] + storage.size > end:
            raise ValueError(
                f"storage {short(key)} is cut off, or has {count} values where {storage.values} were expected"
            )
        file.seek(places[key] + storage.size)
    return state


def _part(path, place, size):
    with open(path, "rb") as file:
        file.seek(place)
        return file.read(size)


def _read_safetensors(file, path):
    """A .safetensors file: the length of its header, the header in JSON, the values. The package checks them all."""
    try:
        import safetensors
    except ImportError:
        raise ImportError(
            f"{os.fspath(path)!r} is a .safetensors file, which needs the package safetensors: pip install safetensors"
        ) from None
    length = int.from_bytes(file.read(8), "little")
    if length > _MOST_HEADER:
        raise ValueError(f"its header of {length} bytes is longer than {_MOST_HEADER}, as no state dict needs")
    opened = safetensors.safe_open(path, "np")
    # Of a name's entries the package takes the last, and it tells the names in no order.
    names = json.loads(file.read(length), object_pairs_hook=_without_repeats)
    tensors = {}
    for name in names:
        if name == "__metadata__":
            continue
        part = opened.get_slice(name)
        if part.get_dtype() not in _SAFETENSORS:
            raise ValueError(f"{short(name)} is of type {part.get_dtype()!r}; save it as F32")
        tensors[name] = Tensor(_shape(part.get_shape()), functools.partial(opened.get_tensor, name))
    return tensors


def _without_repeats(pairs):
    names = dict(pairs)
    if len(names) < len(pairs):
        raise ValueError(f"it names {short(next(name for name, _ in pairs if name in names))} twice")
    return names
