//! Deploys: an archive becomes the version that serves, or nothing changes.
//!
//! Apps are state like any other: an app's record and its archive are two registers of
//! the platform's own tenant, written in one commit, so that whatever keeps state keeps
//! the apps too. What is on disk beside it is a cache.

use crate::app::{self, App, Make, Version};
use crate::manifest::{Manifest, RuntimeKind};
use crate::worker::Printed;
use crate::{AppSummary, Archive, Deployed, FlowSummary, FunctionSummary, Runtime, request, state};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tidemill_lattice::{Key, Op, Payload, Value};
use tidemill_problem::{Code, Problem};
use tidemill_session::{Request, View};
use tidemill_telemetry::LogLine;

/// The tenant of the platform's own records.
const TENANT: &str = "_tidemill";
/// The "app" of records of apps.
const APPS: &str = "apps";
/// The "app" of archives.
const ARCHIVES: &str = "archives";

/// An app as it is recorded.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: String,
    deployed_ms: u64,
}

fn record_key(app: &str) -> Result<Key, Problem> {
    Key::new(TENANT, APPS, app).map_err(|error| Problem::new(Code::BadManifest, error.to_string()))
}

fn archive_key(app: &str, version: &str) -> Result<Key, Problem> {
    Key::new(TENANT, ARCHIVES, format!("{app}/{version}"))
        .map_err(|error| Problem::new(Code::BadManifest, error.to_string()))
}

fn read(view: &View, key: &Key) -> Result<Option<Bytes>, Problem> {
    let cell = view.read(key).map_err(|error| state::problem_of(&error))?;
    let value = cell.as_ref().and_then(|cell| cell.view(view.time()));
    Ok(match value {
        Some(Value::Register(register)) => Some(register.get().body.clone()),
        _ => None,
    })
}

impl Runtime {
    /// Makes an archive the version of this app that serves. Requests that are running
    /// end on the old version; if anything is wrong, the old one goes on serving.
    ///
    /// # Errors
    /// `bad-manifest`, `bad-flow`, `python-mismatch`, `environment-failed`,
    /// `load-failed`, `storage-full`, `storage-failed`.
    pub async fn deploy(&self, app: &str, archive: Archive) -> Result<Deployed, Problem> {
        let (runtime, app) = (self.clone(), app.to_owned());
        whole(async move { runtime.deploy_app(&app, archive).await }).await
    }

    async fn deploy_app(&self, app: &str, archive: Archive) -> Result<Deployed, Problem> {
        if self.inner.stopping.load(Ordering::Acquire) {
            return Err(Problem::new(Code::ShuttingDown, "the node is stopping"));
        }
        let manifest = app::read_manifest(&archive)?;
        if manifest.app != app {
            return Err(Problem::new(
                Code::BadManifest,
                format!("the bundle is of the app {}, not {app}", manifest.app),
            ));
        }
        let hash = content_hash(&archive);
        let _one = self.inner.deploying.turn(app).await;
        let deployed = |version: &Version, changed| Deployed {
            app: app.to_owned(),
            version: version.hash.clone(),
            changed,
            functions: version.functions.keys().cloned().collect(),
            flows: version.flows.keys().cloned().collect(),
        };
        if let Ok(current) = self.inner.version(app)
            && current.hash == hash
        {
            return Ok(deployed(&current, false));
        }
        let deployed_ms = self.inner.clock.now_micros() / 1000;
        let version = Arc::new(self.make(manifest, hash, deployed_ms, &archive).await?);
        if let Err(problem) = version.prove(self.inner.clock.now_micros()).await {
            version.retire();
            return Err(problem);
        }
        self.record(&version, archive).await?;
        self.serve(&version);
        Ok(deployed(&version, true))
    }

    fn serve(&self, version: &Arc<Version>) {
        for group in &version.groups {
            group.warm();
        }
        let mut apps = self.inner.apps.write();
        let old = match apps.get(&*version.app) {
            Some(app) => Some(app.replace(Arc::clone(version))),
            None => {
                apps.insert(
                    version.app.to_string(),
                    Arc::new(App::new(Arc::clone(version))),
                );
                None
            }
        };
        let mut working = self.inner.working.lock();
        if version.groups.is_empty() {
            working.remove(&version.app);
        } else {
            working.insert(Arc::clone(&version.app), Arc::clone(version));
        }
        drop((working, apps));
        if let Some(old) = old {
            retire_when_idle(old);
        }
    }

