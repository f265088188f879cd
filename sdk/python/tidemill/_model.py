"""The state types in plain Python: what a node does with operations, without a node.

Used by `tidemill.testing`. One writer at a time, so merging never comes up: `multi` holds one
value, `register` the last one.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable
from typing import Any

from tidemill._codec import Payload
from tidemill._context import View
from tidemill.errors import WrongType


class Cell:
    """What one key or field holds."""

    def __init__(self, type: str) -> None:
        self.type = type
        self.value: Any = None
        self.items: list[tuple[int, Payload]] = []
        self.scores: dict[str, float] = {}
        self.fields: dict[str, Cell] = {}
        self.expires_ms: int | None = None

    def copy(self) -> Cell:
        """A copy that shares no container; payloads are never changed."""
        made = copy.copy(self)
        made.items = list(self.items)
        made.scores = dict(self.scores)
        made.fields = {name: field.copy() for name, field in self.fields.items()}
        return made

    def view(self) -> View:
        """As the node shows it."""
        made = View(self.type)
        if self.type in ("multi", "set", "log"):
            made.values = [payload for _, payload in self.items]
            made.at = [at for at, _ in self.items]
        elif self.type == "map":
            made.fields = {name: self.fields[name].view() for name in sorted(self.fields)}
        elif self.type == "top":
            made.value = [[score, id] for id, score in self._ranked()]
        else:
            made.value = self.value
        return made

    def _ranked(self) -> list[tuple[str, float]]:
        return sorted(self.scores.items(), key=lambda entry: (entry[1], entry[0]), reverse=True)

    def apply(self, verb: str, op: dict[str, Any], now_us: int) -> None:
        """Does `verb` of this cell's type."""
        if verb == "set":
            if self.type == "register":
                self.value = op["p"]
            else:
                self.items = [(now_us, op["p"])]
        elif verb == "add" and self.type == "counter":
            self.value = (self.value or 0) + op["v"]
        elif verb == "put" and self.type == "top":
            old = self.scores.get(op["id"])
            self.scores[op["id"]] = op["score"] if old is None else max(old, op["score"])
            self.scores = dict(self._ranked()[: op["of"]])
        elif verb == "put":
            known = [] if self.value is None else [self.value]
            pick = max if self.type == "max" else min
            self.value = pick([*known, op["v"]], key=lambda v: (isinstance(v, str), v))
        elif verb == "raise":
            self.value = True
        elif verb == "append":
            self.items.append((now_us, op["p"]))
            keep = op.get("keep")
            if keep is not None:
                del self.items[:-keep]
        else:
            self._member(verb, op["p"], now_us)

    def _member(self, verb: str, element: Payload, now_us: int) -> None:
        others = [entry for entry in self.items if _id(entry[1]) != _id(element)]
        if verb == "add":
            others.append((now_us, element))
        self.items = sorted(others, key=lambda entry: _id(entry[1]))


def _id(payload: Payload) -> tuple[str, bytes]:
    return payload.content_type, bytes(payload.data)


class Model:
    """The committed state of one app."""

    def __init__(self) -> None:
        self.cells: dict[str, Cell] = {}

    def live(self, key: str) -> Cell | None:
        """The cell of a key that has not expired."""
        cell = self.cells.get(key)
        if cell is not None and cell.expires_ms is not None:
            return cell if time.time() * 1000 < cell.expires_ms else None
        return cell

    def apply(self, ops: Iterable[dict[str, Any]]) -> None:
        """Commits operations."""
        for op in ops:
            cell = self.live(op["k"])
            cell = step(cell, op)
            if cell is None:
                self.cells.pop(op["k"], None)
            else:
                self.cells[op["k"]] = cell

    def cell(self, key: str, ops: Iterable[dict[str, Any]] = ()) -> Cell | None:
        """What a key holds once `ops` are done as well."""
        cell = self.live(key)
        mine = [op for op in ops if op["k"] == key]
        if mine and cell is not None:
            cell = cell.copy()
        for op in mine:
            cell = step(cell, op)
        return cell

    def get(self, get: dict[str, Any], ops: list[dict[str, Any]]) -> Any:
        """Answers one get of the worker protocol, with the writes of the request."""
        if "scan" in get:
            return self._scan(get, ops)
        cell = self.cell(get["k"], ops)
        wanted = get.get("t")
        if cell is not None and wanted is not None and cell.type != wanted:
            raise WrongType(f"{get['k']} holds a {cell.type}, not a {wanted}")
        if "has" in get:
            if cell is None:
                return False
            return any(_id(payload) == _id(get["has"]) for _, payload in cell.items)
        if cell is not None and "f" in get:
            cell = cell.fields.get(get["f"])
        return None if cell is None else cell.view()

    def _scan(self, get: dict[str, Any], ops: list[dict[str, Any]]) -> dict[str, Any]:
        names = {key for key in (*self.cells, *(op["k"] for op in ops))}
        found = []
        for key in sorted(names):
            if key.startswith(get["scan"]) and (get["after"] is None or key > get["after"]):
                cell = self.cell(key, ops)
                if cell is not None:
                    found.append([key, cell.type])
        page = found[: get["limit"]]
        return {"keys": page, "next": page[-1][0] if len(page) < len(found) else None}


def step(cell: Cell | None, op: dict[str, Any]) -> Cell | None:
    """A cell after one operation; it is changed in place where it stays the same cell."""
    name: str = op["o"]
    if name == "delete":
        return None
    if name == "expire":
        if cell is not None:
            cell.expires_ms = op["at_ms"]
        return cell
    if name == "map.remove":
        if cell is not None:
            _expect(cell, "map", op)
            cell.fields.pop(op["f"], None)
        return cell
    kind, _, verb = name.partition(".")
    outer = cell
    if "f" in op:
        outer = cell or Cell("map")
        _expect(outer, "map", op)
        cell = outer.fields.setdefault(op["f"], Cell(kind))
    elif cell is None:
        outer = cell = Cell(kind)
    _expect(cell, kind, op)
    cell.apply(verb, op, time.time_ns() // 1000)
    return outer


def _expect(cell: Cell, kind: str, op: dict[str, Any]) -> None:
    if cell.type != kind:
        where = op["k"] if "f" not in op else f"{op['k']}[{op['f']}]"
        at = f", at {op['at']}" if "at" in op else ""
        raise WrongType(f"{where} holds a {cell.type}, not a {kind}{at}")
