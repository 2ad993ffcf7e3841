//! The guest's side of a VM: hull as PID 1 of the guest. It mounts the kernel's filesystems, loads
//! the modules of the channel's drivers, and then serves the channel as the agent. The terms are in
//! [`crate::vm`].

#![forbid(unsafe_code)]

pub(crate) mod agent;
pub(crate) mod boot;
pub(crate) mod disks;
pub(crate) mod modules;
pub(crate) mod network;
pub(crate) mod processes;
pub(crate) mod session;

use crate::Result;
use crate::sys::{event, file};
use crate::vm::channel::message::MARK;
use std::fs;
use std::time::Duration;

/// Whether this process is PID 1 of a guest: the kernel has started it as `/init` of the
/// initramfs, with the variable from the kernel's command line that marks a guest of hull.
pub(crate) fn is_pid1() -> bool {
    std::process::id() == 1
        && std::env::args_os()
            .next()
            .is_some_and(|name| name == "/init")
        && std::env::var_os(MARK).is_some()
}

/// The main function of PID 1. An error is written to the console and ends the VM.
pub(crate) fn main() -> ! {
    // A write to the pipe of a program that has closed its stdin must not kill PID 1.
    crate::sys::process::ignore_broken_pipes();
    if let Err(error) = run() {
        let _ = fs::write("/dev/kmsg", format!("<2>hull: {error}\n"));
        eprintln!("hull: guest: {error}");
    }
    event::sync();
    let _ = event::reboot();
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn run() -> Result<()> {
    file::umask(0o022);
    boot::mount_kernel_filesystems()?;
    let mut modules = modules::Modules::read()?;
    modules.load_for_boot()?;
    boot::leave_initramfs()?;
    let port = boot::open_channel_port()?;
    agent::Agent::new(port, modules)?.serve()
}
