//! The engine that runs WebAssembly components: one a node, started when the first app needs it.

use crate::options::Options;
use hmac::{Hmac, Mac};
use parking_lot::Mutex;
use sha2::Sha256;
use std::path::PathBuf;
use std::sync::Arc;
use tidemill_lattice::Entropy;
use tidemill_problem::{Code, Problem};
use tidemill_wasm::{Cache, CacheKey, Engine};

/// Starts the engine, and holds it.
pub(crate) struct Components {
    directory: PathBuf,
    key: CacheKey,
    options: tidemill_wasm::Options,
    cache_bytes: u64,
    engine: Mutex<Option<Arc<Engine>>>,
}

impl Components {
    pub(crate) fn new(options: &Options, entropy: &dyn Entropy) -> Self {
        Self {
            directory: options.directory.join("compiled"),
            key: cache_key(options.session_secret, entropy),
            options: tidemill_wasm::Options {
                instances_max: options.limits.instances,
                component_bytes_max: options.limits.payload_bytes,
                code_bytes_max: options.limits.compiled_bytes,
                // A value, and what comes with it.
                transfer_bytes_max: options.limits.payload_bytes.saturating_mul(2),
                ..tidemill_wasm::Options::default()
            },
            cache_bytes: options.limits.compiled_bytes,
            engine: Mutex::new(None),
        }
    }

    pub(crate) fn engine(&self) -> Result<Arc<Engine>, Problem> {
        let mut engine = self.engine.lock();
        if let Some(engine) = &*engine {
            return Ok(Arc::clone(engine));
        }
        let cache = Cache::new(self.directory.clone(), self.key.clone(), self.cache_bytes);
        let started = Engine::start(&self.options, Some(cache))
            .map_err(|error| Problem::new(Code::LoadFailed, error.to_string()))?;
        Ok(Arc::clone(engine.insert(started)))
    }

    /// Lets instances and code that nobody has called for long go.
    pub(crate) fn tick(&self, now_us: u64) {
        let engine = self.engine.lock().clone();
        if let Some(engine) = engine {
            engine.tick(now_us);
        }
    }
}

/// The key by which the node knows the compiled code that it wrote itself. Without a secret of
/// its own that lasts, it knows none of an earlier life.
fn cache_key(secret: Option<[u8; 32]>, entropy: &dyn Entropy) -> CacheKey {
    let mut key = [0; 32];
    match secret.and_then(|secret| Hmac::<Sha256>::new_from_slice(&secret).ok()) {
        Some(mut mac) => {
            // Another use of the same secret must give another key.
            mac.update(b"tidemill compiled code");
            key.copy_from_slice(&mac.finalize().into_bytes());
        }
        None => entropy.fill(&mut key),
    }
    CacheKey::new(key)
}
