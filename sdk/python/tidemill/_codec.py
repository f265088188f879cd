"""Values to bytes and back.

What travels how:

- `None`, `bool`, `int`, finite `float`, `str`, and `list` and `dict` (with `str` keys) of these,
  exact types only: `application/json`, compact UTF-8.
- `bytes`, `bytearray`, `memoryview`: `application/octet-stream`.
- everything else: `application/x-tidemill-pickle5`, pickle protocol 5 with its large buffers
  (numpy arrays, for example) out of band.

The layout of pickle5, all numbers little endian:

```
u32            n, the number of out-of-band buffers
u64 × (n + 1)  lengths in bytes: of the pickle, then of each buffer
               zero padding to a multiple of 64, then the pickle;
               for each buffer zero padding to a multiple of 64, then the buffer
```

Offsets count from the start of the payload, so a payload that is mapped from a file has every
buffer aligned, and decoding makes no copy of them. Such arrays are read-only.

This module knows neither sockets nor HTTP.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import sys
from collections.abc import Sequence
from typing import Any

from tidemill import _json

JSON = "application/json"
BYTES = "application/octet-stream"
PICKLE = "application/x-tidemill-pickle5"

ALIGN = 64
_DEPTH_MAX = 64
_BUFFERS_MAX = 1 << 24

Buffer = bytes | bytearray | memoryview

_SCALARS = frozenset({type(None), bool, int, float, str})
_CONTAINERS = frozenset({list, dict})
_RAW = frozenset({bytes, bytearray, memoryview})
_STR_ONLY = frozenset({str})

_json_decode = json.JSONDecoder().decode


class Payload:
    """A content type and its bytes, in one or more parts that follow each other."""

    __slots__ = ("content_type", "parts", "size")

    def __init__(self, content_type: str, parts: Sequence[Buffer], size: int) -> None:
        self.content_type = content_type
        self.parts = parts
        self.size = size

    @property
    def data(self) -> Buffer:
        """All bytes as one buffer, without a copy where there is one part."""
        return self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)

    def decode(self) -> Any:
        """The value."""
        return decode(self.content_type, self.data)


def payload(content_type: str, data: Buffer) -> Payload:
    """A payload of bytes that are there already."""
    return Payload(content_type, (data,), len(data))


# -- which module stands for __main__ ---------------------------------------------------------
#
# A script that is run (`python reviews.py`) has its classes in `__main__`; a worker imports the
# same file as the module `reviews`. Pickles name classes by module, so each side maps the
# other's name to its own.

_renames: dict[str, str] = {}
_main_by_reference = False


def alias_main(module: str) -> None:
    """In a script: `module` is the name that workers give to this process's `__main__`."""
    global _main_by_reference
    _renames[module] = "__main__"
    _main_by_reference = True


def alias_entry(module: str) -> None:
    """In a worker: what the other side calls `__main__` is `module` here."""
    _renames["__main__"] = module


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        other = _renames.get(module)
        if other is not None and other in sys.modules:
            try:
                return super().find_class(other, name)
            except AttributeError:
                pass
        return super().find_class(module, name)


# -- encoding ---------------------------------------------------------------------------------


def _is_plain(value: Any, depth: int) -> bool:
    """Whether JSON gives the same value back. NaN is left to the encoder, which refuses it."""
    kind = type(value)
    if kind in _SCALARS:
        return True
    if kind not in _CONTAINERS or depth > _DEPTH_MAX:
        return False
    if kind is dict:
        if not _STR_ONLY.issuperset(map(type, value)):
            return False
        value = value.values()
    kinds = set(map(type, value))
    kinds -= _SCALARS
    if not kinds:
        return True
    if not kinds <= _CONTAINERS:
        return False
    return all(type(item) in _SCALARS or _is_plain(item, depth + 1) for item in value)


def _try_json(value: Any) -> bytes | None:
    if not _is_plain(value, 0):
        return None
    try:
        return _json.encode(value).encode()
    except (ValueError, RecursionError):  # NaN, lone surrogates, integers of absurd length
        return None


def encode(value: Any) -> Payload:
    """Encodes one value. Raises what pickle raises when the value can not travel."""
    kind = type(value)
    if kind in _RAW:
        return _encode_raw(value)
    data = _try_json(value)
    if data is not None:
        return Payload(JSON, (data,), len(data))
    return encode_pickle(value)


def _encode_raw(value: Any) -> Payload:
    if type(value) is bytes:
        return Payload(BYTES, (value,), len(value))
    view = memoryview(value)
    if view.contiguous and (view.c_contiguous or view.ndim == 0):
        view = view.cast("B")
        return Payload(BYTES, (view,), view.nbytes)
    copy = view.tobytes()
    return Payload(BYTES, (copy,), len(copy))


