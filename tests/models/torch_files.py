"""Writes files as `torch.save` and safetensors do, and others like them that no one should open."""

import dataclasses
import io
import json
import struct
import typing
import zipfile

import numpy as np

STORAGES = {"f8": "DoubleStorage", "f4": "FloatStorage", "f2": "HalfStorage", "i8": "LongStorage", "u1": "ByteStorage"}
SAFETENSORS = {"f8": "F64", "f4": "F32", "f2": "F16", "i8": "I64", "u1": "U8"}


@dataclasses.dataclass
class Global:
    """Something that a pickle names, for the reader to import."""

    module: str
    name: str


@dataclasses.dataclass
class Call:
    """What a pickle tells the reader to call."""

    function: typing.Any
    arguments: tuple = ()


@dataclasses.dataclass
class Build:
    """What a pickle tells the reader to give a state."""

    target: typing.Any
    state: typing.Any


@dataclasses.dataclass
class Reference:
    """What a pickle leaves to the reader to find."""

    value: typing.Any


@dataclasses.dataclass
class Raw:
    """Instructions as they are."""

    instructions: bytes


ORDERED_DICT = Global("collections", "OrderedDict")


def pickled(value):
    """A pickle, protocol 2."""
    return b"\x80\x02" + _opcodes(value) + b"."


def _opcodes(value):
    if value is None:
        return b"N"
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        return b"\x8a\x0a" + value.to_bytes(10, "little", signed=True)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, tuple | list):
        return b"(" + b"".join(map(_opcodes, value)) + (b"t" if isinstance(value, tuple) else b"l")
    if isinstance(value, dict):
        return b"}(" + b"".join(_opcodes(item) for pair in value.items() for item in pair) + b"u"
    if isinstance(value, Global):
        return f"c{value.module}\n{value.name}\n".encode()
    if isinstance(value, Call):
        return _opcodes(value.function) + _opcodes(tuple(value.arguments)) + b"R"
    if isinstance(value, Build):
        return _opcodes(value.target) + _opcodes(value.state) + b"b"
    if isinstance(value, Raw):
        return value.instructions
    return _opcodes(value.value) + b"Q"


def storage(array, key, old=False):
    """A reference to the storage of an array."""
    kind = Global("torch", STORAGES[array.dtype.str[1:]])
    return Reference(("storage", kind, str(key), "cpu", array.size, *((None,) if old else ())))


def tensor(array, key, old=False):
    """How a state dict holds an array; older files say it in other words, and with gradients."""
    strides = tuple(stride // array.itemsize for stride in array.strides)
    if old:
        rebuild = Global("torch._utils", "_rebuild_tensor")
        data = Call(rebuild, (storage(array, key, old), 0, array.shape, strides))
        return Build(Call(Global("torch.nn.parameter", "Parameter"), (data,)), (True, False, Call(ORDERED_DICT)))
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, (storage(array, key), 0, array.shape, strides, False, Call(ORDERED_DICT)))


def zip_file(state, storages, compression=zipfile.ZIP_STORED, **records):
    """The bytes of a file as torch.save writes it today: `state` as opcodes, `storages` as arrays."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled(state))
        for key, array in enumerate(storages):
            archive.writestr(f"archive/data/{key}", array.tobytes())
        for name, content in records.items():
            archive.writestr(f"archive/{name}", content)
    return file.getvalue()


def old_file(state, storages, protocol=1001, little=True):
    """The bytes of a file as torch.save wrote it before version 1.6."""
    start = [0x1950A86A20F9469CFC6C, protocol, {"protocol_version": protocol, "little_endian": little}, state]
    start.append([str(key) for key in range(len(storages))])
    return b"".join(map(pickled, start)) + b"".join(
        struct.pack("<q", array.size) + array.tobytes() for array in storages
    )


def safetensors_file(header, values=b""):
    """The bytes of a .safetensors file."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + values


def save_zip(path, arrays, **arguments):
    state = {name: tensor(array, key) for key, (name, array) in enumerate(arrays.items())}
    metadata = {"_metadata": Call(ORDERED_DICT)}  # state_dict() carries it
    path.write_bytes(zip_file(_ordered(state, metadata), arrays.values(), **arguments))


def save_old(path, arrays):
    state = {name: tensor(array, key, old=True) for key, (name, array) in enumerate(arrays.items())}
    path.write_bytes(old_file(state, arrays.values()))


def _ordered(state, attributes):
    return Build(Call(ORDERED_DICT, ([(name, value) for name, value in state.items()],)), attributes)


def save_safetensors(path, arrays):
    header, place = {"__metadata__": {"format": "pt"}}, 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": SAFETENSORS[array.dtype.str[1:]],
            "shape": array.shape,
            "data_offsets": [place, place + array.nbytes],
        }
        place += array.nbytes
    path.write_bytes(safetensors_file(header, b"".join(array.tobytes() for array in arrays.values())))


def random_arrays(shapes, seed=0):
    """Arrays of given shapes as in a trained network, by their names in PyTorch."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            arrays[name] = np.array(7, "<i8")
        elif name.endswith("running_var"):
            arrays[name] = rng.uniform(0.5, 2, shape).astype("<f4")
        else:
            scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.3
            center = 1 if name.endswith("weight") and len(shape) == 1 else 0
            arrays[name] = (center + scale * rng.standard_normal(shape, "float32")).astype("<f4")
    return arrays
