//! Bundles as they lie unpacked on disk: each is there as long as a version needs it.
//! They are a cache; the archives are kept as state.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The unpacked bundles of a node, each below its app's name and named by its content.
pub(crate) struct Bundles {
    directory: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: HashMap<PathBuf, usize>,
    removed: u64,
    keep: bool,
}

/// A version's hold on its bundle's place. The last one to go removes what is there.
pub(crate) struct Bundle {
    path: PathBuf,
    bundles: Arc<Bundles>,
}

impl Bundles {
    pub(crate) fn new(directory: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            directory,
            state: Mutex::default(),
        })
    }

    /// The place of a version's bundle, which stays until the hold is dropped.
    pub(crate) fn hold(self: &Arc<Self>, app: &str, hash: &str) -> Bundle {
        let path = self.directory.join(app).join(hash);
        *self.state.lock().held.entry(path.clone()).or_default() += 1;
        Bundle {
            path,
            bundles: Arc::clone(self),
        }
    }

    /// From now on everything stays: the node stops, and starts with the same apps.
    pub(crate) fn keep(&self) {
        self.state.lock().keep = true;
    }

    /// Removes what nobody holds, which an earlier life of the node has left.
    pub(crate) fn sweep(&self) {
        let state = self.state.lock();
        for app in children(&self.directory) {
            for bundle in children(&app) {
                if !state.held.contains_key(&bundle) {
                    remove(&bundle);
                }
            }
            // Only an empty one goes.
            let _ = fs::remove_dir(&app);
        }
    }
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path) {
        tracing::warn!(path = %path.display(), %error, "an old bundle stays on disk");
    }
}

impl Bundle {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let mut state = self.bundles.state.lock();
        let Some(holds) = state.held.get_mut(&self.path) else {
            return;
        };
        *holds -= 1;
        if *holds > 0 {
            return;
        }
        state.held.remove(&self.path);
        if state.keep {
            return;
        }
        // Whoever unpacks the same content next finds nothing half removed.
        state.removed += 1;
        let gone = self.path.with_extension(format!("gone-{}", state.removed));
        if fs::rename(&self.path, &gone).is_err() {
            return;
        }
        drop(state);
        match tokio::runtime::Handle::try_current() {
            Ok(handle) => drop(handle.spawn_blocking(move || remove(&gone))),
            Err(_) => remove(&gone),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_stays_while_anybody_holds_it() {
        let keep = tempfile::tempdir().unwrap();
        let bundles = Bundles::new(keep.path().join("apps"));
        let (one, two) = (bundles.hold("shop", "aa"), bundles.hold("shop", "aa"));
        fs::create_dir_all(one.path()).unwrap();
        fs::create_dir_all(keep.path().join("apps/shop/bb.half")).unwrap();
        fs::create_dir_all(keep.path().join("apps/gone/cc")).unwrap();
        let path = one.path().to_owned();
        drop(one);
        assert!(path.is_dir());
        bundles.sweep();
        assert_eq!(
            children(&keep.path().join("apps/shop")),
            std::slice::from_ref(&path)
        );
        assert!(!keep.path().join("apps/gone").exists());
        drop(two);
        assert_eq!(children(&keep.path().join("apps/shop")), [] as [PathBuf; 0]);
        let last = bundles.hold("shop", "aa");
        fs::create_dir_all(&path).unwrap();
        bundles.keep();
        drop(last);
        assert!(path.is_dir(), "a node that stops keeps its bundles");
    }
}
