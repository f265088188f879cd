from __future__ import annotations

from pathlib import Path

import demo
import pytest
from node import FakeNode

HERE = Path(__file__).parent


def start(**more):
    functions = sorted(demo.app.functions)
    node = FakeNode(HERE, {"kind": "module", "module": "demo", "app": "app"}, functions, **more)
    node.generators = [name for name in functions if demo.app.functions[name].generator]
    return node


@pytest.fixture(scope="session")
def shared_node():
    with start() as node:
        assert "error" not in node.loaded, node.loaded
        yield node


@pytest.fixture
def node(shared_node):
    """A node with empty state; its worker processes are shared between tests."""
    shared_node.model = type(shared_node.model)()
    shared_node.enqueued = []
    return shared_node


@pytest.fixture
def own_node():
    """A node for tests that break it."""
    with start() as node:
        yield node
