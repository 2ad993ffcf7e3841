//! What the tests of the second wall need: a kernel with its modules, and one machine at a time.

use super::bundle::Bundle;
use super::runtime::{Container, Output, finish};
use super::{fixture, wall};
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

/// The longest that a guest may take, emulated, on busy processors.
pub const LIMIT: Duration = Duration::from_secs(180);

/// A bundle whose container gets a machine.
pub struct Machine {
    /// The bundle.
    pub bundle: Bundle,
    /// The guest's kernel.
    pub kernel: PathBuf,
    _turn: File,
}

impl Machine {
    /// A bundle whose program is a script, and its turn: machines run one at a time.
    pub fn sh(script: &str) -> Self {
        Self::of(|| Bundle::sh(script))
    }

    /// A bundle that is made once the kernel is there, which may take the machine's own network.
    pub fn of(make: impl FnOnce() -> Bundle) -> Self {
        let kernel = wall::kernel();
        let turn = File::create(fixture::suite_scratch().join("machine.lock")).unwrap();
        rustix::fs::flock(&turn, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let bundle = make();
        let kernel = if bundle.runtime.user.is_some() {
            wall::readable_kernel()
        } else {
            kernel
        };
        Self {
            bundle,
            kernel,
            _turn: turn,
        }
    }

    fn flags(&self) -> [String; 3] {
        [
            "--vm".to_owned(),
            "--vm-kernel".to_owned(),
            self.kernel.display().to_string(),
        ]
    }

    fn make(&self, verb: &str, flags: &[&str]) -> Output {
        self.bundle.write();
        let own = self.flags();
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        let dir = self.bundle.dir.display().to_string();
        let args = [
            &[verb],
            &own[..],
            flags,
            &["--bundle", &dir, &self.bundle.id],
        ]
        .concat();
        finish(self.bundle.runtime.command(&args), LIMIT)
    }

    /// `run`.
    pub fn run(&self) -> Output {
        self.make("run", &[])
    }

    /// `run` with further flags.
    pub fn run_with(&self, flags: &[&str]) -> Output {
        self.make("run", flags)
    }

    /// `create`, which must succeed. What the program writes is in the first call's files: flags
    /// may name others.
    pub fn create(&self, flags: &[&str]) -> Container<'_> {
        let container = Container::new(&self.bundle);
        self.make("create", flags).success();
        container
    }

    /// `create`, which must fail; what it says.
    pub fn refused(&self) -> String {
        let said = self.make("create", &[]).failure();
        assert_ne!(
            self.bundle.call(&["state", &self.bundle.id]).status,
            0,
            "something is left of it"
        );
        said
    }
}
