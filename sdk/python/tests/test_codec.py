from __future__ import annotations

import math
import pickle
import random
import struct

import pytest
from tidemill import _codec


def trip(value):
    return _codec.encode(value).decode()


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -1,
        1 << 80,
        0.5,
        -0.0,
        1e308,
        "",
        "grüße\n\x00",
        [],
        {},
        [[[]], {"a": [None]}],
    ],
)
def test_plain_values_are_json(value):
    payload = _codec.encode(value)
    assert payload.content_type == _codec.JSON
    back = payload.decode()
    assert back == value and type(back) is type(value)


@pytest.mark.parametrize(
    "value",
    [(), (1,), {1}, {1: 2}, [(1,)], {"a": {2: 3}}, math.inf, [math.inf], {"a": "\udc80"},
     frozenset({1}), 1j],
)  # fmt: skip
def test_the_rest_is_pickle(value):
    payload = _codec.encode(value)
    assert payload.content_type == _codec.PICKLE
    back = payload.decode()
    assert back == value and type(back) is type(value)


def test_integers_that_have_no_text():
    assert trip([10**5000]) == [10**5000]


def test_nan_and_subclasses_are_kept():
    assert math.isnan(trip(math.nan)) and math.isnan(trip([1, math.nan])[1])

    class Text(str):
        pass

    assert type(trip(Text("x"))).__name__ == "Text"
    assert type(trip([Text("x")])[0]).__name__ == "Text"


def test_json_is_compact_utf8():
    assert _codec.encode({"a": [1, "ü"]}).data == '{"a":[1,"ü"]}'.encode()


def test_deep_and_circular_values():
    deep = []
    for _ in range(150):
        deep = [deep]
    assert _codec.encode(deep).content_type == _codec.PICKLE
    assert trip(deep) == deep
    circular = []
    circular.append(circular)
    back = trip(circular)
    assert back[0] is back


@pytest.mark.parametrize("value", [b"", b"abc", bytearray(b"xyz"), memoryview(b"hello")[1:]])
def test_bytes_are_raw(value):
    payload = _codec.encode(value)
    assert payload.content_type == _codec.BYTES
    assert payload.decode() == bytes(value)


def test_memoryviews_of_any_shape():
    view = memoryview(bytes(range(24)))[::2]
    assert trip(view) == bytes(range(0, 24, 2))
    assert trip(memoryview(b"abcdefgh").cast("I")) == b"abcdefgh"


def arbitrary(rng, depth):
    kind = rng.randrange(11 if depth else 8)
    if kind == 0:
        return None
    if kind == 1:
        return rng.choice([True, False])
    if kind == 2:
        return rng.randrange(-(1 << 70), 1 << 70)
    if kind == 3:
        return rng.choice([0.0, 1.5, -2e-300, rng.random(), math.inf])
    if kind in (4, 5):
        return "".join(
            chr(rng.choice([65, 0x20AC, 0x1F600, 10, 34])) for _ in range(rng.randrange(5))
        )
    if kind == 6:
        return rng.randbytes(rng.randrange(9))
    if kind == 7:
        return (1, "t")
    if kind == 8:
        return [arbitrary(rng, depth - 1) for _ in range(rng.randrange(4))]
    if kind == 9:
        return {str(i): arbitrary(rng, depth - 1) for i in range(rng.randrange(4))}
    return tuple(arbitrary(rng, depth - 1) for _ in range(rng.randrange(3)))


def same(a, b):
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return a == b


def test_any_value_comes_back_the_same():
    rng = random.Random(1)
    for _ in range(3000):
        value = arbitrary(rng, 4)
        assert same(trip(value), value), value


def test_any_call_comes_back_the_same():
    rng = random.Random(2)
    for _ in range(2000):
        args = tuple(arbitrary(rng, 2) for _ in range(rng.randrange(4)))
        kwargs = {f"k{i}": arbitrary(rng, 2) for i in range(rng.randrange(3))}
        payload = _codec.encode_call(args, kwargs)
        back = _codec.decode_call(payload.content_type, payload.data)
        assert same((tuple(back[0]), back[1]), (args, kwargs)), (args, kwargs)


def test_forms_of_a_call():
    assert _codec.encode_call((1, 2), {}).data == b"[1,2]"
    assert _codec.encode_call((1,), {"k": 2}).data == b'{"args":[1],"kwargs":{"k":2}}'
    assert _codec.encode_call((b"x",), {}).content_type == _codec.BYTES
    assert _codec.decode_call(_codec.JSON, b"") == ((), {})
    assert _codec.decode_call(_codec.JSON, b'{"kwargs":{"a":1}}') == ([], {"a": 1})
    assert _codec.decode_call(_codec.JSON, b'{"text":"a"}') == (({"text": "a"},), {})
    assert _codec.decode_call(_codec.JSON, b"5") == ((5,), {})
    assert _codec.decode_call(_codec.BYTES, b"") == ((b"",), {})
    assert _codec.decode_call("text/plain", b"t") == (("t",), {})


def test_layout_of_pickle5():
    np = pytest.importorskip("numpy")
    a, b = np.arange(5, dtype=np.int32), np.ones((3, 7))
    payload = _codec.encode([a, b])
    data = bytes(payload.data)
    assert len(data) == payload.size
    count, *lengths = struct.unpack_from("<I3Q", data)
    assert count == 2 and lengths[1:] == [a.nbytes, b.nbytes]
    at = 4 + 8 * 3
    parts = []
    for length in lengths:
        gap = -at % 64
        assert data[at : at + gap] == bytes(gap)
        at += gap
        parts.append(data[at : at + length])
        at += length
    assert at == len(data)
    assert parts[1] == a.tobytes() and parts[2] == b.tobytes()
    assert (pickle.loads(parts[0], buffers=parts[1:])[1] == b).all()


def test_arrays_are_read_only_views():
    np = pytest.importorskip("numpy")
    array = np.arange(100_000, dtype=np.float64)
    payload = _codec.encode(array)
    held = bytearray(payload.data)
    back = _codec.decode(payload.content_type, memoryview(held))
    assert not back.flags.writeable
    held[-8:] = struct.pack("<d", -1.0)
    assert back[-1] == -1.0  # no copy was made
    strided = array[::3]
    assert (trip(strided) == strided).all()
    assert (trip(np.asfortranarray(np.ones((3, 4)))) == 1).all()
    assert trip(np.zeros(0)).size == 0
    assert trip(np.float64(1.5)) == 1.5


def test_broken_pickle5_is_refused():
    data = bytes(_codec.encode((1, b"x" * 100)).data)
    for broken in (b"", data[:10], data[:80], struct.pack("<IQ", 1 << 31, 1), b"\xff" * 64,
                   struct.pack("<IQ", 0, 1 << 63) + bytes(100)):  # fmt: skip
        with pytest.raises(ValueError):
            _codec.decode(_codec.PICKLE, broken)


def test_lambdas_travel():
    assert trip(lambda x: x + 1)(2) == 3


def test_main_has_two_names(monkeypatch):
    import sys
    import types

    worker = types.ModuleType("reviews")
    exec("class Thing:\n    pass", worker.__dict__)
    worker.Thing.__module__ = "reviews"
    monkeypatch.setitem(sys.modules, "reviews", worker)
    monkeypatch.setattr(_codec, "_renames", {"__main__": "reviews"})
    main = b"\x80\x04c__main__\nThing\n."
    payload = _codec._lay_out(main, [])
    assert _codec.decode(_codec.PICKLE, payload.data) is worker.Thing
