"""`App`, its functions and classes: what is registered, and under which options."""

from __future__ import annotations

import inspect
import os
import re
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Generic, NoReturn, ParamSpec, TypeVar, overload

from tidemill import _codec, _sync
from tidemill._flow import Flow, _Leaf, _Node, beside, then
from tidemill._target import Callable_, RemoteGen

P = ParamSpec("P")
R = TypeVar("R")
L = TypeVar("L")
C = TypeVar("C")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}\Z")
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*\Z", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_LEVELS = ("causal", "eventual")
_DURABILITIES = ("memory", "durable")

_apps: dict[str, App] = {}


def parse_size(size: int | str) -> int:
    """Bytes from `512MB`, `2GiB`, `1_000_000`. The units are powers of 1024."""
    if isinstance(size, int) and not isinstance(size, bool):
        if size <= 0:
            raise ValueError("memory must be positive")
        return size
    match = _SIZE.match(str(size).replace("_", ""))
    if match is None:
        raise ValueError(f"not a size: {size!r} (write 512MB, 2GB or a number of bytes)")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def check_name(name: str, what: str) -> str:
    """Refuses what the manifest would refuse, early and where it was written."""
    if not isinstance(name, str) or _NAME.match(name) is None:
        raise ValueError(f"{what} {name!r} must match [A-Za-z_][A-Za-z0-9_.-]{{0,127}}")
    return name


def _check_level(level: str | None) -> str | None:
    if level is not None and level not in _LEVELS:
        raise ValueError(f"level {level!r} must be 'causal' or 'eventual'")
    return level


def _check_durability(durability: str | None) -> str | None:
    if durability is not None and durability not in _DURABILITIES:
        raise ValueError(f"durability {durability!r} must be 'memory' or 'durable'")
    return durability


class Options:
    """What `@app.function` and `@app.cls` take, checked, as the manifest has it."""

    __slots__ = ("manifest",)

    def __init__(
        self,
        *,
        timeout: float = 60,
        memory: int | str = "512MB",
        retries: int = 0,
        max_concurrency: int | None = None,
        min_workers: int = 0,
        idle_timeout: float = 300,
        requirements: list[str] | tuple[str, ...] = (),
        env: dict[str, str] | None = None,
        secrets: list[str] | tuple[str, ...] = (),
        resources: dict[str, float] | None = None,
        level: str | None = None,
        durability: str | None = None,
    ) -> None:
        if timeout <= 0 or idle_timeout < 0:
            raise ValueError("timeout must be positive, idle_timeout not negative")
        if retries < 0 or min_workers < 0 or (max_concurrency is not None and max_concurrency < 1):
            raise ValueError("retries, min_workers and max_concurrency must not be negative")
        if isinstance(requirements, str) or isinstance(secrets, str):
            raise TypeError("requirements and secrets are lists of strings")
        self.manifest: dict[str, Any] = {
            "timeout_ms": round(timeout * 1000),
            "memory_bytes": parse_size(memory),
            "retries": retries,
            "max_concurrency": max_concurrency,
            "min_workers": min_workers,
            "idle_timeout_ms": round(idle_timeout * 1000),
            "requirements": list(requirements),
            "env": {str(k): str(v) for k, v in (env or {}).items()},
            "secrets": list(secrets),
            "resources": dict(resources or {}),
            "level": _check_level(level),
            "durability": _check_durability(durability),
        }


class Function(Callable_[P, R], Generic[P, R, L]):
    """A function of an app.

    Calling it (`f(x)`, `f.local(x)`) is a plain local call; `f.remote(x)` runs it where the
    platform runs it. `f >> g` and `f | g` make flows.
    """

    remote_gen: RemoteGen[P]

    def __init__(self, app: App, name: str, fn: Callable[..., Any], options: Options) -> None:
        self.app = app
        self.app_name = app.name
        self.name: str = check_name(name, "function name")
        self.fn = fn
        self.options = options
        self.is_async_gen = inspect.isasyncgenfunction(fn)
        self.is_async = inspect.iscoroutinefunction(fn)
        self.generator = self.is_async_gen or inspect.isgeneratorfunction(fn)
        self.__name__ = getattr(fn, "__name__", name)
        self.__doc__ = fn.__doc__
        self.__wrapped__ = fn
        self.__module__ = getattr(fn, "__module__", __name__)
        self._init_forms()
        self.remote_gen = RemoteGen(self)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> L:
        return self.target()(*args, **kwargs)  # type: ignore[no-any-return]

    def local(self, *args: P.args, **kwargs: P.kwargs) -> L:
        """A plain local call."""
        return self.target()(*args, **kwargs)  # type: ignore[no-any-return]

    def target(self) -> Callable[..., Any]:
        """The plain callable behind the function."""
        return self.fn

    def to_manifest(self) -> dict[str, Any]:
        """The entry in the manifest's `functions`."""
        return {
            "name": self.name,
            "kind": "generator" if self.generator else "function",
            "asynchronous": self.is_async or self.is_async_gen,
            **self.options.manifest,
            "doc": inspect.getdoc(self.fn) or "",
        }

    def __rshift__(self, other: Any) -> Flow:
        return then(self, other)

    def __or__(self, other: Any) -> Flow:
        return beside(self, other)

    def __repr__(self) -> str:
        return f"<Function {self.app_name}.{self.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return (find_function, (self.app_name, self.name, self.generator))


