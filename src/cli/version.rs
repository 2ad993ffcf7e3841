//! `hull --version`: the lines that engines parse.

/// The newest runtime spec that hull executes.
pub const SPEC_VERSION: &str = "1.3.0";

/// Prints name, version, commit, spec and libseccomp.
pub fn print() {
    println!("hull version {}", env!("CARGO_PKG_VERSION"));
    println!("commit: {}", env!("HULL_COMMIT"));
    println!("spec: {SPEC_VERSION}");
    println!(
        "libseccomp: {}",
        crate::security::seccomp::library_version()
    );
}
