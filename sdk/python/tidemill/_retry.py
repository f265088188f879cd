"""Which failed calls are sent again, and when. Pure: time and chance are handed in."""

from __future__ import annotations

from dataclasses import dataclass

from tidemill.errors import ConnectionFailed, Error, Timeout

_CODES = frozenset({"overloaded", "shutting-down", "storage-failed", "request-in-flight"})
# Between the client and the node there may be proxies, whose answers carry no code.
_STATUSES = frozenset({502, 503, 504})


@dataclass(frozen=True)
class Retry:
    """How often a call is sent again that may not have arrived, or whose answer was lost.

    It carries the same key each time, so it takes effect once. What the node says of the
    function itself (its exception, its time, its crash) is not asked again.
    """

    times: int = 5
    first_seconds: float = 0.1
    most_seconds: float = 5.0

    def __post_init__(self) -> None:
        if self.times < 0 or not 0 <= self.first_seconds <= self.most_seconds:
            raise ValueError("retries are at least 0, their seconds rise from at least 0")

    def pause(self, error: BaseException, tried: int, chance: float) -> float | None:
        """Seconds until a call is sent again that has failed `tried` + 1 times; None: not again.

        The time doubles, and of that between a half and all, by `chance` in [0, 1), so that
        clients who failed together do not come back together. A node's `Retry-After` is obeyed.
        """
        if tried >= self.times or not is_passing(error):
            return None
        doubled: float = min(self.first_seconds * 2.0**tried, self.most_seconds)
        seconds = doubled * (0.5 + chance / 2)
        asked = error.retry_after if isinstance(error, Error) else None
        return seconds if asked is None else max(seconds, asked)


def is_passing(error: BaseException) -> bool:
    """Whether the same call may do better in a moment."""
    if not isinstance(error, Error):
        return False
    if error.status is None:  # the client's own
        return isinstance(error, ConnectionFailed | Timeout) and not error.is_final
    if error.code in _CODES:
        return True
    return error.code == f"http-{error.status}" and error.status in _STATUSES
