//! The interface that guests are built against does not change unseen.

use std::fmt::Write;
use std::path::Path;

/// The lines of a WIT file without comments.
fn text(wit: &str) -> String {
    let lines = wit.lines().filter(|line| {
        let line = line.trim_start();
        !line.is_empty() && !line.starts_with("//")
    });
    lines.fold(String::new(), |text, line| text + line.trim_end() + "\n")
}

#[test]
fn the_interface_of_guests_is_as_it_was() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut interface = String::new();
    for (directory, files) in [
        ("../../wit", &["world", "types", "state"][..]),
        (
            "wit",
            &[
                "world",
                "deps/keyvalue/keyvalue",
                "deps/config/config",
                "deps/logging/logging",
            ],
        ),
    ] {
        for file in files {
            let wit = std::fs::read_to_string(here.join(format!("{directory}/{file}.wit")));
            writeln!(interface, "// {file}.wit").unwrap();
            interface += &text(&wit.unwrap());
        }
    }
    let golden = here.join("tests/golden/interface.wit");
    if std::env::var_os("TIDEMILL_ACCEPT").is_some() {
        std::fs::write(&golden, &interface).unwrap();
    }
    let before = std::fs::read_to_string(&golden).unwrap_or_default();
    assert!(
        before == interface,
        "the interface of guests has changed. Until its version 0.1.0 is released it may: run \
         this test with TIDEMILL_ACCEPT=1 and send the difference of {} with the change. After \
         that, give the package a new version",
        golden.display()
    );
}

#[test]
fn every_file_of_the_package_is_guarded() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut names: Vec<_> = std::fs::read_dir(here.join("../../wit"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["state.wit", "types.wit", "world.wit"]);
}
