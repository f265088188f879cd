"""Tidemill: functions that run beside their data.

```python
import tidemill
from tidemill import state

app = tidemill.App("hello")

@app.function
def greet(name: str) -> str:
    state.counter("greeted").add()
    return f"hello {name}, number {state.counter('greeted').get()}"

if __name__ == "__main__":
    app.deploy()
    print(greet.remote("you"))
```
"""

from __future__ import annotations

from tidemill import state
from tidemill._app import App, Cls, Function, enter
from tidemill._flow import Flow
from tidemill._ref import Ref, ref
from tidemill._remote import idempotency_key
from tidemill._request import request
from tidemill._retry import Retry
from tidemill._step import step
from tidemill._target import Call, enqueue
from tidemill._version import __version__
from tidemill.client import Client, connect
from tidemill.errors import (
    BadKey,
    BadManifest,
    BadRequest,
    BadSessionToken,
    CallTooDeep,
    Cancelled,
    ConnectionFailed,
    EnvironmentFailed,
    Error,
    FunctionError,
    Internal,
    LoadFailed,
    NotAcceptable,
    NotFound,
    OutOfMemory,
    Overloaded,
    PayloadTooLarge,
    PythonMismatch,
    RemoteTraceback,
    RequestExpired,
    RequestInFlight,
    RequestMismatch,
    ShuttingDown,
    SnapshotExpired,
    StateLost,
    StorageFailed,
    StorageFull,
    Timeout,
    Unauthorized,
    WorkerCrashed,
    WrongType,
)

__all__ = [
    "App", "BadKey", "BadManifest", "BadRequest", "BadSessionToken", "Call", "CallTooDeep",
    "Cancelled", "Client", "Cls", "ConnectionFailed", "EnvironmentFailed", "Error", "Flow",
    "Function", "FunctionError", "Internal", "LoadFailed", "NotAcceptable", "NotFound",
    "OutOfMemory", "Overloaded", "PayloadTooLarge", "PythonMismatch", "Ref", "RemoteTraceback",
    "RequestExpired", "RequestInFlight", "RequestMismatch", "Retry", "ShuttingDown",
    "SnapshotExpired", "StateLost", "StorageFailed", "StorageFull", "Timeout", "Unauthorized",
    "WorkerCrashed", "WrongType", "__version__", "connect", "enqueue", "enter", "idempotency_key",
    "ref", "request", "state", "step",
]  # fmt: skip
