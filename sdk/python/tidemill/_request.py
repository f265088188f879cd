"""`tidemill.request`: the request that runs here."""

from __future__ import annotations

from typing import Any

from tidemill import _context


class Request:
    """What a function may know of the request it runs in."""

    __slots__ = ()

    def _info(self) -> _context.RequestInfo:
        step = _context.step()
        if step is None:
            raise RuntimeError("tidemill.request is there inside functions only")
        return step.info

    @property
    def id(self) -> str:
        """The request's id."""
        return self._info().request_id

    @property
    def attempt(self) -> int:
        """1, and greater each time that the request, or this function, is run again."""
        return self._info().attempt

    @property
    def key(self) -> str | None:
        """The caller's idempotency key."""
        return self._info().key

    @property
    def trace(self) -> str:
        """The W3C traceparent."""
        return self._info().trace

    @property
    def caller(self) -> dict[str, Any]:
        """Who called: `{"tenant", "subject"}`."""
        return self._info().caller

    @property
    def app(self) -> str:
        """The app's name."""
        return self._info().app

    @property
    def deadline(self) -> float | None:
        """Seconds left until the request is stopped."""
        return self._info().remaining()

    def __repr__(self) -> str:
        step = _context.step()
        return "<no request>" if step is None else f"<request {step.info.request_id}>"


request = Request()
