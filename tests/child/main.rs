//! The cloned child never allocates: tests of hull under an allocator that ends every child which
//! uses it.
//!
//! Under the name `hull-trapped`, this program is hull's command line with the allocator of
//! [`trap`]. The tests of the integration suite for what happens between clone and execve (hooks,
//! terminals, user namespaces, exec), and those of [`trapped`], run it in the place of hull: a
//! child that allocates exits with status 99 before its program begins, and the test fails.
//!
//! The whole integration suite can run with it by `HULL_RUNTIME`: `cargo test --test child --
//! --install DIR` puts the program into a directory.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../integration/support/mod.rs"]
#[macro_use]
#[allow(dead_code)] // the integration suite uses the rest
mod support;

#[path = "../integration/exec.rs"]
mod exec;
#[path = "../integration/hooks.rs"]
mod hooks;
#[path = "../integration/terminal.rs"]
mod terminal;
#[path = "../integration/user_namespaces.rs"]
mod user_namespaces;

mod trap;
mod trapped;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

#[global_allocator]
static ALLOCATOR: trap::Trap = trap::Trap;

/// The name under which this program is hull.
const NAME: &str = "hull-trapped";

fn main() -> ExitCode {
    let mut args = std::env::args();
    let called = args.next().unwrap_or_default();
    match (
        Path::new(&called)
            .file_name()
            .and_then(|name| name.to_str()),
        args.next().as_deref(),
    ) {
        // `hull` is the name of a fresh init.
        (Some(NAME | "hull"), _) => ExitCode::from(hull::cli::main()),
        (_, Some("--prove")) => trapped::prove(),
        (_, Some("--install")) => {
            install(&PathBuf::from(
                args.next().expect("--install needs a directory"),
            ));
            ExitCode::SUCCESS
        }
        _ if std::env::var_os("HULL_RUNTIME").is_some() => support::harness::main(&[
            trapped::TESTS,
            exec::TESTS,
            hooks::TESTS,
            terminal::TESTS,
            user_namespaces::TESTS,
        ]),
        _ => again_with_the_trap(),
    }
}

fn install(dir: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let program = dir.join(NAME);
    std::fs::create_dir_all(dir).unwrap();
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    for path in [dir, &program] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    program
}

/// Starts this program again, with the trapped hull as the runtime of the tests.
fn again_with_the_trap() -> ExitCode {
    let dir = std::env::temp_dir().join(format!("hull-trap-{}", std::process::id()));
    let program = install(&dir);
    let status = Command::new(std::env::current_exe().unwrap())
        .args(std::env::args_os().skip(1))
        .env("HULL_RUNTIME", program)
        .status();
    std::fs::remove_dir_all(&dir).unwrap();
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
