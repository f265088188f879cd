"""Exceptions to errors of the protocol, and back.

A failure is the protocol's `error` object, with the pickled exception as a payload beside it.
"""

from __future__ import annotations

import os
import traceback
from types import TracebackType
from typing import Any

from tidemill import _codec
from tidemill._codec import Payload
from tidemill.errors import Error, FunctionError, RemoteTraceback, from_code

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_TEXT_MAX = 64 << 10


def describe(error: BaseException) -> tuple[dict[str, Any], Payload | None]:
    """An exception as `function-failed`, with its pickle where it can travel.

    A problem of the platform that the function did not handle keeps its own code.
    """
    if isinstance(error, Error) and not isinstance(error, FunctionError):
        return {"code": error.code, "message": error.detail}, None
    kind = type(error)
    module = kind.__module__
    name = kind.__qualname__
    described = {
        "code": "function-failed",
        "message": _message(error),
        "type": name if module in ("builtins", "__main__") else f"{module}.{name}",
        "traceback": format_exception(error),
    }
    return described, _pickled(error)


def _message(error: BaseException) -> str:
    try:
        return str(error)[:_TEXT_MAX]
    except Exception as broken:
        return f"<its text can not be made: {type(broken).__name__}>"


def format_exception(error: BaseException) -> str:
    """The traceback as text, without the frames of the SDK at its top."""
    try:
        lines = traceback.format_exception(type(error), error, _trim(error.__traceback__))
    except Exception:
        lines = [f"{type(error).__name__}\n"]
    text = "".join(lines)
    if len(text) > _TEXT_MAX:
        half = _TEXT_MAX // 2
        text = f"{text[:half]}\n  … cut …\n{text[-half:]}"
    return text


def _trim(tb: TracebackType | None) -> TracebackType | None:
    first = tb
    while tb is not None and tb.tb_frame.f_code.co_filename.startswith(_HERE):
        tb = tb.tb_next
    return tb or first


def _pickled(error: BaseException) -> Payload | None:
    # SystemExit and KeyboardInterrupt would end the caller; they travel as text.
    if not isinstance(error, Exception):
        return None
    try:
        payload = _codec.encode_pickle(error)
        back = _codec.decode(payload.content_type, payload.data)
    except Exception:
        return None
    return payload if type(back).__name__ == type(error).__name__ else None


def rebuild(error: dict[str, Any], pickled: Payload | None, request: str | None) -> BaseException:
    """The exception to raise for an error that came from a node."""
    code = error.get("code", "internal")
    if code != "function-failed":
        return from_code(code, error.get("message", ""), request=request, extra=error.get("extra"))
    text = error.get("traceback") or ""
    if pickled is not None:
        try:
            exception = pickled.decode()
        except Exception:
            exception = None
        if isinstance(exception, Exception):
            exception.__cause__ = RemoteTraceback(text)
            if isinstance(exception, Error) and exception.request is None:
                exception.request = request
            return exception
    failed = FunctionError(
        error.get("type") or "Exception", error.get("message", ""), text, request=request
    )
    if text:
        failed.__cause__ = RemoteTraceback(text)
    return failed
