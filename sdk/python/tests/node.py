"""The node's side of the worker socket, as far as tests need it.

It speaks docs/worker-protocol.md with a real template process and its forked workers. State is
`tidemill._model`; calls between functions run in further workers.
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tidemill import _codec, _failure
from tidemill._codec import Payload
from tidemill._model import Model
from tidemill.errors import Error

SHORT = {"j": _codec.JSON, "b": _codec.BYTES, "p": _codec.PICKLE}
LONG = {v: k for k, v in SHORT.items()}
SHARED_MIN = 64 << 10
NAMES = {
    16: "hello", 17: "loaded", 18: "exited", 19: "state", 20: "call", 21: "wait", 22: "item",
    23: "log", 24: "done", 25: "failed", 26: "begin", 27: "recall",
    28: "record",
}  # fmt: skip


class Peer:
    """One connection from a process of the SDK."""

    def __init__(self, sock, shm):
        self.sock = sock
        self.shm = shm
        self.made = itertools.count(1)
        self.hello = None

    def _exactly(self, size):
        data = bytearray()
        while len(data) < size:
            piece = self.sock.recv(size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)

    def read(self, timeout=20.0):
        if not select.select([self.sock], [], [], timeout)[0]:
            raise TimeoutError("the worker sent nothing")
        (size,) = struct.unpack("<I", self._exactly(4))
        data = self._exactly(size)
        kind, length = struct.unpack_from("<BI", data)
        header = json.loads(data[5 : 5 + length])
        body, payloads, at = data[5 + length :], [], 0
        for entry in header.get("p", ()):
            if "shm" in entry:
                path = self.shm / entry["shm"]
                content = path.read_bytes()
                path.unlink()
            else:
                content = body[at : at + entry["n"]]
                at += entry["n"]
            assert len(content) == entry["n"]
            payloads.append(_codec.payload(SHORT.get(entry["t"], entry["t"]), content))
        assert at == len(body)
        return NAMES[kind], header, payloads

    def send(self, kind, header, payloads=()):
        entries, body = [], b""
        for payload in payloads:
            data = bytes(payload.data)
            entry = {"t": LONG.get(payload.content_type, payload.content_type), "n": len(data)}
            name = getattr(payload, "shared_name", None)
            if name is None and len(data) >= SHARED_MIN:
                name = f"v-{id(self)}-{next(self.made)}"
            if name is not None:
                (self.shm / name).write_bytes(data)
                entry["shm"] = name
            else:
                body += data
            entries.append(entry)
        if entries:
            header = {**header, "p": entries}
        head = json.dumps(header).encode()
        self.sock.sendall(
            struct.pack("<IBI", 5 + len(head) + len(body), kind, len(head)) + head + body
        )

    def close(self):
        self.sock.close()


class Shared(Payload):
    """A payload that goes through a file of a given name."""

    def __init__(self, name, payload):
        super().__init__(payload.content_type, payload.parts, payload.size)
        self.shared_name = name


class Outcome:
    """What came of one fragment."""

    def __init__(self):
        self.header = None
        self.outputs = []
        self.items = []
        self.logs = []
        self.error = None
        self.pickled = None
        self.begins = []
        self.gets = 0
        self.begun = {}
        self.frames = []
        self.streamed = False

    def value(self, index=0):
        if self.error is not None:
            raise self.exception()
        return self.outputs[index].decode()

    def exception(self):
        return _failure.rebuild(self.error, self.pickled, "r")

    def text(self, stream):
        return [header["text"] for header in self.logs if header["stream"] == stream]


class FakeNode:
    """A template process, its workers, and one app's state."""

    def __init__(self, root, entry, functions, app="demo", env=None, role="template"):
        self.dir = Path(tempfile.mkdtemp(prefix="tm-"))
        self.shm = self.dir / "shm"
        self.shm.mkdir()
        self.app = app
        self.model = Model()
        self.enqueued = []
        self.recorded = {}
        self.generators = ()
        self.requests = itertools.count(1)
        self.workers = itertools.count(2)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.dir / "sock"))
        self.listener.listen(16)
        self.listener.settimeout(20)
        path = os.path.dirname(os.path.dirname(os.path.abspath(_codec.__file__)))
        environment = {
            **os.environ,
            "PYTHONPATH": path,
            "TIDEMILL_SOCKET": str(self.dir / "sock"),
            "TIDEMILL_TOKEN": "secret-1",
            "TIDEMILL_ROLE": role,
            "TIDEMILL_WORKER": "1",
            "TIDEMILL_SHM": str(self.shm),
        }
        self.process = subprocess.Popen([sys.executable, "-m", "tidemill.worker"], env=environment)
        self.template = self.accept()
        assert self.template.hello["token"] == "secret-1"
        assert self.template.hello["protocol"] == 1
        self.template.send(
            1,
            {"seq": 7, "app": app, "version": "v1", "root": str(root), "entry": entry,
             "functions": functions, "env": env or {}},
        )  # fmt: skip
        kind, self.loaded, _ = self.template.read()
        assert kind == "loaded" and self.loaded["re"] == 7
        self.peers = []
        self.idle = []
        self.lock = threading.Lock()

    def accept(self):
        sock, _ = self.listener.accept()
        peer = Peer(sock, self.shm)
        kind, peer.hello, _ = peer.read()
        assert kind == "hello"
        return peer

    def fork(self):
        with self.lock:
            number = next(self.workers)
            self.template.send(2, {"worker": number, "token": f"t-{number}"})
            peer = self.accept()
            assert peer.hello["token"] == f"t-{number}"
            assert peer.hello["role"] == "worker"
            assert peer.hello["worker"] == number
            self.peers.append(peer)
            return peer

    def close(self):
        self.template.close()
        for peer in self.peers:
            peer.close()
        try:
            self.process.wait(10)
        finally:
            self.process.kill()
            self.listener.close()
            shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # -- running --

    def call(self, function, *args, **kwargs):
        """One request with one step; commits its writes; the outcome."""
        return self.run([{"id": 0, "function": function, "call": 0}],
                        [_codec.encode_call(args, kwargs)])  # fmt: skip

    def value(self, function, *args, **kwargs):
        return self.call(function, *args, **kwargs).value()

    def start(self, peer, steps, payloads, outputs=None, **more):
        request = more.pop("request", None) or f"r{next(self.requests)}"
        header = {
            "request": request, "attempt": 1, "app": self.app, "level": "causal",
            "trace": "00-" + "1" * 32 + "-" + "2" * 16 + "-01",
            "caller": {"tenant": "default", "subject": "test"}, "deadline_ms": 60000, "key": None,
            "steps": steps, "outputs": [steps[-1]["id"]] if outputs is None else outputs, **more,
        }  # fmt: skip
        peer.send(3, header, payloads)
        return request

    def run(self, steps, payloads, outputs=None, peer=None, before=None, **more):
        mine = peer is None
        if mine:
            with self.lock:
                peer = self.idle.pop() if self.idle else None
            peer = peer or self.fork()
        self.start(peer, steps, payloads, outputs, **more)
        outcome = self.serve(peer, before or [])
        if before is None and outcome.error is None:
            self.model.apply(outcome.ops)
            self.enqueued += outcome.enqueued
        if mine:
            self.idle.append(peer)
        return outcome

    def serve(self, peer, before):
        """Answers a worker until its fragment ends."""
        outcome = Outcome()
        ops = list(before)
        outcome.enqueued = []
        children = {}
        replies = queue.SimpleQueue()
        while True:
            kind, header, payloads = peer.read()
            outcome.frames.append((kind, header))
            for op in header.get("ops", ()):
                op = dict(op)
                if "p" in op:
                    op["p"] = payloads[op["p"]]
                ops.append(op)
            if kind == "state":
                outcome.gets += len(header.get("get", ()))
                if "seq" in header:
                    self.answer_state(peer, header, payloads, ops)
            elif kind == "call":
                self.answer_call(peer, header, payloads, ops, children, outcome, replies)
            elif kind == "wait":
                child = children.get(header["call"])
                if header.get("cancel"):
                    peer.send(4, {"re": header["seq"]})
                else:
                    child[0].join(header.get("timeout_ms", 60000) / 1000)
                    if child[0].is_alive():
                        error = {"code": "timed-out", "message": "not yet"}
                        peer.send(4, {"re": header["seq"], "error": error})
                    else:
                        self.reply(peer, header["seq"], child[1][0], ops)
            elif kind == "log":
                outcome.logs.append(header)
            elif kind == "item":
                outcome.items.append(payloads[0].decode())
            elif kind == "recall":
                number = outcome.begun.get(header["name"], 0)
                outcome.begun[header["name"]] = number + 1
                known = self.recorded.get((header["name"], number))
                reply = {"re": header["seq"], "r": {"n": number}}
                peer.send(4, reply, [known] if known is not None else [])
            elif kind == "record":
                place = (header["name"], header["n"])
                first = self.recorded.setdefault(place, payloads[0])
                reply = {"re": header["seq"], "r": {"n": header["n"]}}
                peer.send(4, reply, [first] if first is not payloads[0] else [])
            elif kind == "begin":
                outcome.begins.append(header["step"])
            elif kind == "done":
                outcome.header = header
                outcome.outputs = [payloads[index] for index in header["outputs"]]
                outcome.ops = ops[len(before) :]
                return outcome
            elif kind == "failed":
                outcome.header = header
                outcome.error = header["error"]
                if "p" in outcome.error:
                    outcome.pickled = payloads[outcome.error["p"]]
                outcome.ops = []
                return outcome

    def answer_state(self, peer, header, payloads, ops):
        out, answers = [], []

        def put(payload):
            out.append(
                Shared(f"s-{id(payload)}", payload) if payload.size >= SHARED_MIN else payload
            )
            return len(out) - 1

        def show(view):
            made = {"t": view.type}
            if view.type == "register":
                made["p"] = put(view.value)
            elif view.type in ("multi", "set", "log"):
                made["ps"] = [put(p) for p in view.values]
                if view.type == "log":
                    made["at"] = view.at
            elif view.type == "map":
                made["f"] = {name: show(field) for name, field in view.fields.items()}
            else:
                made["v"] = view.value
            return made

        try:
            for get in header["get"]:
                get = dict(get)
                if "has" in get:
                    get["has"] = payloads[get["has"]]
                answer = self.model.get(get, ops)
                answers.append(
                    show(answer)
                    if hasattr(answer, "values") and not isinstance(answer, dict)
                    else answer
                )
        except Error as error:
            reply = {"re": header["seq"], "error": {"code": error.code, "message": error.detail}}
            peer.send(4, reply)
            return
        peer.send(4, {"re": header["seq"], "r": answers}, out)

    def answer_call(self, peer, header, payloads, ops, children, outcome, replies):
        if header["mode"] == "enqueue":
            outcome.enqueued.append((header["function"], payloads[0]))
            return
        box = []

        def work():
            flow = header.get("flow")
            if flow is not None:
                steps = []
                for step in flow["steps"]:
                    made = {"id": step["id"], "function": step["call"]}
                    if step["in"] == ["input"]:
                        made["call"] = 0
                    else:
                        made["in"] = [{"s": i} for i in step["in"]]
                    steps.append(made)
                box.append(self.run(steps, payloads[:1], [flow["output"]], before=list(ops)))
            else:
                steps = [{"id": 0, "function": header["function"], "call": 0}]
                box.append(self.run(steps, payloads[:1], before=list(ops)))
                box[0].streamed = header["function"] in self.generators
            if header["mode"] == "remote":
                self.reply(peer, header["seq"], box[0], ops)

        thread = threading.Thread(target=work, daemon=True)
        children[header["call"]] = (thread, box)
        thread.start()

    def reply(self, peer, seq, outcome, ops):
        if outcome.error is not None:
            error = dict(outcome.error)
            payloads = []
            if outcome.pickled is not None:
                error["p"] = 0
                payloads = [outcome.pickled]
            peer.send(4, {"re": seq, "error": error}, payloads)
            return
        ops.extend(outcome.ops)
        if outcome.streamed:
            peer.send(4, {"re": seq}, [_codec.encode(item) for item in outcome.items])
        else:
            peer.send(4, {"re": seq}, outcome.outputs)

    def cancel(self, peer, request):
        peer.send(5, {"request": request})
        os.kill(peer.hello["pid"], signal.SIGUSR1)

    def exited(self, timeout=10.0):
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            kind, header, _ = self.template.read(timeout)
            if kind == "exited":
                return header
        raise TimeoutError
