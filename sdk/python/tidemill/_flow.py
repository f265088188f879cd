"""Composition: `f >> g`, `f >> (g | h) >> combine`, and the plain data it becomes.

A flow is a tree of steps, sequences and branches; `compile` writes it as the common form of
docs/manifest.md. How a flow is run is the node's question.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tidemill._target import Callable_

if TYPE_CHECKING:
    from tidemill._app import Function

_INPUT = "input"


class _Leaf:
    __slots__ = ("function",)

    def __init__(self, function: Function[Any, Any, Any]) -> None:
        self.function = function


class _Seq:
    __slots__ = ("items",)

    def __init__(self, items: tuple[_Node, ...]) -> None:
        self.items = items


class _Par:
    __slots__ = ("branches",)

    def __init__(self, branches: tuple[_Node, ...]) -> None:
        self.branches = branches


_Node = _Leaf | _Seq | _Par


def _node(value: Any) -> _Node | None:
    if isinstance(value, Flow):
        return value._root
    if isinstance(value, Callable_):
        return _Leaf(value)  # type: ignore[arg-type]
    return None


def then(left: Any, right: Any) -> Flow | Any:
    """`left >> right`."""
    a, b = _node(left), _node(right)
    if a is None or b is None:
        return NotImplemented
    before = a.items if isinstance(a, _Seq) else (a,)
    after = b.items if isinstance(b, _Seq) else (b,)
    return Flow(_Seq((*before, *after)))


def beside(left: Any, right: Any) -> Flow | Any:
    """`left | right`."""
    a, b = _node(left), _node(right)
    if a is None or b is None:
        return NotImplemented
    before = a.branches if isinstance(a, _Par) else (a,)
    after = b.branches if isinstance(b, _Par) else (b,)
    return Flow(_Par((*before, *after)))


class Flow(Callable_[..., Any]):
    """Functions put together. Called like a function; runs as one request.

    `>>` hands a result on; `|` puts branches beside each other, each of which gets the same
    input; the step after branches takes one positional argument for each.
    """

    def __init__(self, root: _Node, name: str | None = None) -> None:
        self._root = root
        self.name = name
        self._cache: tuple[dict[str, Any], list[Function[Any, Any, Any]]] | None = None
        self._adhoc_name: str | None = None
        self.app_name = _first(root).app_name
        self._init_forms()

    def compile(self) -> dict[str, Any]:
        """The flow as data: `{"version": 1, "steps": [...], "output": id}`."""
        return self._compiled()[0]

    def ir(self) -> dict[str, Any] | None:
        return None if self.name is not None else self.compile()

    def adhoc_name(self) -> str:
        """The name under which an unregistered flow is known to a node: a hash of it."""
        if self._adhoc_name is None:  # every call asks for it
            text = json.dumps(self.compile(), sort_keys=True, separators=(",", ":"))
            self._adhoc_name = "adhoc-" + hashlib.sha256(text.encode()).hexdigest()[:16]
        return self._adhoc_name

    def functions(self) -> list[Function[Any, Any, Any]]:
        """The function of each step, by the step's id."""
        return list(self._compiled()[1])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.local(*args, **kwargs)

    def local(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the steps here, as plain local calls."""
        from tidemill._sync import settle

        return self.run(args, kwargs, lambda function, a, k: settle(function.local(*a, **k)))

    def run(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        call: Callable[[Function[Any, Any, Any], tuple[Any, ...], dict[str, Any]], Any],
    ) -> Any:
        """Runs step by step, each through `call(function, args, kwargs)`."""
        ir, functions = self._compiled()
        results: list[Any] = []
        for step, function in zip(ir["steps"], functions, strict=True):
            if step["in"] == [_INPUT]:
                results.append(call(function, args, kwargs))
            else:
                results.append(call(function, tuple(results[i] for i in step["in"]), {}))
        return results[ir["output"]]

    def __rshift__(self, other: Any) -> Flow:
        return then(self, other)

    def __or__(self, other: Any) -> Flow:
        return beside(self, other)

    def __repr__(self) -> str:
        return f"<Flow {self.app_name}.{self.name or self.adhoc_name()}>"

    def __reduce__(self) -> tuple[Any, ...]:
        from tidemill._app import find_flow

        return (find_flow, (self.app_name, self.name, self._root))

    def _compiled(self) -> tuple[dict[str, Any], list[Function[Any, Any, Any]]]:
        if self._cache is None:
            self._cache = _compile(self._root)
        return self._cache


def _first(node: _Node) -> Function[Any, Any, Any]:
    while not isinstance(node, _Leaf):
        node = node.items[0] if isinstance(node, _Seq) else node.branches[0]
    return node.function


def _compile(root: _Node) -> tuple[dict[str, Any], list[Function[Any, Any, Any]]]:
    steps: list[dict[str, Any]] = []
    functions: list[Function[Any, Any, Any]] = []
    app = _first(root).app_name

    def place(node: _Node, inputs: list[Any]) -> list[Any]:
        if isinstance(node, _Seq):
            for item in node.items:
                inputs = place(item, inputs)
            return inputs
        if isinstance(node, _Par):
            ends = [place(branch, inputs) for branch in node.branches]
            if any(len(end) != 1 for end in ends):
                raise ValueError("a branch of a flow ends in branches: give it a last step")
            return [end[0] for end in ends]
        function = node.function
        if function.app_name != app:
            raise ValueError(
                f"a flow stays in one app: {function.name} is of {function.app_name}, not {app}"
            )
        if function.generator:
            raise ValueError(f"a generator function can not be a step of a flow: {function.name}")
        steps.append({"id": len(steps), "call": function.name, "in": list(inputs)})
        functions.append(function)
        return [len(steps) - 1]

    outputs = place(root, [_INPUT])
    if len(outputs) != 1:
        raise ValueError("a flow ends in branches: add a step that combines them (>> combine)")
    return {"version": 1, "steps": steps, "output": outputs[0]}, functions
