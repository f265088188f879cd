//! The Redis door of a node, if its settings ask for one.

use crate::failure::Failure;
use crate::settings::Settings;
use crate::up;
use std::net::SocketAddr;
use tidemill_redis::{Door, Limits, Options, Parts};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A door that may be opened: its settings are right.
pub(crate) struct Plan {
    address: SocketAddr,
    options: Options,
}

/// A door with its address taken.
pub(crate) struct Bound {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
    options: Options,
}

/// What the settings ask for.
///
/// # Errors
/// [`Failure::Usage`] for an address that is none or must not be served, and a name that no app
/// can have.
pub(crate) async fn plan(settings: &Settings) -> Result<Option<Plan>, Failure> {
    let redis = &settings.redis;
    if redis.listen.is_empty() {
        return Ok(None);
    }
    if let Err(error) = tidemill_lattice::Space::new("default", &redis.app) {
        return Err(wrong_app(&error));
    }
    let limits = Limits {
        bulk_bytes_max: redis.bulk_bytes_max,
        ..Limits::default()
    };
    let options = Options {
        app: redis.app.clone(),
        durability: up::durability(settings),
        limits,
        output_bytes_max: redis.output_bytes_max,
        connections_max: redis.connections_max,
        version: env!("CARGO_PKG_VERSION"),
        ..Options::default()
    };
    let address = up::listen_address(&redis.listen, settings).await?;
    Ok(Some(Plan { address, options }))
}

fn wrong_app(error: &tidemill_lattice::KeyError) -> Failure {
    Failure::Usage(format!("the setting `redis.app` is wrong: {error}"))
}

impl Plan {
    /// Takes the address.
    ///
    /// # Errors
    /// [`Failure::InUse`] where another process has it.
    pub(crate) async fn bind(self) -> Result<Bound, Failure> {
        let bound = TcpListener::bind(self.address).await;
        let listener = bound.map_err(|error| up::in_use(self.address, &error, "--redis-listen"))?;
        Ok(Bound {
            address: listener.local_addr()?,
            listener,
            options: self.options,
        })
    }
}

impl Bound {
    /// Serves until `stopping` turns true. Clients must give the token, if there is one.
    pub(crate) fn serve(
        self,
        parts: Parts,
        token: Option<String>,
        stopping: watch::Receiver<bool>,
    ) -> Result<JoinHandle<()>, Failure> {
        let options = Options {
            password: token,
            ..self.options
        };
        let door = Door::new(options, parts).map_err(|error| wrong_app(&error))?;
        let serving = tidemill_redis::serve(self.listener, door, stopping);
        Ok(tokio::spawn(serving))
    }
}
