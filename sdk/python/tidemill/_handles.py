"""Handles on state: one class for each type, all of them thin.

A handle names a key (or a field of a map) and knows how its type's operations and views look
in the worker protocol. Where they go is the backend's matter. Making a handle costs nothing
and reads nothing, so handles may be made at import.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from tidemill import _codec, _context
from tidemill._context import StateBackend, View
from tidemill.errors import WrongType

H = TypeVar("H", bound="Handle")
P = ParamSpec("P")
R = TypeVar("R")

_I64_MIN, _I64_MAX = -(1 << 63), (1 << 63) - 1
_PAGE = 1000

Plan = tuple[dict[str, Any], Callable[[Any], R]]


class BoundRead(Generic[P, R]):
    """A read of one handle: call it, or `await` its `.aio(...)` in a coroutine."""

    __slots__ = ("_handle", "_plan")

    def __init__(self, plan: Callable[..., Plan[R]], handle: Handle) -> None:
        self._plan = plan
        self._handle = handle

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        get, finish = self._plan(self._handle, *args, **kwargs)
        return finish(self._handle._state().read(get))

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The same without blocking the event loop."""
        get, finish = self._plan(self._handle, *args, **kwargs)
        return finish(await self._handle._state().read_aio(get))


class _Read(Generic[H, P, R]):
    """Makes a method that plans a read into one that does it."""

    def __init__(self, plan: Callable[Concatenate[H, P], Plan[R]]) -> None:
        self._plan = plan
        self.__doc__ = plan.__doc__

    @overload
    def __get__(self, handle: None, owner: type[H]) -> _Read[H, P, R]: ...
    @overload
    def __get__(self, handle: H, owner: type[H]) -> BoundRead[P, R]: ...

    def __get__(self, handle: H | None, owner: type[H]) -> Any:
        return self if handle is None else BoundRead(self._plan, handle)


class Handle:
    """A key of the app's state, or a field of a map."""

    __slots__ = ("_backend", "_field", "_key")
    _type = ""

    def __init__(
        self, key: str, field: str | None = None, backend: StateBackend | None = None
    ) -> None:
        if not isinstance(key, str) or not (field is None or isinstance(field, str)):
            raise TypeError("state keys and fields are strings")
        self._key = key
        self._field = field
        self._backend = backend

    def __repr__(self) -> str:
        where = self._key if self._field is None else f"{self._key}[{self._field}]"
        return f"<{self._type} {where}>"

    def delete(self) -> None:
        """Removes the key; of a field handle, the field."""
        if self._field is None:
            self._write({"k": self._key, "o": "delete"})
        else:
            self._write({"k": self._key, "f": self._field, "o": "map.remove"})

    def expire(self, at: datetime | None = None, after: float | None = None) -> None:
        """Lets the key vanish at a time, or after so many seconds; without either, never."""
        if self._field is not None:
            raise TypeError("a field can not expire, only its map's key")
        if at is not None and after is not None:
            raise TypeError("expire takes at or after, not both")
        at_ms: int | None = None
        if at is not None:
            at_ms = round(at.timestamp() * 1000)
        elif after is not None:
            at_ms = round((_now() + after) * 1000)
        self._write({"k": self._key, "o": "expire", "at_ms": at_ms, "_t": self._type})

    def _state(self) -> StateBackend:
        return self._backend if self._backend is not None else _context.state_backend()

    def _op(self, name: str, **fields: Any) -> None:
        op: dict[str, Any] = {"k": self._key, "o": f"{self._type}.{name}"}
        if self._field is not None:
            op["f"] = self._field
        op.update(fields)
        self._write(op, 3)

    def _write(self, op: dict[str, Any], depth: int = 2) -> None:
        frame = sys._getframe(depth)
        op["at"] = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        self._state().write(op)

    def _get(self) -> dict[str, Any]:
        if self._field is None:
            return {"k": self._key, "t": self._type}
        return {"k": self._key, "t": "map", "f": self._field}

    def _check(self, view: Any) -> Any:
        if view is not None and view.type != self._type:
            raise WrongType(f"{self!r} holds a {view.type}, not a {self._type}")
        return view


def _now() -> float:
    import time

    return time.time()


class Register(Handle):
    """One value; the last writer wins."""

    __slots__ = ()
    _type = "register"

    def set(self, value: Any) -> None:
        """Replaces the value."""
        self._op("set", p=_codec.encode(value))

    @_Read
    def get(self, default: Any = None) -> Plan[Any]:
        """The value, or `default` when there is none."""

        def finish(view: View | None) -> Any:
            return default if self._check(view) is None else view.value.decode()  # type: ignore[union-attr]

        return self._get(), finish


