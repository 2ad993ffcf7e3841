//! Tells the program which commit it was built from (`hull --version`): `HULL_COMMIT` of the
//! builder's environment, else git's answer where this directory is the top of a working tree, else
//! `unknown`.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=HULL_COMMIT");
    let given = std::env::var("HULL_COMMIT")
        .ok()
        .filter(|commit| !commit.is_empty());
    let commit = given
        .or_else(from_git)
        .unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=HULL_COMMIT={commit}");
}

fn from_git() -> Option<String> {
    // A source archive may lie somewhere below another project's tree: that one's commit is not
    // ours.
    if !git(&["rev-parse", "--show-prefix"])?.is_empty() {
        return None;
    }
    // HEAD names the branch; its log grows with every commit, also where the branch's own file is
    // packed away.
    for name in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", name])?;
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "HEAD"])
}

/// A question to git about the package's directory, in which cargo runs this program; none where
/// there is no git or no answer.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .args(args)
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