    async fn make(
        &self,
        manifest: Manifest,
        hash: String,
        deployed_ms: u64,
        archive: &Bytes,
    ) -> Result<Version, Problem> {
        let inner = &self.inner;
        let mut python_version = "";
        if let RuntimeKind::Python { python, .. } = &manifest.runtime {
            let own = inner
                .python_version
                .get_or_try_init(|| app::python_version(&inner.options.python))
                .await?;
            if own != python {
                return Err(Problem::new(
                    Code::PythonMismatch,
                    format!(
                        "the app was made with Python {python}, this node runs Python {own}; deploy \
                         with Python {own}, or start the node with --python naming a Python {python}"
                    ),
                ));
            }
            python_version = own;
        }
        let bundle = inner.bundles.hold(&manifest.app, &hash);
        let (archive, place) = (archive.clone(), bundle.path().to_owned());
        tokio::task::spawn_blocking(move || app::unpack(&archive, &place))
            .await
            .map_err(|error| Problem::new(Code::Internal, error.to_string()))??;
        let make = Make {
            printed: self.printed(&manifest.app),
            manifest,
            hash,
            deployed_ms,
            bundle,
            python_version,
            environments: &inner.environments,
            shop: &inner.shop,
            options: &inner.options,
            next_function: &inner.next_function,
            components: &inner.components,
        };
        make.version().await
    }

    /// Where lines go that an app's processes print outside of any request.
    fn printed(&self, app: &str) -> Printed {
        let (telemetry, clock) = (
            Arc::clone(&self.inner.telemetry),
            Arc::clone(&self.inner.clock),
        );
        let app: Arc<str> = app.into();
        let none: Arc<str> = "".into();
        Arc::new(move |stream, text| {
            telemetry.logs.push(LogLine {
                sequence: 0,
                time_us: clock.now_micros(),
                app: Arc::clone(&app),
                function: Arc::clone(&none),
                request: 0,
                stream,
                level: None,
                logger: None,
                text,
            });
        })
    }

    async fn record(&self, version: &Version, archive: Bytes) -> Result<(), Problem> {
        let session = Request::begin(0, Arc::clone(&self.inner.store));
        let mut view = session.view(Vec::new(), 0);
        let key = record_key(&version.app)?;
        if let Some(old) = self.read_record(&view, &key)?
            && old.version != version.hash
        {
            write(
                &mut view,
                &archive_key(&version.app, &old.version)?,
                &Op::Delete,
            )?;
        }
        let record = Record {
            version: version.hash.clone(),
            deployed_ms: version.deployed_ms,
        };
        let record = serde_json::to_value(record).unwrap_or_default();
        write(&mut view, &key, &Op::RegisterSet(Payload::json(&record)))?;
        let key = archive_key(&version.app, &version.hash)?;
        write(&mut view, &key, &Op::RegisterSet(Payload::bytes(archive)))?;
        self.commit_view(&session, view).await
    }

    fn read_record(&self, view: &View, key: &Key) -> Result<Option<Record>, Problem> {
        read(view, key)?
            .map(|body| serde_json::from_slice(&body))
            .transpose()
            .map_err(|error| Problem::new(Code::StorageFailed, format!("an app's record: {error}")))
    }

    async fn commit_view(&self, session: &Arc<Request>, view: View) -> Result<(), Problem> {
        let buffers = [view.finish()];
        let durability = self.inner.options.durability;
        request::commit(session, &buffers, durability, Default::default())
            .await
            .map(|_| ())
    }

    /// Removes an app, and its state too where asked.
    ///
    /// # Errors
    /// `unknown-app`, `storage-failed`.
    pub async fn remove(&self, name: &str, delete_state: bool) -> Result<(), Problem> {
        let (runtime, name) = (self.clone(), name.to_owned());
        whole(async move { runtime.remove_app(&name, delete_state).await }).await
    }

