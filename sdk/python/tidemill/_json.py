"""The standard library's JSON encoder, made once.

`json.JSONEncoder.encode` builds its C encoder anew for every value, which costs more than
encoding a small one. Where the C encoder is not there, or not as expected, the plain one serves.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from json import encoder as _encoder
from typing import Any

_plain = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
)


def _fast() -> Callable[[Any], str] | None:
    make: Any = getattr(_encoder, "c_make_encoder", None)
    text: Any = getattr(_encoder, "c_encode_basestring", None)
    if make is None or text is None:
        return None
    try:
        chunks = make(None, _plain.default, text, None, ":", ",", False, False, False)
        sample = {"a": [1, 2.5, None, True, "ü\n"], "b": {}}
        if "".join(chunks(sample, 0)) != _plain.encode(sample):
            return None
    except Exception:
        return None

    def encode(value: Any) -> str:
        return "".join(chunks(value, 0))

    return encode


encode: Callable[[Any], str] = _fast() or _plain.encode
"""Compact JSON text. Raises `ValueError` for NaN and infinities, `TypeError` for other types."""
