"""`python -m tidemill.worker`: the process that a node starts to run an app's functions.

As a template it loads the app once and forks a worker whenever the node asks; as a worker it runs
fragments. See docs/worker-protocol.md.
"""

from __future__ import annotations

import contextlib
import gc
import os
import platform
import select
import signal
import socket
import sys
from typing import Any

from tidemill import _context, _failure, _logs
from tidemill._app import App
from tidemill._link import Link, end_group
from tidemill._load import load_app
from tidemill._run import Runner
from tidemill._wire import EXITED, FORK, HELLO, LOAD, LOADED, RUN, STOP, Wire
from tidemill.errors import Error

_PR_SET_PDEATHSIG = 1
_NO_REQUEST = (
    "no request is running here. Code that calls functions belongs into a function; in a script, "
    "put it under: if __name__ == '__main__':"
)


class _Settings:
    """What the node put into the environment."""

    def __init__(self, environ: Any) -> None:
        self.path: str = environ["TIDEMILL_SOCKET"]
        self.shm: str | None = environ.get("TIDEMILL_SHM") or None
        self.role: str = environ.get("TIDEMILL_ROLE", "worker")
        self.worker = int(environ["TIDEMILL_WORKER"])
        self.token: str = environ.pop("TIDEMILL_TOKEN", "")  # not for user code


def _connect(settings: _Settings, role: str, worker: int, token: str) -> Wire:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.connect(settings.path)
    wire = Wire(sock, settings.shm, worker)
    hello = {
        "protocol": 1,
        "role": role,
        "worker": worker,
        "token": token,
        "pid": os.getpid(),
        "language": "python",
        "language_version": platform.python_version(),
    }
    wire.send(HELLO, hello)
    return wire


def _load(wire: Wire, header: dict[str, Any]) -> App | None:
    """Loads the app and answers; None when it could not be loaded."""
    try:
        app = load_app(header)
    except BaseException as error:
        described, pickled = _failure.describe(error)
        described["code"] = "load-failed"
        if pickled is not None:
            described["p"] = 0
        payloads = [pickled] if pickled is not None else []
        wire.send(LOADED, {"re": header["seq"], "error": described}, payloads)
        return None
    _logs.capture_logging()
    gc.collect()
    gc.freeze()
    wire.send(LOADED, {"re": header["seq"]})
    return app


# -- the template ---------------------------------------------------------------------------------


class _Template:
    """Waits for two things: frames of the node, and ends of the workers it forked."""

    def __init__(self, settings: _Settings) -> None:
        self._settings = settings
        self._wire = _connect(settings, "template", settings.worker, settings.token)
        self._app: App | None = None
        self._root = ""
        self._workers: dict[int, int] = {}
        self._wake, wake_send = os.pipe()
        self._wake_send = wake_send
        for fd in (self._wake, wake_send):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wake_send, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the node decides when to end

    def serve(self) -> None:
        """Until the node says stop or is gone; in a forked worker, until that ends."""
        poll = select.poll()
        poll.register(self._wire.sock, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poll.poll()]
            if self._wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 4096)
                self._reap()
            if self._wire.sock.fileno() not in ready:
                continue
            try:
                kind, header, _ = self._wire.read_frame()
                while not self._handle(kind, header) and self._wire.has_frame():
                    kind, header, _ = self._wire.read_frame()
            except (EOFError, OSError):
                self._end_workers()
                os._exit(0)

    def _handle(self, kind: int, header: dict[str, Any]) -> bool:
        if kind == LOAD:
            self._root = header["root"]
            self._app = _load(self._wire, header)
        elif kind == FORK:
            self._fork(header["worker"], header["token"])
        elif kind == STOP:
            self._end_workers()
            _flush()
            os._exit(0)
        return False

    def _fork(self, worker: int, token: str) -> None:
        app = self._app
        parent = os.getpid()
        try:
            if app is None:
                raise OSError("nothing is loaded")
            _flush()
            pid = os.fork()
        except OSError as error:
            print(f"tidemill: can not fork a worker: {error}", file=sys.stderr)
            self._wire.send(EXITED, {"worker": worker, "status": 255})
            return
        if pid:
            self._workers[pid] = worker
            return
        status = 1
        try:
            self._become_worker(parent)
            assert app is not None
            _work(self._settings, app, self._root, worker, token)
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            _flush()
            os._exit(status)

    def _become_worker(self, parent: int) -> None:
        signal.set_wakeup_fd(-1)
        os.setsid()
        _die_with_parent(parent)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._wire.sock.close()
        os.close(self._wake)
        os.close(self._wake_send)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            worker = self._workers.pop(pid, None)
            if worker is None:
                continue
            code = os.waitstatus_to_exitcode(status)
            how = {"signal": -code} if code < 0 else {"status": code}
            with contextlib.suppress(OSError):
                self._wire.send(EXITED, {"worker": worker, **how})

    def _end_workers(self) -> None:
        for pid in self._workers:
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGKILL)
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def _die_with_parent(parent: int) -> None:
    """Ends this process when its parent ends, which also covers a parent that was killed."""
    try:
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    except (OSError, AttributeError, ImportError):
        return
    if os.getppid() != parent:
        os._exit(0)


# -- the worker -----------------------------------------------------------------------------------


def _work(settings: _Settings, app: App, root: str, worker: int, token: str) -> None:
    _reseed()
    wire = _connect(settings, "worker", worker, token)
    _serve(wire, app, root)


def _serve(wire: Wire, app: App, root: str) -> None:
    link = Link(wire, end_group)
    signal.signal(signal.SIGUSR1, link.on_signal)
    Runner(link, app, root).serve()


def _reseed() -> None:
    """Forks must not share their random numbers; `random` itself sees to that, numpy does not."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _lone_worker(settings: _Settings) -> None:
    """A worker without a template: loads for itself."""
    with contextlib.suppress(OSError):
        os.setsid()
    wire = _connect(settings, "worker", settings.worker, settings.token)
    while True:
        kind, header, _ = wire.read_frame()
        if kind == LOAD:
            app = _load(wire, header)
            if app is not None:
                _serve(wire, app, header["root"])
                return
        elif kind == STOP:
            return
        elif kind == RUN:
            raise Error("the node sent run before load")


def main() -> None:
    """Runs the role that the environment asks for."""
    settings = _Settings(os.environ)
    _context.no_runtime = _NO_REQUEST
    _logs.capture_streams()
    try:
        if settings.role == "template":
            _Template(settings).serve()
        else:
            _lone_worker(settings)
    except EOFError:
        end_group()
    _flush()
    os._exit(0)


if __name__ == "__main__":
    main()
