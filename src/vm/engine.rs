//! What runs a guest: one interface, whoever is behind it. Today that is QEMU, with KVM or without;
//! an engine in hull's own process takes its place beside it.
//!
//! What is here is what the monitor needs of any engine: boot, the channel, pause and resume, the
//! balloon, kill. Snapshot, a log of dirtied memory and migration belong here too.

pub mod probe;
pub mod qemu;

pub mod qmp;

use crate::Result;
use crate::sys::fd::Fd;
use crate::vm::boot::kernel::Kernel;

use std::path::Path;

/// How instructions are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// By the processor.
    Kvm,
    /// By QEMU's translator.
    Tcg,
}

impl Accelerator {
    /// As QEMU and the record name it.
    pub fn name(self) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg",
        }
    }
}

/// A network interface of the machine.
pub struct Tap {
    /// The tap, opened.
    pub fd: Fd,
    /// Its hardware address.
    pub hardware: String,
}

/// What a machine is made of.
pub struct Boot<'a> {
    /// The container's id.
    pub id: &'a str,
    /// A directory for what the engine needs while it runs.
    pub directory: &'a Path,
    /// The engine's program, where it is one and is named.
    pub program: Option<&'a Path>,
    /// How.
    pub accelerator: Accelerator,
    /// The kernel.
    pub kernel: &'a Kernel,
    /// The guest's first file system.
    pub initramfs: &'a Path,
    /// More words for the kernel's command line.
    pub parameters: &'a [String],
    /// Memory at boot, in bytes.
    pub memory: u64,
    /// Memory that can be plugged in later, and how much of it is from the beginning, in bytes.
    pub more: Option<(u64, u64)>,
    /// Processors.
    pub cpus: u32,
    /// The share server's socket.
    pub share: Option<Fd>,
    /// Network interfaces.
    pub taps: Vec<Tap>,
    /// An ordinary user's ids.
    pub own: Option<&'a crate::vm::rootless::Own>,
    /// Disks.
    pub disks: Vec<crate::vm::boot::disk::Opened>,
}

/// What an engine has to say.
#[derive(Debug)]
pub enum Happened {
    /// The oldest of the requests that were made is executed, with its answer, or refused.
    Answered(Result<serde_json::Value, String>),
    /// Nothing that matters.
    Nothing,
}

/// A machine that runs.
pub enum Machine {
    /// QEMU.
    Qemu(qemu::Machine),
}

impl Machine {
    /// Starts a machine; the caller must have one thread. The channel, and the console's text, are
    /// what it answers.
    ///
    /// # Errors
    /// The engine is not there, or refuses.
    pub fn boot(boot: Boot) -> Result<(Self, Fd, Fd)> {
        let (machine, channel, console) = qemu::Machine::boot(boot)?;
        Ok((Machine::Qemu(machine), channel, console))
    }

    /// For poll(2): readable when the machine has ended; readable when [`Machine::listen`] has
    /// something.
    pub fn descriptors(&self) -> (i32, i32) {
        match self {
            Machine::Qemu(machine) => (machine.pidfd(), machine.qmp.descriptor()),
        }
    }

    /// What has happened.
    ///
    /// # Errors
    /// The engine is gone.
    pub fn listen(&mut self) -> Result<Vec<Happened>> {
        match self {
            Machine::Qemu(machine) => machine.listen(),
        }
    }

    /// Stops the processors; answered later.
    ///
    /// # Errors
    /// The engine is gone.
    pub fn pause(&mut self) -> Result<()> {
        match self {
            Machine::Qemu(machine) => machine.qmp.command("stop", serde_json::json!({})),
        }
    }

    /// Lets the processors run again; answered later.
    ///
    /// # Errors
    /// The engine is gone.
    pub fn resume(&mut self) -> Result<()> {
        match self {
            Machine::Qemu(machine) => machine.qmp.command("cont", serde_json::json!({})),
        }
    }

    /// The memory that the guest is to have, in bytes; never more than at boot; answered later.
    ///
    /// # Errors
    /// The engine is gone.
    pub fn balloon(&mut self, bytes: u64) -> Result<()> {
        match self {
            Machine::Qemu(machine) => machine
                .qmp
                .command("balloon", serde_json::json!({ "value": bytes })),
        }
    }

    /// How much of the memory that can be plugged in the guest is to have, in bytes; answered
    /// later, and the guest takes it or gives it back later still.
    ///
    /// # Errors
    /// The engine is gone.
    pub fn plug(&mut self, bytes: u64) -> Result<()> {
        match self {
            Machine::Qemu(machine) => machine.qmp.command("qom-set", serde_json::json!({ "path": qemu::MORE, "property": "requested-size", "value": bytes })),
        }
    }

    /// How much of it the guest has, in bytes; answered later, by a number.
    ///
    /// # Errors
    /// The engine is gone.
    pub fn plugged(&mut self) -> Result<()> {
        match self {
            Machine::Qemu(machine) => machine.qmp.command(
                "qom-get",
                serde_json::json!({ "path": qemu::MORE, "property": "size" }),
            ),
        }
    }

    /// How much of the memory at boot the balloon leaves the guest, in bytes; answered later, by a
    /// number.
    ///
    /// # Errors
    /// The engine is gone.
    pub fn left(&mut self) -> Result<()> {
        match self {
            Machine::Qemu(machine) => machine.qmp.command("query-balloon", serde_json::json!({})),
        }
    }

    /// Ends it, whatever it does; what the engine itself said on the way.
    pub fn kill(&mut self) -> String {
        match self {
            Machine::Qemu(machine) => machine.kill(),
        }
    }
}
