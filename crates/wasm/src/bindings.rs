//! What the macro makes of `wit/`.

wasmtime::component::bindgen!({
    path: "../../wit",
    world: "tidemill:platform/function",
    imports: {
        // What may wait for others, or at the level `eventual` for the write to be applied.
        "tidemill:platform/calls.call": async | trappable,
        "tidemill:platform/calls.[method]pending.wait": async | trappable,
        "tidemill:platform/steps": async | trappable,
        "tidemill:platform/state.delete": async | trappable,
        "tidemill:platform/state.expire": async | trappable,
        "tidemill:platform/register.set": async | trappable,
        "tidemill:platform/multi.set": async | trappable,
        "tidemill:platform/counter.add": async | trappable,
        "tidemill:platform/extremes.put-max": async | trappable,
        "tidemill:platform/extremes.put-min": async | trappable,
        "tidemill:platform/flag.raise": async | trappable,
        "tidemill:platform/set.add": async | trappable,
        "tidemill:platform/set.remove": async | trappable,
        "tidemill:platform/map.apply": async | trappable,
        "tidemill:platform/history.append": async | trappable,
        "tidemill:platform/top.put": async | trappable,
        default: trappable,
    },
    exports: { default: async },
    with: {
        "tidemill:platform/calls.pending": crate::data::Pending,
    },
});

/// What the macro makes of `crates/wasm/wit/`: interfaces of others.
pub(crate) mod standard {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "tidemill:standard/imports",
        imports: {
            "wasi:keyvalue/store.[method]bucket.set": async | trappable,
            "wasi:keyvalue/store.[method]bucket.delete": async | trappable,
            "wasi:keyvalue/atomics.increment": async | trappable,
            "wasi:keyvalue/batch": async | trappable,
            default: trappable,
        },
        with: {
            "wasi:keyvalue/store.bucket": crate::host::keyvalue::Bucket,
        },
    });
}
