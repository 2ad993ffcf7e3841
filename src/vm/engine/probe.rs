//! Whether `/dev/kvm` can run an unmodified kernel: a throw-away guest does what a kernel does in
//! its first moments, and what becomes of it is the answer. A device that opens and lists every
//! capability may still have no hardware behind it, and interpret a part of the instructions, or
//! refuse them.
//!
//! It costs some milliseconds, and nothing is remembered: the answer changes with a reboot, a
//! module or a right.

use crate::sys::fd::Fd;
use crate::sys::process::{self, Cloned};
use crate::sys::{event, kvm as guest, socket};
use crate::{Context, Error, Result};
use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use nix::errno::Errno;

/// How long the guest may take, in milliseconds: it is a hundred instructions, which a machine
/// within an emulated machine may run.
const LIMIT: u64 = 20_000;

/// What each part of the guest's program is, by what it says afterwards.
const PARTS: [&str; guest::LAST as usize + 1] = [
    "real mode",
    "the switch to protected mode",
    "the switch to long mode",
    "CPUID",
    "an exception (int3)",
    "an SSE instruction in the kernel's mode (pxor)",
    "a model-specific register (GS.BASE, swapgs)",
    "hlt",
];

/// Runs the guest, in a process of its own that can be ended; the caller must have one thread.
///
/// # Errors
/// Why `/dev/kvm` cannot run a kernel, in a sentence.
pub fn probe() -> Result<()> {
    // The common case costs one system call.
    drop(open()?);
    let (ours, theirs) = crate::sys::fd::socket_pair()?;
    match process::clone(0, None).on("make", "a process for the probe of /dev/kvm")? {
        Cloned::Child => {
            drop(ours);
            let said = run()
                .err()
                .map_or_else(|| "runs".to_owned(), |error| error.to_string());
            let _ = socket::send(theirs.0, said.as_bytes());
            process::exit(0)
        }
        Cloned::Parent { pidfd, .. } => {
            drop(theirs);
            let pidfd = Fd(pidfd);
            let mut fds = [libc::pollfd {
                fd: ours.0,
                events: libc::POLLIN,
                revents: 0,
            }];
            let answered =
                event::poll(&mut fds, Some(LIMIT)).on("wait for", "the probe of /dev/kvm");
            let _ = process::pidfd_send_signal(pidfd.0, libc::SIGKILL);
            let mut text = [0_u8; 512];
            let count = if matches!(answered, Ok(1..)) {
                socket::recv(ours.0, &mut text).unwrap_or(0)
            } else {
                0
            };
            let _ = process::wait(pidfd.0, false);
            match &text[..count] {
                b"runs" => Ok(()),
                b"" => Err(cannot("its guest did not come to an end")),
                said => Err(Error::new(String::from_utf8_lossy(said).into_owned())),
            }
        }
    }
}

fn cannot(why: &str) -> Error {
    Error::new(format!("/dev/kvm cannot run an unmodified kernel: {why}"))
}

fn refused(what: &str) -> impl Fn(kvm_ioctls::Error) -> Error {
    move |error| {
        cannot(&format!(
            "{what}: {}",
            Errno::from_raw(error.errno()).desc()
        ))
    }
}

fn open() -> Result<Kvm> {
    let kvm = Kvm::new()
        .map_err(|error| Error::sys("open", "/dev/kvm", Errno::from_raw(error.errno())))?;
    match kvm.get_api_version() {
        12 => Ok(kvm),
        other => Err(cannot(&format!(
            "its interface has version {other}, not 12"
        ))),
    }
}

fn run() -> Result<()> {
    let kvm = open()?;
    let machine = kvm.create_vm().map_err(refused("KVM_CREATE_VM"))?;
    // Intel's processors without unrestricted guests want a place for it; others do not know it.
    let _ = machine.set_tss_address(0xfffb_d000);
    let memory = guest::load(&machine).on("give", "the guest of the probe its memory")?;
    let mut cpu = machine.create_vcpu(0).map_err(refused("KVM_CREATE_VCPU"))?;
    let features = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(refused("KVM_GET_SUPPORTED_CPUID"))?;
    cpu.set_cpuid2(&features)
        .map_err(refused("KVM_SET_CPUID2"))?;
    let mut special = cpu.get_sregs().map_err(refused("KVM_GET_SREGS"))?;
    (special.cs.base, special.cs.selector) = (0, 0);
    cpu.set_sregs(&special).map_err(refused("KVM_SET_SREGS"))?;
    let mut registers = cpu.get_regs().map_err(refused("KVM_GET_REGS"))?;
    (registers.rip, registers.rflags) = (guest::ENTRY, 2);
    cpu.set_regs(&registers).map_err(refused("KVM_SET_REGS"))?;
    let ended = execute(&mut cpu);
    drop((cpu, machine));
    drop(memory);
    ended
}

/// Runs the program to its end; each part speaks.
fn execute(cpu: &mut VcpuFd) -> Result<()> {
    let mut done = 0;
    loop {
        let part = PARTS.get(usize::from(done)).copied().unwrap_or("the end");
        let ended = match cpu.run() {
            Ok(VcpuExit::IoOut(0x10, &[said])) if said == done + 1 => {
                done = said;
                continue;
            }
            Ok(VcpuExit::Hlt) if done == guest::LAST => return Ok(()),
            Ok(VcpuExit::InternalError) => "KVM_EXIT_INTERNAL_ERROR".to_owned(),
            Ok(VcpuExit::Shutdown) => "a triple fault".to_owned(),
            Ok(VcpuExit::FailEntry(reason, _)) => format!("a failed entry ({reason:#x})"),
            Ok(other) => format!("{other:?}"),
            Err(error) if error.errno() == libc::EINTR => continue,
            Err(error) => Errno::from_raw(error.errno()).desc().to_owned(),
        };
        return Err(cannot(&format!("{part} ends with {ended}")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer is of this machine's device: it runs the whole program, or the sentence names the
    /// device and what it cannot do.
    #[test]
    fn the_device_answers_or_says_why_not() {
        let Err(error) = probe() else { return };
        let said = error.to_string();
        let why = said.strip_prefix("/dev/kvm cannot run an unmodified kernel: ");
        let named = |why: &str| {
            why.starts_with("its ")
                || why.starts_with("KVM_")
                || PARTS
                    .iter()
                    .any(|part| why.starts_with(&format!("{part} ends with ")))
        };
        assert!(
            said.starts_with("open /dev/kvm: ") || why.is_some_and(named),
            "{said}"
        );
    }
}
