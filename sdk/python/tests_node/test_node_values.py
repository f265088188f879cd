"""Values that are large or not JSON, on their way through a node."""

from __future__ import annotations

import numpy as np
import pytest
import tidemill

MILLION = 1 << 20


@pytest.fixture(scope="module")
def big():
    """8 MB of numbers."""
    return np.arange(MILLION, dtype=np.int64)


def test_a_dataclass_travels_both_ways(kitchen):
    dish = kitchen.dish.remote("curry")
    assert dish == kitchen.Dish("curry", 5)
    assert type(dish) is kitchen.Dish
    assert kitchen.price.remote(dish) == 5


@pytest.mark.parametrize(
    "array",
    [np.float32(1.5), np.zeros((0, 3)), np.ones((2, 3), order="F"), np.array(["a", None], object)],
    ids=["scalar", "empty", "fortran", "objects"],
)
def test_numpy_values(kitchen, array):
    back = kitchen.echo.remote(array)
    assert type(back) is type(array)
    assert np.array_equal(back, array)


def test_a_large_array_as_argument_and_result(kitchen, big):
    assert kitchen.total.remote(big) == (int(big.sum()), False)
    assert np.array_equal(kitchen.doubled.remote(big), big * 2)


def test_a_large_array_by_reference(kitchen, node, big):
    node.state("kitchen").register("model").set(big)
    assert kitchen.total.remote(tidemill.ref("model")) == (int(big.sum()), False)
    assert kitchen.total.remote(array=tidemill.ref("model"))[0] == int(big.sum())
    with pytest.raises(ValueError, match="read-only"):
        kitchen.write_into.remote(tidemill.ref("model"))
    assert np.array_equal(node.state("kitchen").register("model").get(), big)
    assert kitchen.echo.remote(tidemill.ref("nothing")) is None


def test_a_reference_sees_the_requests_snapshot(kitchen, node):
    for n in range(20):
        kitchen.keep.remote("small", [n])
        assert kitchen.echo.remote(tidemill.ref("small")) == [n]


def test_a_function_keeps_a_large_value(kitchen, node, big):
    kitchen.keep.remote("kept", big)
    assert np.array_equal(node.state("kitchen").register("kept").get(), big)


def test_bytes_come_as_a_view_when_they_are_many(kitchen):
    assert kitchen.describe.remote(b"few") == "builtins.bytes"
    assert kitchen.describe.remote(bytes(1 << 20)) == "builtins.memoryview"
    assert kitchen.echo.remote(bytes(range(256)) * 4096) == bytes(range(256)) * 4096


def test_what_does_not_pickle_is_said(kitchen):
    with pytest.raises(TypeError, match="pickle"):
        kitchen.add.remote(x for x in ())


def test_what_is_too_large_is_refused(kitchen, node):
    limit = node.node()["settings"]["http"]["body_bytes_max"]
    with pytest.raises(tidemill.PayloadTooLarge) as caught:
        kitchen.describe.remote(bytes(limit + 1))
    assert caught.value.code == "payload-too-large"
    assert kitchen.add.remote(1) == 11
