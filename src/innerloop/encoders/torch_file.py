"""Tensors of a file that old versions of `torch.save` wrote, read without running anything in it.

Such a file is a row of pickles and the bytes of the storages behind them. A pickle is a program, and Python's own
reader runs whatever it names. This module reads its operations as data instead: it knows the few that a dict of tensors
needs, calls nothing by name, and refuses a file with any other.
"""

from __future__ import annotations

import io
import math
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..files import read_bytes

__all__ = ["read_state_dict"]

# the number that such a file begins with
_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES: dict[str, np.dtype[Any]] = {
    "torch FloatStorage": np.dtype("<f4"),
    "torch DoubleStorage": np.dtype("<f8"),
    "torch HalfStorage": np.dtype("<f2"),
    "torch LongStorage": np.dtype("<i8"),
    "torch IntStorage": np.dtype("<i4"),
}
_DICT, _TENSOR = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"


class _Name(str):
    """A name that a pickle has for something of a module: never looked up."""


class _Storage(NamedTuple):
    """A piece of memory that tensors lie in, by its key."""

    kind: np.dtype[Any]
    key: str


class _Laid(NamedTuple):
    """A tensor by the storage that it lies in."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name.

    Arguments:
        path: a file of `torch.save(module.state_dict(), path)`, in the format from before torch 1.6.

    Raises:
        DataError: it is another file, or damaged, or holds anything but tensors by name.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "weights.pth"
        >>> torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
        >>> read_state_dict(path)
        {'a': tensor([1., 1.])}
    """
    stream = io.BytesIO(read_bytes(path, error=DataError))
    try:
        if _value(stream) != _MAGIC:
            raise ValueError("it begins otherwise")
        _value(stream)  # the version of the protocol
        if not _value(stream)["little_endian"]:
            raise ValueError("its numbers are big-endian")
        laid, keys = _value(stream), _value(stream)
        kinds = {value.storage.key: value.storage.kind for value in laid.values()}
        memory = {key: _numbers(stream, kinds[key]) for key in keys}
        return {str(name): _tensor(value, memory[value.storage.key]) for name, value in laid.items()}
    except Exception as error:  # whatever a damaged or hostile file provokes
        raise DataError(
            f"{path} holds no tensors by name in the format of torch before 1.6 ({error}): give the file as it "
            "was published",
            file=str(path),
        ) from None


def _numbers(stream: io.BytesIO, kind: np.dtype[Any]) -> np.ndarray:
    """The next storage: its length, and its numbers."""
    count = int.from_bytes(stream.read(8), "little", signed=True)
    data = stream.read(count * kind.itemsize) if count >= 0 else b""
    if len(data) != count * kind.itemsize:
        raise ValueError("it ends too early")
    return np.frombuffer(data, kind)


def _tensor(value: _Laid, memory: np.ndarray) -> Tensor:
    """A tensor of its own, out of a storage."""
    pairs = list(zip(value.shape, value.strides, strict=True))
    last = value.offset + sum((size - 1) * stride for size, stride in pairs)
    inside = last < len(memory) and math.prod(value.shape) <= len(memory)
    if min(0, value.offset, *value.shape, *value.strides) < 0 or not (inside or 0 in value.shape):
        raise ValueError("a tensor reaches beyond its storage")
    steps = [stride * memory.itemsize for stride in value.strides]
    view = np.lib.stride_tricks.as_strided(memory[value.offset :], value.shape, steps)
    return torch.from_numpy(np.array(view, memory.dtype.newbyteorder("=")))


def _value(stream: io.BytesIO) -> Any:
    """What the next pickle of the stream holds."""
    machine = _Machine()
    for operation, argument, _ in pickletools.genops(stream):
        if operation.name == "STOP":
            return machine.stack.pop()
        if operation.name not in _OPERATIONS:
            raise ValueError(f"it asks for {operation.name}")
        _OPERATIONS[operation.name](machine, argument)
    raise ValueError("it ends too early")


class _Machine:
    """The stack that the operations of a pickle work on."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def mark(self) -> None:
        """Remember how high the stack is."""
        self.marks.append(len(self.stack))

    def since_mark(self) -> list[Any]:
        """Take what came since the last mark."""
        return self.taken(len(self.stack) - self.marks.pop())

    def taken(self, count: int) -> list[Any]:
        """Take the last values."""
        start = len(self.stack) - count
        values, self.stack[start:] = self.stack[start:], []
        return values

    def remember(self, place: int) -> None:
        """Keep the last value for later."""
        self.memo[place] = self.stack[-1]

    def set_items(self, pairs: list[Any]) -> None:
        """Put keys and values into the dict below them."""
        self.stack[-1].update(zip(pairs[::2], pairs[1::2], strict=True))

    def extend(self, values: list[Any]) -> None:
        """Put values into the list below them."""
        self.stack[-1].extend(values)

    def reduce(self) -> None:
        """What a call would give, in place of its name and arguments."""
        arguments = self.stack.pop()
        self.stack.append(_made(self.stack.pop(), arguments))


def _storage(named: tuple[Any, ...]) -> _Storage:
    """What `("storage", kind, key, place, size, view)` stands for."""
    word, kind, key = named[:3]
    if word != "storage" or kind not in _STORAGES:
        raise ValueError(f"it holds {kind}")
    return _Storage(_STORAGES[kind], str(key))


def _made(what: Any, arguments: tuple[Any, ...]) -> Any:
    """What a call of the pickle would give, of the two that are known."""
    if what == _DICT and isinstance(what, _Name) and not arguments:
        return {}
    if what == _TENSOR and isinstance(what, _Name):
        storage, offset, shape, strides = arguments[:4]
        return _Laid(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))
    raise ValueError(f"it asks for {what}")


def _pushing(make: Callable[[Any], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, argument: machine.stack.append(make(argument))


_OPERATIONS: dict[str, Callable[[_Machine, Any], object]] = {
    **dict.fromkeys(("BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1"), _pushing(lambda value: value)),
    "NONE": _pushing(lambda _: None),
    "NEWTRUE": _pushing(lambda _: True),
    "NEWFALSE": _pushing(lambda _: False),
    "EMPTY_DICT": _pushing(lambda _: {}),
    "EMPTY_LIST": _pushing(lambda _: []),
    "EMPTY_TUPLE": _pushing(lambda _: ()),
    "GLOBAL": _pushing(_Name),
    "PROTO": lambda machine, _: None,
    "BUILD": lambda machine, _: machine.stack.pop(),  # an attribute of the dict, which is not needed
    "MARK": lambda machine, _: machine.mark(),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), lambda machine, place: machine.remember(place)),
    **dict.fromkeys(
        ("BINGET", "LONG_BINGET"), lambda machine, place: machine.stack.append(machine.memo[place])
    ),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.stack.append(tuple(machine.taken(1))),
    "TUPLE2": lambda machine, _: machine.stack.append(tuple(machine.taken(2))),
    "TUPLE3": lambda machine, _: machine.stack.append(tuple(machine.taken(3))),
    "SETITEM": lambda machine, _: machine.set_items(machine.taken(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "APPEND": lambda machine, _: machine.extend(machine.taken(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "BINPERSID": lambda machine, _: machine.stack.append(_storage(machine.stack.pop())),
    "REDUCE": lambda machine, _: machine.reduce(),
}