class Multi(Handle):
    """A value that keeps concurrent writes beside each other."""

    __slots__ = ()
    _type = "multi"

    def set(self, value: Any) -> None:
        """Replaces the values seen so far; a concurrent writer's is kept."""
        self._op("set", p=_codec.encode(value))

    @_Read
    def get(self) -> Plan[list[Any]]:
        """The values, none or one unless there were concurrent writers."""
        return self._get(), lambda view: _values(self._check(view))


class Counter(Handle):
    """A 64-bit sum."""

    __slots__ = ()
    _type = "counter"

    def add(self, n: int = 1) -> None:
        """Adds `n`, which may be negative."""
        if type(n) is not int:
            n = _integer(n)
        if not _I64_MIN <= n <= _I64_MAX:
            raise OverflowError("a counter counts in 64 bits")
        self._op("add", v=n)

    @_Read
    def get(self) -> Plan[int]:
        """The sum, 0 when nothing was added."""
        return self._get(), lambda view: 0 if self._check(view) is None else view.value


def _integer(n: Any) -> int:
    import operator

    return operator.index(n)


class _Extreme(Handle):
    __slots__ = ()

    def put(self, value: float | str) -> None:
        """Offers a number or string."""
        if type(value) not in (int, float, str):
            raise TypeError(f"{self._type} takes numbers or strings, not {type(value).__name__}")
        if value != value:
            raise ValueError(f"{self._type} can not order NaN")
        self._op("put", v=value)

    @_Read
    def get(self) -> Plan[Any]:
        """The winner, or `None` when nothing was put."""
        return self._get(), lambda view: None if self._check(view) is None else view.value


class Max(_Extreme):
    """The greatest value put."""

    __slots__ = ()
    _type = "max"


class Min(_Extreme):
    """The least value put."""

    __slots__ = ()
    _type = "min"


class Flag(Handle):
    """False until somebody raises it."""

    __slots__ = ()
    _type = "flag"

    def raise_(self) -> None:
        """Raises it, for good."""
        self._op("raise")

    @_Read
    def get(self) -> Plan[bool]:
        """Whether it is raised."""
        return self._get(), lambda view: self._check(view) is not None and bool(view.value)


class Set(Handle):
    """A set; an add wins over a concurrent remove. Elements are equal when their bytes are."""

    __slots__ = ()
    _type = "set"

    def add(self, value: Any) -> None:
        """Adds an element."""
        self._op("add", p=_codec.encode(value))

    def remove(self, value: Any) -> None:
        """Removes an element; no error when it is not there."""
        self._op("remove", p=_codec.encode(value))

    def discard(self, value: Any) -> None:
        """The same as `remove`."""
        self._op("remove", p=_codec.encode(value))

    @_Read
    def has(self, value: Any) -> Plan[bool]:
        """Whether it holds the element."""
        element = _codec.encode(value)
        if self._field is not None:  # the protocol asks this of whole keys only
            data = bytes(element.data)

            def among(view: View | None) -> bool:
                values = [] if self._check(view) is None else view.values  # type: ignore[union-attr]
                return any(
                    v.content_type == element.content_type and v.data == data for v in values
                )

            return self._get(), among
        return {"k": self._key, "t": "set", "has": element}, bool

    @_Read
    def get(self) -> Plan[Any]:
        """All elements: a `set`, or a `list` where an element can not be in one."""

        def finish(view: View | None) -> Any:
            values = _values(self._check(view))
            try:
                return set(values)
            except TypeError:
                return values

        return self._get(), finish


class Log(Handle):
    """Entries in the order of their commits."""

    __slots__ = ()
    _type = "log"

    def append(self, value: Any, keep: int | None = None) -> None:
        """Appends an entry; with `keep`, only the newest so many are kept."""
        if keep is None:
            self._op("append", p=_codec.encode(value))
        elif keep < 1:
            raise ValueError("keep must be at least 1")
        else:
            self._op("append", p=_codec.encode(value), keep=keep)

    @_Read
    def get(self) -> Plan[list[Any]]:
        """All entries, the oldest first."""
        return self._get(), lambda view: _values(self._check(view))


