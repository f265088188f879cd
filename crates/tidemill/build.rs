//! Rebuilds the program when the Python SDK, which it carries, has changed.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=../../sdk/python/tidemill");
}