    async fn remove_app(&self, name: &str, delete_state: bool) -> Result<(), Problem> {
        let _one = self.inner.deploying.turn(name).await;
        let version = self.inner.version(name)?;
        let session = Request::begin(0, Arc::clone(&self.inner.store));
        let mut view = session.view(Vec::new(), 0);
        write(&mut view, &record_key(name)?, &Op::Delete)?;
        write(&mut view, &archive_key(name, &version.hash)?, &Op::Delete)?;
        self.commit_view(&session, view).await?;
        self.inner.apps.write().remove(name);
        self.inner.working.lock().remove(name);
        retire_when_idle(version);
        if delete_state {
            self.delete_state(name).await?;
        }
        Ok(())
    }

    async fn delete_state(&self, app: &str) -> Result<(), Problem> {
        loop {
            let page = self.state_list(app, "", None, 1000)?;
            if page.keys.is_empty() {
                return Ok(());
            }
            let writes = page
                .keys
                .into_iter()
                .map(|(key, _)| (key, Op::Delete))
                .collect();
            self.state_commit(app, writes, &crate::Asked::default())
                .await?;
        }
    }

    /// Lets the apps of before serve again. One that cannot is said and left out.
    pub(crate) async fn restore(&self) -> Result<(), Problem> {
        let session = Request::begin(0, Arc::clone(&self.inner.store));
        let view = session.view(Vec::new(), 0);
        let prefix = Key::prefix(TENANT, APPS, "");
        let mut after = None;
        loop {
            let page = view
                .scan(&prefix, after.as_deref(), 1000)
                .map_err(|error| state::problem_of(&error))?;
            for (key, _) in &page.keys {
                let name = key.name_lossy().into_owned();
                if let Err(problem) = self.restore_app(&view, &name).await {
                    tracing::error!(app = name, %problem, "an app cannot be served; deploy it again");
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    async fn restore_app(&self, view: &View, name: &str) -> Result<(), Problem> {
        let lost = || Problem::new(Code::StorageFailed, "its record or archive is gone");
        let record = self
            .read_record(view, &record_key(name)?)?
            .ok_or_else(lost)?;
        let archive = read(view, &archive_key(name, &record.version)?)?.ok_or_else(lost)?;
        let manifest = app::read_manifest(&archive)?;
        let version = self
            .make(manifest, record.version, record.deployed_ms, &archive)
            .await?;
        self.serve(&Arc::new(version));
        Ok(())
    }
}

fn write(view: &mut View, key: &Key, op: &Op) -> Result<(), Problem> {
    view.write(key, op)
        .map_err(|error| state::problem_of(&error))
}

/// Requests that run on a version may still need more of its workers, so it lets go
/// of them only when nobody holds it any more.
fn retire_when_idle(version: Arc<Version>) {
    tokio::spawn(async move {
        while Arc::strong_count(&version) > 1 {
            version.tick();
            tokio::time::sleep(crate::TICK).await;
        }
        version.retire();
    });
}

/// Does all of it even when whoever asked goes away: an app that is recorded must be the
/// one that serves.
async fn whole<T: Send + 'static>(
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    let done = tokio::spawn(work).await;
    done.map_err(|error| Problem::new(Code::Internal, error.to_string()))?
}

fn content_hash(archive: &Bytes) -> String {
    Sha256::digest(archive)[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// An app as lists show it.
pub(crate) fn summary(version: &Version) -> AppSummary {
    let functions = version.functions.values().map(|function| FunctionSummary {
        spec: function.spec.clone(),
        calls: function.runs.load(Ordering::Relaxed),
        mean_us: function.mean_us(),
    });
    let flows = version.flows.values().map(|flow| FlowSummary {
        name: flow.name.to_string(),
        flow: flow.valid.flow().clone(),
        plan: version.plan(flow).explain(),
    });
    let workers = version
        .groups
        .iter()
        .map(|group| group.stats().processes())
        .sum();
    let instances = version.instances();
    AppSummary {
        app: version.app.to_string(),
        version: version.hash.clone(),
        deployed_ms: version.deployed_ms,
        functions: functions.collect(),
        flows: flows.collect(),
        workers,
        instances: instances.active + instances.idle,
    }
}
