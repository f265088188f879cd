//! From what a user wrote to a bundle: a Python file, a WebAssembly component, or a
//! `tidemill.toml` that names several.

mod components;
mod python;

use crate::cli::{Deploy, Global};
use crate::failure::Failure;
use std::path::PathBuf;

/// A bundle made from a file.
pub(crate) struct Bundle {
    /// The app's name.
    pub(crate) app: String,
    /// The zip archive.
    pub(crate) archive: Vec<u8>,
    /// The files that it was made from.
    pub(crate) sources: Vec<PathBuf>,
}

/// Makes the bundle, by what the file is.
pub(crate) fn bundle(global: &Global, command: &Deploy) -> Result<Bundle, Failure> {
    let file = &command.file;
    if !file.is_file() {
        let text = format!("there is no file {}", file.display());
        return Err(Failure::Usage(text));
    }
    let extension = file.extension().and_then(std::ffi::OsStr::to_str);
    let is_component = extension == Some("wasm");
    if !is_component && (command.name.is_some() || command.http) {
        let text = "--name and --http are for a component, FILE.wasm";
        return Err(Failure::Usage(text.to_owned()));
    }
    match extension {
        Some("wasm") => components::of_component(file, command.name.as_deref(), command.http),
        Some("toml") => components::of_manifest(file),
        _ => python::bundle(global, command),
    }
}
