//! Tests whether `/dev/kvm` can run an unmodified kernel: hull creates a temporary VM whose program
//! executes what a kernel does first when it boots. A `/dev/kvm` that opens and lists every
//! capability may still lack hardware virtualization, interpret some of the instructions, or refuse
//! them.
//!
//! The test takes some milliseconds. hull does not cache the result, since it changes with a
//! reboot, a kernel module or a permission.

use crate::sys::fd::Fd;
use crate::sys::process::{self, Cloned};
use crate::sys::{event, kvm, socket};
use crate::{Context, Error, Result};
use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use nix::errno::Errno;

/// How long the test may take, in milliseconds. The program has a hundred instructions, but the
/// host may itself be a VM under emulation.
const TIMEOUT: u64 = 20_000;

/// The parts of the program, each by the number that it writes to port 0x10 when it begins.
const PARTS: [&str; kvm::LAST as usize + 1] = [
    "real mode",
    "the switch to protected mode",
    "the switch to long mode",
    "CPUID",
    "an exception (int3)",
    "an SSE instruction in kernel mode (pxor)",
    "a model-specific register (GS.BASE, swapgs)",
    "hlt",
];

/// Runs the test in a child process, which hull kills after [`TIMEOUT`]. The caller must have one
/// thread only.
///
/// # Errors
/// `/dev/kvm` cannot be opened or cannot run an unmodified kernel; the error says what failed.
pub(crate) fn probe() -> Result<()> {
    // A missing or inaccessible /dev/kvm, the common case, costs one system call.
    drop(open()?);
    let (ours, theirs) = crate::sys::fd::socket_pair()?;
    match process::clone(0, None).on("make", "a process for the probe of /dev/kvm")? {
        Cloned::Child => {
            drop(ours);
            let result = run()
                .err()
                .map_or_else(|| "runs".to_owned(), |error| error.to_string());
            let _ = socket::send(theirs.0, result.as_bytes());
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
                event::poll(&mut fds, Some(TIMEOUT)).on("wait for", "the probe of /dev/kvm");
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
                b"" => Err(cannot("its guest did not end")),
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
    let device = Kvm::new()
        .map_err(|error| Error::sys("open", "/dev/kvm", Errno::from_raw(error.errno())))?;
    match device.get_api_version() {
        12 => Ok(device),
        other => Err(cannot(&format!(
            "its interface has version {other}, not 12"
        ))),
    }
}

fn run() -> Result<()> {
    let device = open()?;
    let vm = device.create_vm().map_err(refused("KVM_CREATE_VM"))?;
    // Intel CPUs without "unrestricted guest" need it; elsewhere the call may fail.
    let _ = vm.set_tss_address(0xfffb_d000);
    let memory = kvm::load(&vm).on("map", "the memory of the probe's guest")?;
    let mut cpu = vm.create_vcpu(0).map_err(refused("KVM_CREATE_VCPU"))?;
    let features = device
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(refused("KVM_GET_SUPPORTED_CPUID"))?;
    cpu.set_cpuid2(&features)
        .map_err(refused("KVM_SET_CPUID2"))?;
    let mut sregs = cpu.get_sregs().map_err(refused("KVM_GET_SREGS"))?;
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    cpu.set_sregs(&sregs).map_err(refused("KVM_SET_SREGS"))?;
    let mut regs = cpu.get_regs().map_err(refused("KVM_GET_REGS"))?;
    (regs.rip, regs.rflags) = (kvm::ENTRY, 2);
    cpu.set_regs(&regs).map_err(refused("KVM_SET_REGS"))?;
    let result = execute(&mut cpu);
    drop((cpu, vm));
    drop(memory);
    result
}

/// Runs the program until it halts after its last part.
fn execute(cpu: &mut VcpuFd) -> Result<()> {
    let mut done = 0;
    loop {
        let part = PARTS.get(usize::from(done)).copied().unwrap_or("the end");
        let ended = match cpu.run() {
            Ok(VcpuExit::IoOut(0x10, &[number])) if number == done + 1 => {
                done = number;
                continue;
            }
            Ok(VcpuExit::Hlt) if done == kvm::LAST => return Ok(()),
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

    /// The result depends on the host: its device runs the whole program, or the error names what
    /// it cannot do.
    #[test]
    fn the_device_runs_the_program_or_the_error_says_why_not() {
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
