"""The state of the app, inside its functions.

```python
from tidemill import state

state.counter("visits").add()
names = state.set("names").get()
```

Writes are kept until the request commits; a request that fails leaves none. Reads see one
snapshot and the request's own writes. The names here shadow builtins (`max`, `set`, `map`) only
as attributes of this module: use it as `state.max(...)`. Outside of functions use
`tidemill.connect().state("app")`, which has the same methods.
"""

from __future__ import annotations

from tidemill._handles import Space

_space = Space()

register = _space.register
multi = _space.multi
counter = _space.counter
max = _space.max
min = _space.min
flag = _space.flag
set = _space.set
map = _space.map
log = _space.log
top = _space.top
keys = _space.keys
items = _space.items
delete = _space.delete

__all__ = [
    "counter",
    "delete",
    "flag",
    "items",
    "keys",
    "log",
    "map",
    "max",
    "min",
    "multi",
    "register",
    "set",
    "top",
]
