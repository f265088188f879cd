"""WebAssembly components as functions of an app (docs/wasm.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from tidemill._app import Function, Options

if TYPE_CHECKING:
    from tidemill._app import App


class Component(Function[..., Any, Any]):
    """A function that a component runs. It is called remotely and in flows, not locally."""

    def __init__(self, app: App, name: str, path: str, options: Options) -> None:
        super().__init__(app, name, _elsewhere, options)
        self.path = path
        self.grants: dict[str, Any] = {}
        self.http = False

    @property
    def bundled(self) -> str:
        """The component's name in the bundle: the same for all functions that it runs."""
        return f"components/{hashlib.sha256(self.read()).hexdigest()[:16]}.wasm"

    def read(self) -> bytes:
        """The component."""
        try:
            with open(self.path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{self.app_name}.{self.name}: there is no {self.path}; build the component first"
            ) from None

    def target(self) -> Callable[..., Any]:
        return _elsewhere

    def to_manifest(self) -> dict[str, Any]:
        entry = super().to_manifest()
        entry["doc"] = self.__doc__ or ""
        entry["component"] = self.bundled
        if self.http:
            entry["kind"] = "http"
        return entry | {grant: value for grant, value in self.grants.items() if value}


def _elsewhere(*args: Any, **kwargs: Any) -> NoReturn:
    raise RuntimeError("this function is a component and runs on a node; use .remote")
