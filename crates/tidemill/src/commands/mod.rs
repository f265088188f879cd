//! What the commands that speak to a node do; one file each.

pub(crate) mod call;
pub(crate) mod deploy;
pub(crate) mod dev;
pub(crate) mod functions;
pub(crate) mod kv;
pub(crate) mod logs;
pub(crate) mod requests;
pub(crate) mod store;
pub(crate) mod top;
pub(crate) mod trace;
pub(crate) mod version;
