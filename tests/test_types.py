"""The public functions and classes carry types, which mypy checks their code against."""

import inspect

import pytest

import fbs_keras
from fbs_keras import export, models, schedules


def public():
    """Names and functions of the public face: functions, and the methods of classes that are not Keras's to type."""
    modules = {"fbs_keras": fbs_keras, "export": export, "models": models, "schedules": schedules}
    for prefix, module in modules.items():
        for name in getattr(module, "__all__", None) or [key for key in vars(module) if not key.startswith("_")]:
            value = getattr(module, name)
            if not getattr(value, "__module__", "").startswith("fbs_keras"):
                continue
            if inspect.isfunction(value):
                yield f"{prefix}.{name}", value
            elif inspect.isclass(value):
                for key, method in vars(value).items():
                    ours = not any(hasattr(parent, key) for parent in value.__mro__[1:] if parent is not object)
                    if inspect.isfunction(method) and (key == "__init__" or (ours and not key.startswith("_"))):
                        yield f"{prefix}.{name}.{key}", method


FUNCTIONS = dict(public())


def test_there_are_functions():
    assert {"fbs_keras.wrap", "export.verify", "models.VGG16", "fbs_keras.Interpreter.__init__"} <= FUNCTIONS.keys()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_all_is_typed(name):
    signature = inspect.signature(FUNCTIONS[name])
    untyped = [p.name for p in signature.parameters.values() if p.annotation is p.empty and p.name != "self"]
    if not name.endswith("__init__") and signature.return_annotation is signature.empty:
        untyped.append("return")
    assert not untyped
