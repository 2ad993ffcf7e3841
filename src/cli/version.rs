//! `hull --version`: the lines that engines parse.

use crate::Result;
use crate::stdio::output;

/// The newest runtime spec that hull executes.
pub const SPEC_VERSION: &str = "1.3.0";

/// Prints name, version, commit, spec and libseccomp.
pub fn print() -> Result<u8> {
    output::print(format_args!(
        "hull version {}\ncommit: {}\nspec: {SPEC_VERSION}\nlibseccomp: {}\n",
        env!("CARGO_PKG_VERSION"),
        env!("HULL_COMMIT"),
        crate::security::seccomp::library_version()
    ))
    .map(|()| 0)
}