class Method(Function[P, R, L]):
    """A method of a class of an app: the function `Class.method`.

    Called locally it runs on one instance per process, made (with its `enter` methods) on
    first use.
    """

    def __init__(self, cls: Cls[Any], attribute: str, fn: Callable[..., Any]) -> None:
        super().__init__(cls.app, f"{cls.name}.{attribute}", fn, cls.options)
        self.cls = cls
        self.attribute = attribute

    def target(self) -> Callable[..., Any]:
        return getattr(self.cls.instance(), self.attribute)  # type: ignore[no-any-return]


class Cls(Generic[C]):
    """A class of an app. Each public method is the function `Class.method`.

    `Model.predict.remote(x)` and `Model().predict.remote(x)` are the same. A worker makes one
    instance, without arguments, and runs the methods marked `@tidemill.enter` once.
    """

    def __init__(self, app: App, cls: type[C], name: str, options: Options) -> None:
        self.app = app
        self.cls = cls
        self.name = check_name(name, "class name")
        self.options = options
        self.__name__ = cls.__name__
        self.__doc__ = cls.__doc__
        self.__module__ = cls.__module__
        self.__wrapped__ = cls
        self._instance: C | None = None
        self._lock = threading.RLock()
        self.methods: dict[str, Method[..., Any, Any]] = {}
        self.enters: list[str] = []
        members: dict[str, Any] = {}
        for base in reversed(cls.__mro__[:-1]):
            members.update(vars(base))
        for attribute, member in members.items():
            if not inspect.isfunction(member):
                continue
            if getattr(member, "__tidemill_enter__", False):
                self.enters.append(attribute)
            elif not attribute.startswith("_"):
                self.methods[attribute] = Method(self, attribute, member)
        if not self.methods:
            raise ValueError(f"class {name} has no public method")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs:
            raise TypeError(
                f"{self.name} takes no arguments: a worker makes its own instance; "
                "pass values to the methods"
            )
        return self

    def __getattr__(self, attribute: str) -> Any:
        methods = self.__dict__.get("methods", {})
        if attribute in methods:
            return methods[attribute]
        if attribute.startswith("__") or "cls" not in self.__dict__:
            raise AttributeError(attribute)
        if hasattr(self.cls, attribute) and self._instance is None:
            return getattr(self.cls, attribute)
        return getattr(self.instance(), attribute)

    def instance(self) -> C:
        """This process's instance, warm."""
        if self._instance is None:
            with self._lock:
                if self._instance is None:
                    instance = self.cls()
                    for attribute in self.enters:
                        _sync.settle(getattr(instance, attribute)())
                    self._instance = instance
        return self._instance

    def __repr__(self) -> str:
        return f"<Cls {self.app.name}.{self.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return (find_cls, (self.app.name, self.name))


F = TypeVar("F", bound=Callable[..., Any])


def enter(method: F) -> F:
    """Marks a method of an `@app.cls` class to run once in each worker, before its first call."""
    method.__tidemill_enter__ = True  # type: ignore[attr-defined]
    return method


