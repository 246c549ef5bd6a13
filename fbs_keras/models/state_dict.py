"""Reads PyTorch's state dicts without PyTorch: `.pth` files, new and old, and `.safetensors`.

Here a state dict is found in what the file holds, a checkpoint perhaps; `tensor_files` reads the file.
"""

import contextlib
import logging
import os

from fbs_keras.models import tensor_files
from fbs_keras.models.pickles import Name, Opaque, kind_of, short
from fbs_keras.models.tensor_files import Tensor

# What PyTorch puts before every name: DataParallel and DistributedDataParallel, and torch.compile.
_WRAPPERS = ("module.", "_orig_mod.")
_AVERAGED = "n_averaged"  # what torch.optim.swa_utils.AveragedModel has besides the model

_LOGGER = logging.getLogger(__name__)


def read_state_dict(path):
    """Reads the names and shapes of the tensors in a file, and how to read each.

    Of a checkpoint, a dict of the state dict and other things, such as `{"state_dict": ..., "epoch": 90}`, the state
    dict is found and read, whatever its key, and a warning is logged that says so. What stands before every name
    because the model was wrapped, `module.` or `_orig_mod.`, is left out. Numbers, texts and lists are passed over.

    Args:
        path: A file that `torch.save` or `safetensors.torch.save_file` wrote, with the model's state dict.

    Returns:
        `{name: Tensor}`, in the file's order.

    Raises:
        OSError: If the file cannot be opened.
        ImportError: If it is a `.safetensors` file, and the package `safetensors` is not installed.
        ValueError: If it is none of these, is damaged, or holds no state dict, or several.

    Example:

    >>> tensors = read_state_dict("resnet18.pth")
    >>> tensors["conv1.weight"].shape
    (64, 3, 7, 7)
    >>> tensors["conv1.weight"].read().mean()
    """
    with open(path, "rb") as file, _sentences(path):
        key, state = _find(tensor_files.read(file, path))
        return _checked(key, state, path)


@contextlib.contextmanager
def _sentences(path):
    """Turns whatever a damaged or hostile file makes the standard library raise into a `ValueError` with the path."""
    try:
        yield
    except (OSError, ImportError):
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"{os.fspath(path)!r} is no state dict that can be read: {reason}") from error


def _find(value):
    """The state dict in what a file holds, and its key: "" where it is all that the file holds."""
    if type(value) is not dict:
        what = f"{kind_of(value)}; save model.state_dict()"
        raise ValueError(f"it holds {what}" + (", not the model itself" if type(value) is Opaque else ""))
    if not value:
        return "", value
    here, below = {"": value}, _dicts({"": value})
    found = {**_holding_tensors(here), **_holding_tensors(below)}
    # Beside a state dict, a tensor of the checkpoint's own has a plain name, such as best_acc1.
    if len(found) > 1 and not any("." in name for name in _tensors(value)):
        found.pop("", None)
    found = found or _holding_tensors(_dicts(below))
    if len(found) > 1:
        keys = ", ".join(short(key) if key else "the file's own names" for key in list(found)[:10])
        raise ValueError(f"it holds {len(found)} state dicts, under {keys}; save one of them by itself")
    if not found:
        for name, each in value.items():
            _refuse_opaque(name, each)
        names = ", ".join(f"{_name(name)}, {kind_of(each)}" for name, each in list(value.items())[:5]) or "nothing"
        raise ValueError(f"it holds no tensors by name, but {names}; save model.state_dict()")
    ((key, state),) = found.items()
    return key, state


def _dicts(states):
    """The dicts in dicts, by the keys on the way there; each but once."""
    found: dict[int, tuple] = {}
    for key, state in states.items():
        for name, each in state.items():
            if type(each) is dict and type(name) is str:
                found.setdefault(id(each), (f"{key}.{name}" if key else name, each))
    return dict(found.values())


def _tensors(state):
    return [name for name, each in state.items() if type(each) is Tensor and type(name) is str]


def _holding_tensors(states):
    return {key: state for key, state in states.items() if _tensors(state)}


def _name(name):
    return name.what if type(name) is Opaque else short(name)


def _refuse_opaque(name, value):
    if isinstance(value, Opaque | Name):
        what = value.what if isinstance(value, Opaque) else value
        raise ValueError(
            f"for {_name(name)} it names {what}, which is not read; expected model.state_dict() of float32, 64 or 16 "
            "tensors"
        )


def _checked(key, state, path):
    """The tensors of a state dict, which tell when they are read what is wrong with the file."""
    for name, value in state.items():
        _refuse_opaque(name, value)
    tensors = {name: state[name] for name in _tensors(state)}
    passed = [_name(name) for name in state if name not in tensors]
    wrapper, tensors = _unwrapped(tensors)
    notes = [f"read what is under {short(key)}"] if key else []
    notes += [f"passed over {', '.join(passed[:5])}"] if passed else []
    notes += [f"left out {wrapper!r} before each name"] if wrapper else []
    if notes:
        _LOGGER.warning("%s: %s", os.fspath(path), "; ".join(notes))

    def reader(tensor):
        def read():
            with _sentences(path):
                return tensor.read()

        return read

    return {name: Tensor(tensor.shape, reader(tensor)) for name, tensor in tensors.items()}


def _unwrapped(tensors):
    """What a wrapper has put before every name, and the tensors by their names without it."""
    for wrapper in _WRAPPERS:
        own = [name for name in tensors if name != _AVERAGED]
        if own and all(name.startswith(wrapper) for name in own):
            inner, tensors = _unwrapped({name.removeprefix(wrapper): tensors[name] for name in own})
            return wrapper + inner, tensors
    return "", tensors
