"""Guards: what a function closes over, watched, so that a graph is not used once that has changed.

A graph holds for what its function read beside its arguments when it was traced. `Closure` follows the function to
all of that: the cells of its closure, its defaults, the globals that its code names, the object of a method, and from
there containers, attributes, modules and further functions. Every call asks whether all of it is *the same object* as
before (`unchanged`, some 25 ns an object); only if not, everything is looked at, and its state gets a number, part of
the key of the graphs: the same number again for a state that was there before.

Tensors are the same as long as they are one object with one memory: a graph reads their numbers anew at each call.
Where the function itself reads one as a number of Python (`item`), the graph has that number in it (`Reading` notices),
and the tensor is the same only until it is written to.
What libraries hold in their own globals is not watched, nor are the numbers in arrays that are not tensors.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Closure", "Reading"]

# packages whose functions and classes are taken as they are
_LIBRARIES = {*sys.stdlib_module_names, "innerloop", "numpy", "pandas", "torch"} - {"__main__"}
# objects that are followed; the others count as the same as long as they are the same object
_MOST = 20_000
_CONSTANTS = (bool, int, float, complex, str, bytes, type(None))
# attributes of every module that are not watched
_CONTENTS = ("_parameters", "_buffers", "_modules")
_HOOKS = frozenset(vars(nn.Module())) - {"training", *_CONTENTS}
_contents = attrgetter("cell_contents")
_version = attrgetter("_version")
_END = object()


class Closure:
    """What a function closes over.

    Arguments:
        function: it is followed from here.

    Example:
        >>> def scaling(scale):
        ...     return lambda x: x * scale["by"]
        >>> closure = Closure(scaling(scale := {"by": 2.0}))
        >>> scale["by"] = 3.0
        >>> closure.unchanged(), closure.look(), closure.unchanged()
        (False, 1, True)
    """

    def __init__(self, function: Callable[..., object]) -> None:
        self.roots: list[object] = [function]
        self.tensors: list[Tensor] = []
        self.read: list[Tensor] = []
        self.numbers: dict[Hashable, int] = {}
        self.number = 0
        self.look()

    def watch(self, objects: Iterable[object]) -> None:
        """Watch objects that came as arguments, and that a graph takes as constants."""
        known = {id(root) for root in self.roots}
        new = [one for one in objects if id(one) not in known and _has_parts(one)]
        if new:
            self.roots += new
            self.look()

    def hold(self, tensors: Iterable[Tensor], read: Iterable[Tensor] = ()) -> None:
        """Watch tensors on which a graph depends.

        Arguments:
            tensors: those of which it keeps the address: their memory.
            read: those whose numbers it has in it: whether they were written to.
        """
        for watched, new in ((self.tensors, tensors), (self.read, read)):
            known = {id(tensor) for tensor in watched}
            watched += [tensor for tensor in new if id(tensor) not in known]
        self.look()

    def unchanged(self) -> bool:
        """Whether everything is the same object as when it was looked at last."""
        if not all(map(is_, self._live(), self._seen)):
            return False
        if self.read and list(map(_version, self.read)) != self._versions:
            return False
        return not self.tensors or list(map(Tensor.data_ptr, self.tensors)) == self._addresses

    def look(self) -> int:
        """The number of the present state: equal numbers and objects have an equal one."""
        walk = _Walk(self.roots)
        self._views, self._cells = list(walk.views.values()), walk.cells
        self._named = list(walk.named.values())
        self._seen = list(self._live())
        self._addresses = list(map(Tensor.data_ptr, self.tensors))
        self._versions = list(map(_version, self.read))
        memory = [(tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) for tensor in self.tensors]
        numbers = tuple(repr(tensor.tolist()) for tensor in self.read)
        state = (tuple(walk.parts), tuple(map(_Same, self.tensors)), tuple(memory), numbers)
        self.number = self.numbers.setdefault(state, len(self.numbers))
        return self.number

    def _live(self) -> Iterator[object]:
        """All objects that can be exchanged, as they are now, and an end mark."""
        named = [map(get, names) for get, names in self._named]
        cells = map(_contents, self._cells)
        return chain(chain.from_iterable(self._views), cells, chain.from_iterable(named), (_END,))


class Reading(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, tensors are noticed that are read as numbers of Python while a function is traced.

    Arguments are no such tensors then: they have shapes and no numbers.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tensors: list[Tensor] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Otherwise torch's compiler is imported, which takes seconds, to be told to leave this alone."""
        return False

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Run an operator, and note the tensor that it reads a number of."""
        if func is torch.ops.aten._local_scalar_dense.default and type(args[0]) in (Tensor, nn.Parameter):
            self.tensors.append(args[0])
        return func(*args, **(kwargs or {}))


class _Same:
    """An object that equals itself alone."""

    def __init__(self, one: object) -> None:
        self.one = one

    def __hash__(self) -> int:
        return id(self.one)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.one is other.one


class _Walk:
    """Everything reached from some objects: what it is (`parts`), and where to look whether it still is.

    Arguments:
        roots: the objects.
    """

    def __init__(self, roots: Sequence[object]) -> None:
        self.parts: list[Hashable] = []
        self.views: dict[int, Iterable[object]] = {}  # live contents of containers
        self.cells: list[types.CellType] = []
        # some entries of dictionaries, by the object that has them
        self.named: dict[int, tuple[Callable[[str], object], tuple[str, ...]]] = {}
        self.instances: list[object] = []
        self.names: dict[str, None] = {}  # what the code that is reached names
        self.seen: dict[int, int] = {}
        self.alive: list[object] = []  # ids stay their own meanwhile
        for root in roots:
            self._visit(root)
            self._visit(vars(type(root)).get("__call__"))
        # attributes of objects, until the code that is reached through them names no further ones
        before = (-1, -1)
        while before != (before := (len(self.names), len(self.instances))):
            for one in list(self.instances):
                self._attributes(one)

    def _visit(self, one: object) -> None:
        """Add an object, and what is reached from it."""
        if isinstance(one, _CONSTANTS):
            # 1, 1.0 and True are equal, and -0.0 is 0.0, but not for a graph
            self.parts.append((type(one).__name__, repr(one)))
        elif id(one) in self.seen or len(self.seen) > _MOST:
            self.parts.append(self.seen.get(id(one), _Same(one)))
        else:
            self.seen[id(one)] = len(self.seen)
            self.alive.append(one)
            if isinstance(one, (dict, list, tuple, set, frozenset)):
                self._container(one)
            else:
                self.parts.append(_Same(one))
                self._parts_of(one)

    def _parts_of(self, one: object) -> None:
        """Add what is reached from an object that is no container."""
        if isinstance(one, types.FunctionType):
            self._function(one)
        elif isinstance(one, types.MethodType):
            self._all([one.__func__, one.__self__])
        elif isinstance(one, functools.partial):
            self._all([one.func, one.args, one.keywords])
        elif isinstance(one, nn.Module):
            self._module(one)
        elif isinstance(one, type):
            if _root(one) not in _LIBRARIES:
                self.instances.append(one)
                self._all(one.__bases__)
        elif not isinstance(one, (Tensor, types.ModuleType)):
            self.instances.append(one)
            self._visit(type(one))

    def _all(self, several: Iterable[object]) -> None:
        for one in several:
            self._visit(one)

    def _container(self, one: Any) -> None:
        """A container is its contents: an equal one in its stead changes nothing."""
        self.parts.append((type(one).__name__, len(one)))
        if isinstance(one, dict):
            self.views[id(one)] = one.values()
            self.parts += [(type(key).__name__, key) for key in one]
            self._all(list(one.values()))
            return
        if isinstance(one, (list, set)):
            self.views[id(one)] = one
        self._all(list(one))

    def _function(self, one: types.FunctionType) -> None:
        """Its closure, its defaults, and the globals that its code names."""
        filled = [cell for cell in one.__closure__ or () if _is_filled(cell)]
        self.cells += filled
        self._all(map(_contents, filled))
        self._all([one.__defaults__, one.__kwdefaults__])
        if _root(one) in _LIBRARIES:
            return
        names = tuple(dict.fromkeys(_names(one.__code__)))
        self.names.update(dict.fromkeys(names))
        self._entries(one, one.__globals__.get, names)
        for name in names:
            module = one.__globals__.get(name)
            if isinstance(module, types.ModuleType) and _root(module) not in _LIBRARIES:
                self._entries((one, module), vars(module).get, names)

    def _entries(self, owner: object, get: Callable[[str], object], names: tuple[str, ...]) -> None:
        """Some entries of a dictionary, those that are not there yet among them."""
        self.named[id(owner)] = (get, names)
        self.alive.append(owner)
        self._all(map(get, names))

    def _module(self, one: nn.Module) -> None:
        """Attributes, parameters, buffers and submodules, and the code of its class; hooks are not watched."""
        names = tuple(name for name in one.__dict__ if name not in _HOOKS)
        if _root(type(one)) in _LIBRARIES:  # whose attributes have all been set
            # private ones follow from the others: those of recurrent layers list the weights of the last call
            given = tuple(name for name in names if not name.startswith("_"))
            names = (*given, *_CONTENTS)
            self.named[id(one)] = (one.__dict__.get, given)
        else:
            self.views[id(one)] = one.__dict__.values()
        self.parts.append(names)
        self._all(one.__dict__[name] for name in names)
        for kind in type(one).__mro__:
            if _root(kind) not in _LIBRARIES:
                self._visit(kind)
                self._all(value for value in vars(kind).values() if isinstance(value, types.FunctionType))

    def _attributes(self, one: object) -> None:
        """Attributes of an object or a class that the code names; of objects of the package all."""
        names = tuple(self.names)
        if isinstance(one, type):
            self._entries(one, vars(one).get, names)
            return
        attributes = getattr(one, "__dict__", None)
        if any(_root(kind) == "innerloop" for kind in type(one).__mro__) and attributes is not None:
            if watched := getattr(type(one), "watched", ()):
                self._all(attributes[name] for name in watched)
                return
            parameters = getattr(type(one), "__dataclass_params__", None)
            if not (parameters and parameters.frozen):
                self.views[id(one)] = attributes.values()
            self._all(list(attributes.values()))
        elif attributes is not None:
            self._entries(one, attributes.get, names)
        elif slots := set(getattr(type(one), "__slots__", ())) & set(names):
            self._entries(one, lambda name: getattr(one, name, None), tuple(sorted(slots)))


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _names(code: types.CodeType) -> Iterator[str]:
    """Globals and attributes that code names, functions inside it included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _root(one: object) -> str:
    """The package that a function, class or module belongs to."""
    name = one.__name__ if isinstance(one, types.ModuleType) else getattr(one, "__module__", None)
    return str(name or "").partition(".")[0]


def _has_parts(one: object) -> bool:
    """Whether an argument holds what can be exchanged while it stays the same object."""
    return not isinstance(one, (*_CONSTANTS, Tensor, torch.device, torch.dtype))
