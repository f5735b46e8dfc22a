"""Read a pickle as plain data: no class is imported and nothing is called.

Only `torch.distributed.checkpoint` needs it: the index of its folders is a pickle.
"""

import io
import pickletools
from dataclasses import dataclass
from typing import Any

from lossatlas.errors import FileError

_MARK = object()


@dataclass
class Record:
    """An unbuilt object of a pickle: a class or function by name, its arguments and state."""

    name: str
    args: tuple[Any, ...] = ()
    state: Any = None

    def __hash__(self) -> int:
        return id(self)

    def get(self, field: str) -> Any:
        """A field of the state.

        Args:
            field: its name.

        Returns:
            Its value.
        """
        return self.state[field]


def read_pickle(content: bytes) -> Any:
    """Read the object in a pickle, with `Record`s instead of instances."""
    machine = _Machine()
    try:
        for code, argument, _ in pickletools.genops(io.BytesIO(content)):
            if code.name == "STOP":
                return machine.stack.pop()
            machine.step(code.name, argument)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise FileError(f"the pickle is damaged or unusual ({error}).") from None
    raise FileError("the pickle is truncated.")


_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Any] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_IGNORED = {"PROTO", "FRAME"}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_LITERALS = {
    "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT",
    "BINUNICODE", "BINUNICODE8", "SHORT_BINUNICODE", "UNICODE", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "STRING", "BINSTRING", "SHORT_BINSTRING",
}  # fmt: skip


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        if name in _IGNORED:
            return
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in _PUTS:
            self.memo[argument] = self.stack[-1]
        elif name in _GETS:
            self.stack.append(self.memo[argument])
        elif name in _TUPLES:
            self.stack.append(tuple(self._take(_TUPLES[name])))
        else:
            getattr(self, f"_{name.lower()}")(argument)

    def _take(self, count: int) -> list[Any]:
        taken = self.stack[-count:]
        del self.stack[-count:]
        return taken

    def _take_to_mark(self) -> list[Any]:
        index = len(self.stack) - 1 - self.stack[::-1].index(_MARK)
        taken = self.stack[index + 1 :]
        del self.stack[index:]
        return taken

    def _memoize(self, _: object) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _mark(self, _: object) -> None:
        self.stack.append(_MARK)

    def _tuple(self, _: object) -> None:
        self.stack.append(tuple(self._take_to_mark()))

    def _dict(self, _: object) -> None:
        items = self._take_to_mark()
        self.stack.append(dict(zip(items[::2], items[1::2], strict=True)))

    def _list(self, _: object) -> None:
        self.stack.append(self._take_to_mark())

    def _global(self, argument: str) -> None:
        self.stack.append(Record(argument.replace(" ", ".")))

    def _stack_global(self, _: object) -> None:
        module, name = self._take(2)
        self.stack.append(Record(f"{module}.{name}"))

    def _call(self, _: object) -> None:
        function, args = self._take(2)
        self.stack.append(Record(function.name, tuple(args)))

    _reduce = _newobj = _call

    def _build(self, _: object) -> None:
        state = self.stack.pop()
        self.stack[-1].state = state

    def _setitem(self, _: object) -> None:
        key, value = self._take(2)
        _fill(self.stack[-1], [key, value])

    def _setitems(self, _: object) -> None:
        items = self._take_to_mark()
        _fill(self.stack[-1], items)

    def _append(self, _: object) -> None:
        value = self.stack.pop()
        self.stack[-1].append(value)

    def _appends(self, _: object) -> None:
        values = self._take_to_mark()
        self.stack[-1].extend(values)


def _fill(target: Any, items: list[Any]) -> None:
    # An OrderedDict is a record that is filled like a dictionary.
    if isinstance(target, Record):
        target.state = target.state or {}
        target = target.state
    target.update(zip(items[::2], items[1::2], strict=True))