class Top(Handle):
    """The `of` ids with the greatest scores."""

    __slots__ = ("_of",)
    _type = "top"

    def __init__(self, key: str, of: int = 10, backend: StateBackend | None = None) -> None:
        super().__init__(key, None, backend)
        if of < 1:
            raise ValueError("of must be at least 1")
        self._of = of

    def put(self, score: float, id: str) -> None:
        """Offers a score for an id; the greatest of an id counts."""
        if not isinstance(id, str):
            raise TypeError("the id in a top is a string")
        if type(score) not in (int, float) or score != score:
            raise TypeError("the score in a top is a number")
        self._op("put", score=score, id=id, of=self._of)

    @_Read
    def get(self) -> Plan[list[tuple[float, str]]]:
        """`[(score, id)]` from the greatest."""

        def finish(view: View | None) -> list[tuple[float, str]]:
            if self._check(view) is None:
                return []
            return [(score, id) for score, id in view.value]  # type: ignore[union-attr]

        return self._get(), finish


class Map(Handle):
    """Fields, each of a type of its own."""

    __slots__ = ()
    _type = "map"

    def register(self, field: str) -> Register:
        """A field that is a register."""
        return Register(self._key, field, self._backend)

    def multi(self, field: str) -> Multi:
        """A field that keeps concurrent values."""
        return Multi(self._key, field, self._backend)

    def counter(self, field: str) -> Counter:
        """A field that counts."""
        return Counter(self._key, field, self._backend)

    def max(self, field: str) -> Max:
        """A field with the greatest value put."""
        return Max(self._key, field, self._backend)

    def min(self, field: str) -> Min:
        """A field with the least value put."""
        return Min(self._key, field, self._backend)

    def flag(self, field: str) -> Flag:
        """A field that is raised or not."""
        return Flag(self._key, field, self._backend)

    def set(self, field: str) -> Set:
        """A field that is a set."""
        return Set(self._key, field, self._backend)

    def remove(self, field: str) -> None:
        """Removes a field."""
        self._write({"k": self._key, "f": field, "o": "map.remove"})

    @_Read
    def get(self) -> Plan[dict[str, Any]]:
        """All fields with their plain values."""

        def finish(view: View | None) -> dict[str, Any]:
            if self._check(view) is None:
                return {}
            return {name: plain(field) for name, field in view.fields.items()}  # type: ignore[union-attr]

        return self._get(), finish


def _values(view: View | None) -> list[Any]:
    return [] if view is None else [value.decode() for value in view.values]


def plain(view: View) -> Any:
    """The value of any view as plain Python data, as the handle's `get` gives it."""
    if view.type == "register":
        return view.value.decode()
    if view.type == "set":
        values = _values(view)
        try:
            return set(values)
        except TypeError:
            return values
    if view.type in ("multi", "log"):
        return _values(view)
    if view.type == "map":
        return {name: plain(field) for name, field in view.fields.items()}
    if view.type == "top":
        return [(score, id) for score, id in view.value]
    return view.value


class Space:
    """The state of one app: what `tidemill.state` is inside functions."""

    def __init__(self, backend: StateBackend | None = None) -> None:
        self._backend = backend

    def register(self, key: str) -> Register:
        """One value; the last writer wins."""
        return Register(key, None, self._backend)

    def multi(self, key: str) -> Multi:
        """A value that keeps concurrent writes."""
        return Multi(key, None, self._backend)

    def counter(self, key: str) -> Counter:
        """A 64-bit sum."""
        return Counter(key, None, self._backend)

    def max(self, key: str) -> Max:
        """The greatest value put."""
        return Max(key, None, self._backend)

    def min(self, key: str) -> Min:
        """The least value put."""
        return Min(key, None, self._backend)

    def flag(self, key: str) -> Flag:
        """False until raised."""
        return Flag(key, None, self._backend)

    def set(self, key: str) -> Set:
        """A set."""
        return Set(key, None, self._backend)

    def map(self, key: str) -> Map:
        """Fields of any of these types."""
        return Map(key, None, self._backend)

    def log(self, key: str) -> Log:
        """Entries in order."""
        return Log(key, None, self._backend)

    def top(self, key: str, of: int = 10) -> Top:
        """The ids with the greatest scores."""
        return Top(key, of, self._backend)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """The keys that begin with `prefix`, in order, read page by page."""
        for key, _ in self.items(prefix):
            yield key

    def items(self, prefix: str = "") -> Iterator[tuple[str, str]]:
        """The same with the type of each: `(key, type)`."""
        cursor: Any = None
        while True:
            get = {"scan": prefix, "after": cursor, "limit": _PAGE}
            page = self._state().read(get)
            yield from map(tuple, page["keys"])
            cursor = page.get("next")
            if cursor is None:
                return

    def delete(self, key: str) -> None:
        """Removes a key of any type."""
        Handle(key, None, self._backend).delete()

    def _state(self) -> StateBackend:
        return self._backend if self._backend is not None else _context.state_backend()
