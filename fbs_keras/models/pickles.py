"""Reads pickles as data: nothing that they name is imported, nothing they ask for is called or given a state.

Python's unpickler runs a program whose instructions import, call and set attributes; restricting it means to foresee
what each does to each object. This one runs the same program on numbers, strings, tuples, lists and dicts alone. What a
pickle names stays a `Name`. Where it asks for an object of that name, the caller decides what is made of the name and
the arguments: a value, or an `Opaque`, which only says what it was to be. A state is dropped, or refused.

PyTorch's `torch.load(weights_only=True)` does likewise, but refuses checkpoints that hold other objects besides the
tensors, bounds neither steps nor depth, and needs PyTorch.
"""

import io
import pickletools
import reprlib
import typing

# A tensor takes about 30 steps and 200 bytes; no network of torchvision has 3,000 tensors, and its checkpoint three
# times as many. Reading so many steps takes a second or two.
MOST_STEPS = 500_000
MOST_BYTES = 2**26


class Name(typing.NamedTuple):
    """What a pickle names, for the reader to import."""

    module: str
    name: str

    def __str__(self):
        return short(f"{self.module}.{self.name}", plain=True)


class Opaque:
    """Something that a pickle wants made, and that is not.

    Attributes:
        what: What it was to be.
    """

    __slots__ = ("what",)

    def __init__(self, what):
        self.what = str(what)


def load(file, call, refer, build):
    """Reads one pickle from a file.

    Args:
        file: A binary file; afterwards it is at the pickle's end.
        call: A function from a `Name` and the tuple of its arguments to what is made of them.
        refer: A function from what the pickle leaves to its reader to find ("persistent id") to what that is.
        build: A function that is shown what is to be given a state, and the state; it raises where that is not usual.

    Returns:
        What the pickle holds.

    Raises:
        ValueError: If it is damaged, of more than `MOST_STEPS` steps, or has a dict with two values of a name.
    """
    start = file.tell()
    content = io.BytesIO(file.read(MOST_BYTES))  # a string as long as a damaged pickle says would be asked for at once
    try:
        value = _Machine(call, refer, build).run(content)
    except (IndexError, KeyError) as error:
        raise ValueError("its pickle is damaged: it takes values that it has not put") from error
    file.seek(start + content.tell())
    return value


def short(value, plain=False):
    """A value of a file as an error shows it: it may be of any size, and nested to any depth."""
    cut = reprlib.Repr()
    cut.maxlevel, cut.maxtuple, cut.maxlist, cut.maxdict, cut.maxstring, cut.maxlong = 2, 6, 6, 6, 120, 40
    if isinstance(value, int) and value.bit_length() > 128:  # Python refuses to write out very long ones
        return f"a number of {value.bit_length()} bits"
    text = cut.repr(value)
    return text[1:-1] if plain else text


def kind_of(value):
    """What a value is, for an error."""
    return f"what {value.what} makes" if type(value) is Opaque else f"a {type(value).__name__}"


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, typing.Callable] = {
    **{"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict},
    "EMPTY_SET": lambda: Opaque("set"),
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# Their argument is the value.
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_NOTHING = {"PROTO", "FRAME", "STOP"}


class _Machine:
    """Runs a pickle's instructions; `pickletools` parses them, and says what each does."""

    def __init__(self, call, refer, build):
        self.call, self.refer, self.build = call, refer, build
        self.stack: list[typing.Any] = []
        self.outer: list[list] = []  # the stacks beneath each open mark
        self.memo: dict[int, typing.Any] = {}
        self.steps = 0

    def run(self, file):
        for opcode, argument, _ in pickletools.genops(file):
            self.spend(1)
            if opcode.name not in _NOTHING:
                self.step(opcode.name, argument)
        return self.stack.pop()

    def spend(self, steps):
        self.steps += steps
        if self.steps > MOST_STEPS:
            raise ValueError(f"its pickle has more than {MOST_STEPS} steps, as no state dict needs")

    def from_mark(self):
        """Takes away the values since the last mark."""
        values, self.stack = self.stack, self.outer.pop()
        return values

    def step(self, name, argument):
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            stack.append(tuple([stack.pop() for _ in range(_TUPLES[name])][::-1]))
        elif name == "MARK":
            self.outer.append(stack)
            self.stack = []
        elif name in ("TUPLE", "LIST", "DICT", "FROZENSET", "OBJ", "INST"):
            value = _collected(name, self.from_mark(), argument)
            self.stack.append(value)
        elif name in ("APPEND", "SETITEM"):
            values = [stack.pop() for _ in range(1 if name == "APPEND" else 2)][::-1]
            _put(stack[-1], values)
        elif name in ("APPENDS", "SETITEMS", "ADDITEMS"):
            values = self.from_mark()
            _put(self.stack[-1], values)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.note(len(self.memo) if name == "MEMOIZE" else int(argument))
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[int(argument)])
        elif name == "GLOBAL":
            stack.append(Name(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(Name(str(module), str(attribute)) if isinstance(module, str) else Opaque("a name"))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(self.reduce(function, arguments))
        elif name in ("NEWOBJ", "NEWOBJ_EX"):
            kind = [stack.pop() for _ in range(2 if name == "NEWOBJ" else 3)][-1]
            stack.append(_opaque(kind))
        elif name == "BUILD":
            state = stack.pop()
            if type(stack[-1]) is not Opaque:
                self.build(stack[-1], state)
        elif name in ("BINPERSID", "PERSID"):
            stack.append(self.refer(stack.pop() if name == "BINPERSID" else argument))
        elif name in ("EXT1", "EXT2", "EXT4"):
            stack.append(Opaque(f"extension {argument}"))
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            self.from_mark()
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            raise ValueError(f"its pickle has the instruction {name}, which no state dict needs")

    def note(self, place):
        if not 0 <= place <= self.steps:  # writers count from 0
            raise ValueError(f"it notes a value at place {short(place)} after {self.steps} steps")
        self.memo[place] = self.stack[-1]

    def reduce(self, function, arguments):
        if type(function) is not Name or type(arguments) is not tuple:
            return _opaque(function)
        if function == ("collections", "OrderedDict"):
            pairs = arguments[0] if arguments else []
            if type(pairs) is not list or any(type(pair) not in (list, tuple) or len(pair) != 2 for pair in pairs):
                raise ValueError("it has an OrderedDict of something else than pairs")
            self.spend(len(pairs))  # the same list may be given to many
            return _put({}, [part for pair in pairs for part in pair])
        return self.call(function, arguments)


def _opaque(kind):
    return Opaque(kind if isinstance(kind, Name) else getattr(kind, "what", type(kind).__name__))


def _collected(name, values, argument):
    """What an instruction makes of the values since the last mark."""
    if name in ("TUPLE", "LIST"):
        return tuple(values) if name == "TUPLE" else values
    if name == "DICT":
        return _put({}, values)
    if name == "INST":
        return Opaque(Name(*argument.split(" ", 1)))
    return _opaque(values[0]) if name == "OBJ" else Opaque("frozenset")


def _put(target, values):
    """Puts values into a list, or names and values into a dict."""
    if type(target) is list:
        target.extend(values)
    elif type(target) is dict:
        for key, value in zip(values[::2], values[1::2], strict=True):
            # Other keys than strings tell nothing here, and hashing what a file made up may take forever.
            key = key if type(key) is str else Opaque(short(key))
            if key in target:
                raise ValueError(f"it names {short(key)} twice")
            target[key] = value
    elif type(target) is not Opaque:
        raise IndexError
    return target
