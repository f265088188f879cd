//! Bundles of components.

use super::Bundle;
use crate::failure::Failure;
use figment::Figment;
use figment::providers::{Format, Toml};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Cursor, Write};
use std::path::{Component, Path, PathBuf};

/// The function of a component that is deployed alone and not named.
const FUNCTION: &str = "handle";

/// `tidemill.toml`: an app of components. A function has the fields of the manifest's
/// (docs/manifest.md), as `[functions.NAME]`; a flow those of a flow, as `[flows.NAME]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AppFile {
    app: String,
    #[serde(default)]
    level: Option<String>,
    #[serde(default)]
    durability: Option<String>,
    functions: BTreeMap<String, Map<String, Value>>,
    #[serde(default)]
    flows: BTreeMap<String, Value>,
}

/// An app of one component. `name` is `APP` or `APP.FUNCTION`.
pub(super) fn of_component(
    file: &Path,
    name: Option<&str>,
    is_http: bool,
) -> Result<Bundle, Failure> {
    let stem = file.file_stem().and_then(std::ffi::OsStr::to_str);
    let stem = stem.unwrap_or("app").replace(['.', ' '], "-");
    let name = name.unwrap_or(&stem);
    let (app, function) = name.split_once('.').unwrap_or((name, FUNCTION));
    let kind = if is_http { "http" } else { "function" };
    let manifest = json!({
        "manifest": 1, "app": app, "runtime": {"kind": "wasm"},
        "functions": [{"name": function, "component": "component.wasm", "kind": kind}],
    });
    let archive = zip(&manifest, &[("component.wasm", file.to_owned())])?;
    Ok(Bundle {
        app: app.to_owned(),
        archive,
        sources: vec![file.to_owned()],
    })
}

/// The app that a `tidemill.toml` describes.
pub(super) fn of_manifest(path: &Path) -> Result<Bundle, Failure> {
    let text = std::fs::read_to_string(path)?;
    let app = parse(&text)
        .map_err(|cause| Failure::Usage(format!("{} cannot be used: {cause}", path.display())))?;
    let directory = path.parent().unwrap_or(Path::new(""));
    let mut files = BTreeSet::new();
    for (name, function) in &app.functions {
        let component = function.get("component").and_then(Value::as_str);
        let component = component.ok_or_else(|| {
            Failure::Usage(format!(
                "{}: function {name} names no component; add component = \"file.wasm\"",
                path.display()
            ))
        })?;
        let is_inside = Path::new(component)
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        let file = directory.join(component);
        if !is_inside || !file.is_file() {
            return Err(Failure::Usage(format!(
                "{}: there is no file {component} beside it; build the component first",
                path.display()
            )));
        }
        files.insert((component, file));
    }
    let files: Vec<(&str, PathBuf)> = files.into_iter().collect();
    let archive = zip(&manifest(&app), &files)?;
    let mut sources: Vec<PathBuf> = files.iter().map(|(_, file)| file.clone()).collect();
    sources.push(path.to_owned());
    Ok(Bundle {
        archive,
        sources,
        app: app.app,
    })
}

fn parse(text: &str) -> Result<AppFile, String> {
    let parsed = Figment::from(Toml::string(text)).extract();
    parsed.map_err(|error: figment::Error| error.to_string())
}

fn manifest(app: &AppFile) -> Value {
    let functions = app.functions.iter().map(|(name, fields)| {
        let mut function = fields.clone();
        function.insert("name".to_owned(), name.as_str().into());
        Value::Object(function)
    });
    let flows = app.flows.iter().map(|(name, flow)| {
        let mut flow = flow.clone();
        if let Value::Object(fields) = &mut flow {
            fields.entry("version").or_insert(1.into());
        }
        json!({"name": name, "flow": flow})
    });
    let mut manifest = json!({
        "manifest": 1, "app": app.app, "runtime": {"kind": "wasm"},
        "functions": functions.collect::<Vec<_>>(),
        "flows": flows.collect::<Vec<_>>(),
    });
    for (field, value) in [("level", &app.level), ("durability", &app.durability)] {
        if let Some(value) = value {
            manifest[field] = value.as_str().into();
        }
    }
    manifest
}

fn zip(manifest: &Value, files: &[(&str, PathBuf)]) -> Result<Vec<u8>, Failure> {
    let broken = |error: zip::result::ZipError| Failure::Other(format!("the bundle: {error}"));
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    // The same files make the same bundle, whenever they are deployed.
    let options =
        zip::write::SimpleFileOptions::default().last_modified_time(zip::DateTime::default());
    zip.start_file("tidemill.json", options).map_err(broken)?;
    zip.write_all(manifest.to_string().as_bytes())?;
    for (name, file) in files {
        zip.start_file(*name, options).map_err(broken)?;
        zip.write_all(&std::fs::read(file)?)?;
    }
    Ok(zip.finish().map_err(broken)?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        app = "shop"
        level = "eventual"

        [functions.price]
        component = "price.wasm"
        timeout_ms = 500
        env = { MODE = "fast" }

        [functions.web]
        component = "web.wasm"
        kind = "http"
        hosts = ["api.example.com"]

        [flows.quote]
        output = 0
        steps = [{ id = 0, call = "price", in = ["input"] }]
    "#;

    #[test]
    fn an_app_file_becomes_a_manifest() {
        let manifest = manifest(&parse(TEXT).unwrap());
        let expected = json!({
            "manifest": 1, "app": "shop", "runtime": {"kind": "wasm"}, "level": "eventual",
            "functions": [
                {"name": "price", "component": "price.wasm", "timeout_ms": 500,
                 "env": {"MODE": "fast"}},
                {"name": "web", "component": "web.wasm", "kind": "http",
                 "hosts": ["api.example.com"]},
            ],
            "flows": [{"name": "quote", "flow": {"version": 1, "output": 0, "steps": [
                {"id": 0, "call": "price", "in": ["input"]}]}}],
        });
        assert_eq!(manifest, expected);
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tidemill.toml");
        std::fs::write(&file, TEXT).unwrap();
        let missing = of_manifest(&file).err().unwrap();
        assert!(format!("{missing:?}").contains("price.wasm"), "{missing:?}");
        for name in ["price.wasm", "web.wasm"] {
            std::fs::write(directory.path().join(name), "x").unwrap();
        }
        let (one, two) = (of_manifest(&file).unwrap(), of_manifest(&file).unwrap());
        assert_eq!((one.app.as_str(), one.sources.len()), ("shop", 3));
        assert_eq!(one.archive, two.archive);
    }

    #[test]
    fn mistakes_in_an_app_file_are_named() {
        for (text, expected) in [
            ("app = 5", "app"),
            ("app = \"a\"", "functions"),
            ("app = \"a\"\nfunctoins = {}", "functoins"),
        ] {
            let cause = parse(text).unwrap_err();
            assert!(cause.contains(expected), "{cause}");
        }
    }

    #[test]
    fn a_component_alone_is_an_app() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("my.counter.wasm");
        std::fs::write(&file, "x").unwrap();
        assert_eq!(of_component(&file, None, false).unwrap().app, "my-counter");
        assert_eq!(of_component(&file, Some("a.b"), false).unwrap().app, "a");
    }
}
