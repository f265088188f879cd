//! How much code is held in memory for components that nobody calls just now.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tidemill_wasm::{Engine, Grants, Options, Pool};

const ECHO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/echo.wasm");
const IDLE: Duration = Duration::from_secs(1);

fn pool(engine: &Arc<Engine>, path: PathBuf) -> Arc<Pool> {
    let grants = Grants {
        memory_bytes: 1 << 20,
        ..Grants::default()
    };
    Pool::new(engine, path, grants, IDLE)
}

fn engine(code_bytes_max: u64) -> Arc<Engine> {
    let options = Options {
        instances_max: 100,
        code_bytes_max,
        ..Options::default()
    };
    Engine::start(&options, None).expect("an engine")
}

#[tokio::test]
async fn code_that_was_used_longest_ago_leaves_memory_where_there_is_too_much() {
    let whole = engine(u64::MAX);
    let alone = pool(&whole, Path::new(ECHO).to_owned());
    let _ = alone.component(0).await.expect("a component");
    let one = whole.code_bytes();
    assert!(one > 0);

    // Four fit, and where there are five an eighth goes beyond the one too many.
    let engine = engine(one * 9 / 2);
    let pools: Vec<Arc<Pool>> = (0..10)
        .map(|_| pool(&engine, Path::new(ECHO).to_owned()))
        .collect();
    // The first one is at work all the time: nothing of it is taken.
    let lease = pools[0].acquire(false, 1).await.expect("an instance");
    for (at, pool) in (2..).zip(&pools[1..]) {
        let lease = pool.acquire(false, at).await.expect("an instance");
        lease.give_back(at);
        assert!(engine.code_bytes() <= one * 9 / 2, "{at}");
    }
    assert_eq!((pools[0].busy(), pools[0].resting()), (1, 0));
    assert_eq!(pools[1].resting(), 0);
    assert_eq!(pools[9].resting(), 1);
    // What left comes back when it is called, and what was at work rests as it would.
    let again = pools[1].acquire(false, 20).await.expect("again");
    again.give_back(20);
    lease.give_back(20);
    assert_eq!((pools[0].resting(), pools[1].resting()), (1, 1));
    // Nobody calls any more.
    engine.tick(20 + 2 * 1_000_000);
    assert_eq!(engine.code_bytes(), 0);
    assert!(pools.iter().all(|pool| pool.resting() == 0));
    // A pool that is dropped takes its code with it.
    let _ = pools[0].component(30).await.expect("a component");
    assert_eq!(engine.code_bytes(), one);
    drop(pools);
    assert_eq!(engine.code_bytes(), 0);
}