class _Decorator:
    """What `@app.function(...)` returns, with the kinds of functions told apart for typing."""

    def __init__(self, app: App, name: str | None, options: Options) -> None:
        self._app = app
        self._name = name
        self._options = options

    @overload
    def __call__(
        self, fn: Callable[P, Coroutine[Any, Any, R]]
    ) -> Function[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(
        self, fn: Callable[P, AsyncIterator[R]]
    ) -> Function[P, Iterator[R], AsyncIterator[R]]: ...
    @overload
    def __call__(self, fn: Callable[P, R]) -> Function[P, R, R]: ...

    def __call__(self, fn: Callable[..., Any]) -> Any:
        return self._app._add(fn, self._name, self._options)


class App:
    """A set of functions and flows that are deployed together and share their state.

    At the level `causal` a request reads one snapshot and commits all its writes at once; at
    `eventual` it reads what is there and each write stands for itself. `durability` is how safe
    writes are before they are answered: `durable`, `memory`, or without it as the node is set.
    """

    def __init__(self, name: str, *, level: str = "causal", durability: str | None = None) -> None:
        self.name = check_name(name, "app name")
        self.level: str = _check_level(level) or "causal"
        self.durability: str | None = _check_durability(durability)
        self.functions: dict[str, Function[..., Any, Any]] = {}
        self.classes: dict[str, Cls[Any]] = {}
        self.flows: dict[str, Flow] = {}
        scope = sys._getframe(1).f_globals
        self.module: str = scope.get("__name__", "__main__")
        self.file: str | None = scope.get("__file__")
        if self.module == "__main__" and self.file is not None:
            spec = scope.get("__spec__")
            stem = os.path.splitext(os.path.basename(self.file))[0]
            self.module = spec.name if spec is not None else stem
            _codec.alias_main(self.module)
        _apps[name] = self

    @overload
    def function(
        self, fn: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Function[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def function(
        self, fn: Callable[P, AsyncIterator[R]], /
    ) -> Function[P, Iterator[R], AsyncIterator[R]]: ...
    @overload
    def function(self, fn: Callable[P, R], /) -> Function[P, R, R]: ...
    @overload
    def function(
        self,
        *,
        timeout: float = 60,
        memory: int | str = "512MB",
        retries: int = 0,
        max_concurrency: int | None = None,
        min_workers: int = 0,
        idle_timeout: float = 300,
        requirements: list[str] | tuple[str, ...] = (),
        env: dict[str, str] | None = None,
        secrets: list[str] | tuple[str, ...] = (),
        resources: dict[str, float] | None = None,
        name: str | None = None,
        level: str | None = None,
        durability: str | None = None,
    ) -> _Decorator: ...

    def function(  # type: ignore[misc]
        self, fn: Callable[..., Any] | None = None, /, *, name: str | None = None, **options: Any
    ) -> Any:
        """Registers a function: plain, `async def`, or a generator of either kind.

        `timeout` and `idle_timeout` are seconds, `memory` bytes or `"512MB"`; `retries` is how
        often a run that failed, by an exception too, is tried again; `requirements`,
        `env`, `secrets` say what its workers need; `level` and `durability`
        override the app's.
        """
        decorator = _Decorator(self, name, Options(**options))
        return decorator if fn is None else decorator(fn)

    @overload
    def cls(self, cls: type[C], /) -> Cls[C]: ...
    @overload
    def cls(
        self,
        *,
        timeout: float = 60,
        memory: int | str = "512MB",
        retries: int = 0,
        max_concurrency: int | None = None,
        min_workers: int = 0,
        idle_timeout: float = 300,
        requirements: list[str] | tuple[str, ...] = (),
        env: dict[str, str] | None = None,
        secrets: list[str] | tuple[str, ...] = (),
        resources: dict[str, float] | None = None,
        name: str | None = None,
        level: str | None = None,
        durability: str | None = None,
    ) -> Callable[[type[C]], Cls[C]]: ...

    def cls(  # type: ignore[misc]
        self, cls: type[Any] | None = None, /, *, name: str | None = None, **options: Any
    ) -> Any:
        """Registers a class, whose public methods become functions. Options as for `function`."""
        checked = Options(**options)

        def decorate(target: type[Any]) -> Cls[Any]:
            if not inspect.isclass(target):
                raise TypeError("@app.cls goes on a class")
            made = Cls(self, target, name or target.__name__, checked)
            if made.name in self.classes or made.name in self.functions:
                self._taken(made.name)
            self.classes[made.name] = made
            for method in made.methods.values():
                self._register(method)
            return made

        return decorate if cls is None else decorate(cls)

    def component(
        self,
        name: str,
        file: str | os.PathLike[str],
        *,
        timeout: float = 60,
        memory: int | str = "512MB",
        retries: int = 0,
        max_concurrency: int | None = None,
        idle_timeout: float = 300,
        env: dict[str, str] | None = None,
        secrets: list[str] | tuple[str, ...] = (),
        level: str | None = None,
        durability: str | None = None,
        hosts: list[str] | tuple[str, ...] = (),
        fresh: bool = False,
        http: bool = False,
        public: bool = False,
        doc: str = "",
    ) -> Function[..., Any, Any]:
        """Registers a WebAssembly component (docs/wasm.md) as a function.

        `file` is relative to the file that makes the app. Options as for `function`; `hosts` are
        those that it may send HTTP requests to, `fresh` gives each run an instance of its own,
        `http` says that it answers HTTP requests under `/http/APP/`, and `public` that anybody
        may send them. It is called with `remote`, and in flows.
        """
        from tidemill._component import Component

        options = Options(
            timeout=timeout,
            memory=memory,
            retries=retries,
            max_concurrency=max_concurrency,
            idle_timeout=idle_timeout,
            env=env,
            secrets=secrets,
            level=level,
            durability=durability,
        )
        if isinstance(hosts, str):
            raise TypeError("hosts is a list of strings")
        path = os.path.join(os.path.dirname(os.path.abspath(self.file or "")), os.fspath(file))
        made = Component(self, name, path, options)
        made.grants = {"hosts": list(hosts), "fresh": fresh, "public": public}
        made.http, made.__doc__ = http, doc
        return self._register(made)

    def flow(self, name: str, expr: Function[..., Any, Any] | Flow) -> Flow:
        """Registers a flow under a name, to be called like a function."""
        check_name(name, "flow name")
        if not isinstance(expr, Flow | Function):
            raise TypeError("a flow is made of functions: app.flow('name', f >> g)")
        root: _Node = expr._root if isinstance(expr, Flow) else _Leaf(expr)
        made = Flow(root, name)
        made.compile()
        if made.app_name != self.name:
            raise ValueError(f"the flow's functions are of app {made.app_name}, not {self.name}")
        if name in self.flows or name in self.functions:
            self._taken(name)
        self.flows[name] = made
        return made

    def deploy(self, client: Any = None) -> Any:
        """Deploys to a node: the default client's, or that of `client`."""
        if client is None:
            from tidemill.client import default_client

            client = default_client()
        return client.deploy(self)

    def manifest(self) -> dict[str, Any]:
        """The manifest (docs/manifest.md) of the app as it stands."""
        from tidemill._bundle import manifest

        return manifest(self)

    def _add(
        self, fn: Callable[..., Any], name: str | None, options: Options
    ) -> Function[..., Any, Any]:
        if isinstance(fn, Function):
            raise TypeError(f"{fn!r} is a function of an app already")
        if not callable(fn) or inspect.isclass(fn):
            raise TypeError("@app.function goes on a function; for a class use @app.cls")
        return self._register(Function(self, name or fn.__name__, fn, options))

    def _register(self, function: Function[..., Any, Any]) -> Function[..., Any, Any]:
        if function.name in self.functions or function.name in self.flows:
            # A cell of a notebook that is run again defines its functions again.
            known = self.functions.get(function.name)
            if known is None or not _same_place(known.fn, function.fn):
                self._taken(function.name)
        self.functions[function.name] = function
        return function

    def _taken(self, name: str) -> NoReturn:
        raise ValueError(f"app {self.name} has a function or flow {name!r} already")

    def __repr__(self) -> str:
        return f"<App {self.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return (find_app, (self.name,))


def _same_place(a: Callable[..., Any], b: Callable[..., Any]) -> bool:
    return (
        getattr(a, "__module__", None) == getattr(b, "__module__", "") == "__main__"
        and a.__qualname__ == b.__qualname__
    )


# -- what pickles refer to ----------------------------------------------------------------------


class RemoteFunction(Function[..., Any, Any]):
    """A function known by name only: it can be called remotely, not locally."""

    def __init__(self, app: App, name: str, generator: bool) -> None:
        super().__init__(app, name, _absent, Options())
        self.generator = generator

    def target(self) -> Callable[..., Any]:
        known = _apps.get(self.app_name)
        found = known.functions.get(self.name) if known is not None else None
        if found is None or found is self:
            raise RuntimeError(f"{self.app_name}.{self.name} is not here; use .remote")
        return found.target()


def _absent(*args: Any, **kwargs: Any) -> NoReturn:
    raise RuntimeError("this function is known by name only; use .remote")


def find_app(name: str) -> App:
    """The app of that name in this process; an empty one where there is none."""
    app = _apps.get(name)
    return app if app is not None else App(name)


def find_function(app: str, name: str, generator: bool = False) -> Function[..., Any, Any]:
    """A function by name, for pickles."""
    known = _apps.get(app)
    if known is not None and name in known.functions:
        return known.functions[name]
    return RemoteFunction(known or find_app(app), name, generator)


class RemoteCls:
    """A class known by name, and looked up when it is used: a pickled function that names it may
    be loaded before it."""

    def __init__(self, app: str, name: str) -> None:
        self._app = app
        self._name = name

    def _found(self) -> Cls[Any]:
        known = _apps.get(self._app)
        if known is None or self._name not in known.classes:
            raise RuntimeError(f"class {self._name} of app {self._app} is not loaded here")
        return known.classes[self._name]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._found()(*args, **kwargs)

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return getattr(self._found(), attribute)

    def __repr__(self) -> str:
        return f"<Cls {self._app}.{self._name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return (find_cls, (self._app, self._name))


def find_cls(app: str, name: str) -> Cls[Any] | RemoteCls:
    """A class by name, for pickles."""
    known = _apps.get(app)
    if known is not None and name in known.classes:
        return known.classes[name]
    return RemoteCls(app, name)


def find_flow(app: str, name: str | None, root: _Node) -> Flow:
    """A flow by name, or else by what it is made of, for pickles."""
    known = _apps.get(app)
    if known is not None and name is not None and name in known.flows:
        return known.flows[name]
    return Flow(root, name)
