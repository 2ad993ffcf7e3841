//! What the tests of the VM backend need: a kernel with its modules, and one VM at a time.

use super::bundle::Bundle;
use super::runtime::{Container, Output, finish, text};
use super::{backend, fixture};
use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// The longest that a command may take with an emulated guest on busy CPUs.
pub const LIMIT: Duration = Duration::from_secs(180);

/// Another one for each boot of a kernel. The version would not do: a test VM runs the kernel that
/// its own guests run.
pub const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The key under which `events` and `stats` report the usage of the VM.
pub const REPORT: &str = "machine";

/// A bundle whose container gets a VM.
pub struct Vm {
    /// The bundle.
    pub bundle: Bundle,
    /// The guest's kernel.
    pub kernel: PathBuf,
    /// Held as long as this VM may run.
    _lock: File,
}

impl Vm {
    /// A bundle whose program is a script. Waits until no other test has a VM.
    pub fn sh(script: &str) -> Self {
        Self::of(|| Bundle::sh(script))
    }

    /// A bundle that is made once the kernel is there: making it may cut the test off from the
    /// host's network, over which the kernel is fetched.
    pub fn of(make: impl FnOnce() -> Bundle) -> Self {
        let kernel = backend::kernel();
        let lock = File::create(fixture::suite_scratch().join("vm.lock")).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let bundle = make();
        let kernel = if bundle.runtime.user.is_some() {
            backend::readable_kernel()
        } else {
            kernel
        };
        Self {
            bundle,
            kernel,
            _lock: lock,
        }
    }

    /// The command line of a verb that makes a container, not started: `--vm`, the kernel, the
    /// flags given, the bundle and the id.
    pub fn command(&self, verb: &str, flags: &[&str]) -> Command {
        self.bundle.write();
        let kernel = self.kernel.display().to_string();
        let dir = self.bundle.dir.display().to_string();
        let args = [
            &[verb, "--vm", "--vm-kernel", &kernel],
            flags,
            &["--bundle", &dir, &self.bundle.id],
        ]
        .concat();
        self.bundle.runtime.command(&args)
    }

    fn make(&self, verb: &str, flags: &[&str]) -> Output {
        finish(self.command(verb, flags), LIMIT)
    }

    /// `run`.
    pub fn run(&self) -> Output {
        self.make("run", &[])
    }

    /// `run` with further flags.
    pub fn run_with(&self, flags: &[&str]) -> Output {
        self.make("run", flags)
    }

    /// `create`, which must succeed. The output of the program goes to the files of the first call:
    /// flags may name others.
    pub fn create(&self, flags: &[&str]) -> Container<'_> {
        let container = Container::new(&self.bundle);
        self.make("create", flags).success();
        container
    }

    /// `create`, which must fail and leave no container; its error.
    pub fn refused(&self) -> String {
        let error = self.make("create", &[]).failure();
        assert_ne!(
            self.bundle.call(&["state", &self.bundle.id]).status,
            0,
            "create failed and left a container"
        );
        error
    }
}

/// The processes of a container's VM on the host: the children of the monitor (the share server and
/// QEMU, and what they need), and the monitor, whose pid is the container's.
pub fn host_processes(container: &Container) -> Vec<i32> {
    let monitor = container.pid();
    text(format!("/proc/{monitor}/task/{monitor}/children"))
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .chain([monitor])
        .collect()
}

/// The QEMU of a container's VM.
#[track_caller]
pub fn qemu(container: &Container) -> i32 {
    let is_qemu = |pid: &i32| text(format!("/proc/{pid}/comm")).starts_with("qemu-system");
    let all = host_processes(container);
    let found = all.iter().copied().find(is_qemu);
    found.unwrap_or_else(|| panic!("no QEMU among {all:?}"))
}
