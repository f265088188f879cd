"""`tidemill.ref`: a value of state as an argument."""

from __future__ import annotations

from typing import Any


class Ref:
    """Stands for the value of a register; the function gets the value itself."""

    __slots__ = ("app", "key")

    def __init__(self, key: str, app: str | None = None) -> None:
        self.key = key
        self.app = app

    def __repr__(self) -> str:
        return f"ref({self.key!r})" if self.app is None else f"ref({self.key!r}, app={self.app!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and (self.key, self.app) == (other.key, other.app)

    def __hash__(self) -> int:
        return hash((self.key, self.app))

    def __reduce__(self) -> tuple[Any, ...]:
        return (ref, (self.key, self.app))


def ref(key: str, *args: Any, app: str | None = None) -> Any:
    """A register as an argument: `f.remote(tidemill.ref("model"))`.

    The function gets the value that the register holds at the request's snapshot, `None` when
    there is none. A large value is mapped, not copied. Works for arguments themselves, not
    inside lists or other values. `app` is only a check: it must be the app of the function.
    """
    if args:
        (app,) = args
    return Ref(key, app)