def _dumps(value: Any, callback: Any) -> bytes:
    try:
        data = pickle.dumps(value, protocol=5, buffer_callback=callback)
        if _main_by_reference or b"__main__" not in data:
            return data
    except (pickle.PicklingError, AttributeError, TypeError):
        pass  # something plain pickle does not do: a lambda, a local class, a class of __main__
    return b""


def _dumps_by_value(value: Any, callback: Any) -> bytes:
    # Imported when needed: a worker's environment may be without it.
    import cloudpickle

    return cloudpickle.dumps(value, protocol=5, buffer_callback=callback)  # type: ignore[no-any-return]


def encode_pickle(value: Any) -> Payload:
    """Encodes one value as pickle5, whatever it is."""
    buffers: list[pickle.PickleBuffer] = []
    data = _dumps(value, buffers.append)
    if not data:
        buffers.clear()
        data = _dumps_by_value(value, buffers.append)
    try:
        views = [buffer.raw() for buffer in buffers]
    except BufferError:  # a buffer that is not contiguous can not go out of band
        views = []
        data = _dumps(value, None) or _dumps_by_value(value, None)
    return _lay_out(data, views)


def _lay_out(data: bytes, views: list[memoryview]) -> Payload:
    head = struct.pack(f"<I{len(views) + 1}Q", len(views), len(data), *(v.nbytes for v in views))
    parts: list[Buffer] = [head]
    size = len(head)
    tail: list[Buffer] = [data]
    tail.extend(views)
    for part in tail:
        gap = -size % ALIGN
        if gap:
            parts.append(bytes(gap))
        parts.append(part)
        size += gap + len(part)
    return Payload(PICKLE, parts, size)


def encode_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Payload:
    """Encodes the arguments of a call as one payload (docs/worker-protocol.md, "A fragment")."""
    if not kwargs:
        if len(args) == 1 and type(args[0]) in _RAW:
            return _encode_raw(args[0])
        data = _try_json(list(args))
    else:
        data = _try_json({"args": list(args), "kwargs": kwargs})
    if data is not None:
        return Payload(JSON, (data,), len(data))
    return encode_pickle((args, kwargs))


# -- decoding ---------------------------------------------------------------------------------


def decode(content_type: str, data: Buffer) -> Any:
    """The value of a payload.

    Bytes come back as `bytes`, or as a read-only `memoryview` where `data` is one (a mapped
    file). A content type that is none of the three gives its bytes, `text/…` a `str`.
    """
    if content_type == JSON:
        return _json_decode(str(data, "utf-8"))
    if content_type == PICKLE:
        return _decode_pickle(data)
    if content_type != BYTES:
        short = content_type.partition(";")[0].strip().lower()
        if short == JSON or short.endswith("+json"):
            return _json_decode(str(data, "utf-8"))
        if short.startswith("text/"):
            return str(data, "utf-8", "replace")
    return data if type(data) is memoryview else bytes(data)


def _decode_pickle(data: Buffer) -> Any:
    view = memoryview(data).toreadonly()
    if len(view) < 12:
        raise ValueError("pickle5 payload: too short")
    (count,) = struct.unpack_from("<I", view)
    if count > _BUFFERS_MAX or 4 + 8 * (count + 1) > len(view):
        raise ValueError("pickle5 payload: more buffers than bytes")
    sizes = struct.unpack_from(f"<{count + 1}Q", view, 4)
    at = 4 + 8 * (count + 1)
    parts = []
    for size in sizes:
        at += -at % ALIGN
        if at + size > len(view):
            raise ValueError("pickle5 payload: cut short")
        parts.append(view[at : at + size])
        at += size
    if _renames:
        return _Unpickler(io.BytesIO(parts[0]), buffers=parts[1:]).load()
    return pickle.loads(parts[0], buffers=parts[1:])


_CALL_KEYS = frozenset({"args", "kwargs"})


def decode_call(content_type: str, data: Buffer) -> tuple[Sequence[Any], dict[str, Any]]:
    """The arguments in a call payload; the inverse of `encode_call`."""
    if len(data) == 0 and content_type != BYTES:
        return (), {}
    return as_call(decode(content_type, data))


def as_call(value: Any) -> tuple[Sequence[Any], dict[str, Any]]:
    """Reads a decoded value as a whole call: the arguments, or the one argument."""
    kind = type(value)
    if kind is list:
        return value, {}
    if kind is dict and value and _CALL_KEYS.issuperset(value):
        args, kwargs = value.get("args", []), value.get("kwargs", {})
        if type(args) is list and type(kwargs) is dict:
            return args, kwargs
    if kind is tuple and len(value) == 2 and type(value[0]) is tuple and type(value[1]) is dict:
        args, kwargs = value
        return args, kwargs
    return (value,), {}
