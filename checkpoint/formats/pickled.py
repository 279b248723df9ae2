"""Pickles as plain records, read by a machine of our own that imports nothing and calls nothing.

Knows the opcodes that torch's checkpoints need. What a record means is for others to say.
"""

import pickletools
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, final


@dataclass(frozen=True, slots=True)
class Named:
    """A global that the pickle names: a word, not the thing."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False)
class Made:
    """What unpickling would make by calling `kind` with `args` and giving it `state` and, if it is
    a dict, `items`."""

    kind: Named
    args: tuple[Any, ...]
    state: Any = None
    items: list[tuple[Any, Any]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Pairs:
    """A dict as its keys and values, which need not be hashable here."""

    items: list[tuple[Any, Any]] = field(default_factory=list)

    def named(self) -> dict[str, Any]:
        """The values whose keys are words; of equal keys the last, as in a dict."""
        return {key: value for key, value in self.items if isinstance(key, str)}


@dataclass(frozen=True, slots=True)
class Persistent:
    """A persistent id: what lies outside of the pickle."""

    value: Any


class UnreadableError(ValueError):
    """The bytes are no pickle of the expected kind; the message says what was met."""


def read_pickle(data: bytes, allowed: Collection[Named]) -> Any:
    """The value of a pickle, its globals and objects as records.

    Args:
        allowed: globals that may be named in it.

    Raises:
        UnreadableError: for any other global, by name, or an opcode or order that is not known.
    """
    machine = _Machine(frozenset(allowed))
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return machine.pop()
            machine.step(opcode.name, argument)
    except UnreadableError:
        raise
    # Whatever malformed bytes lead the machine into.
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise UnreadableError(f"is no pickle ({type(error).__name__}: {error})") from error
    raise UnreadableError("is no pickle (it has no end)")


_MARK = object()
_IGNORED = {"PROTO", "FRAME"}
_VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
}
_FIXED = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@final
class _Machine:
    """The stack and the memo of one pickle."""

    def __init__(self, allowed: frozenset[Named]) -> None:
        self._allowed = allowed
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._others: dict[str, Callable[[], None]] = {
            "MARK": lambda: self._stack.append(_MARK),
            "EMPTY_LIST": lambda: self._stack.append([]),
            "EMPTY_DICT": lambda: self._stack.append(Pairs()),
            "TUPLE": lambda: self._stack.append(tuple(self._to_mark())),
            "APPEND": lambda: self._append([self.pop()]),
            "APPENDS": lambda: self._append(self._to_mark()),
            "SETITEM": lambda: self._set_items([self.pop(), self.pop()][::-1]),
            "SETITEMS": lambda: self._set_items(self._to_mark()),
            "STACK_GLOBAL": self._stack_global,
            "BUILD": self._build,
            "BINPERSID": lambda: self._stack.append(Persistent(self.pop())),
        }
        self._others |= dict.fromkeys(("REDUCE", "NEWOBJ"), self._make)

    def step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _FIXED:
            stack.append(_FIXED[name])
        elif name in _TUPLES:
            stack.append(tuple(self.pop() for _ in range(_TUPLES[name]))[::-1])
        elif name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            self._memo[len(self._memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name == "GLOBAL":
            module, _, word = argument.partition(" ")
            self._name(module, word)
        elif name in self._others:
            self._others[name]()
        elif name not in _IGNORED:
            raise UnreadableError(f"holds the opcode {name}, which no such pickle needs")

    def pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise UnreadableError("is no pickle (a mark stands for a value)")
        return value

    def _to_mark(self) -> list[Any]:
        values = []
        while (value := self._stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def _append(self, values: list[Any]) -> None:
        target = self._stack[-1]
        _expect(isinstance(target, list), "appends to what is no list")
        target.extend(values)

    def _set_items(self, values: list[Any]) -> None:
        target = self._stack[-1]
        _expect(
            isinstance(target, Pairs | Made) and not len(values) % 2,
            "sets items of what is no dict",
        )
        target.items.extend(zip(values[::2], values[1::2], strict=True))

    def _stack_global(self) -> None:
        word, module = self.pop(), self.pop()
        _expect(isinstance(word, str) and isinstance(module, str), "names a global by no word")
        self._name(module, word)

    def _name(self, module: str, word: str) -> None:
        named = Named(module, word)
        if named not in self._allowed:
            raise UnreadableError(f"names {named}, which no such pickle needs: nothing was run")
        self._stack.append(named)

    def _make(self) -> None:
        args, kind = self.pop(), self.pop()
        is_call = isinstance(kind, Named) and isinstance(args, tuple)
        _expect(is_call, "makes something of what is no class")
        self._stack.append(Made(kind, args))

    def _build(self) -> None:
        state, target = self.pop(), self._stack[-1]
        _expect(isinstance(target, Made), "gives a state to what is no object")
        target.state = state


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise UnreadableError(f"is no such pickle ({otherwise})")
