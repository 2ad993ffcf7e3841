//! QEMU's command line, and the kernel's within it.

use super::{Accelerator, VmConfig};
use crate::vm::boot::disk::{OpenDisk, serial};
use crate::vm::channel::message;
use std::path::Path;

/// The id of the virtio-mem device, in QEMU's object tree below `/machine/peripheral`.
pub(super) const HOTPLUG_ID: &str = "hotplug";

/// The sockets of QEMU's character devices, as descriptor numbers.
#[derive(Clone, Copy)]
pub(super) struct Chardevs {
    /// The virtio-console port of the channel.
    pub channel: i32,
    /// QMP.
    pub qmp: i32,
    /// The serial console.
    pub console: i32,
}

/// QEMU's arguments, the program's name first.
pub(super) fn arguments(config: &VmConfig, program: &Path, chardevs: Chardevs) -> Vec<String> {
    let Chardevs {
        channel,
        qmp,
        console,
    } = chardevs;
    let memory = config.memory;
    let (accelerator, model) = match config.accelerator {
        Accelerator::Kvm => ("kvm", "host"),
        Accelerator::Tcg => ("tcg,thread=multi,tb-size=128", "max,la57=off"),
    };
    let mut args: Vec<String> = vec![
        program.display().to_string(),
        "-name".into(),
        format!("hull-{}", config.id),
    ];
    let mut add = |text: &str| args.extend(text.split(' ').map(str::to_owned));
    add("-nodefaults -no-user-config -no-reboot -display none");
    add("-machine q35,memory-backend=ram,vmport=off");
    add(&format!(
        "-accel {accelerator} -cpu {model} -smp {} -m {}",
        config.cpus,
        memory_size(config)
    ));
    add(&format!(
        "-object memory-backend-memfd,id=ram,size={memory},share=on"
    ));
    add("-kernel /kernel -initrd /initramfs");
    add("-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    add(&format!(
        "-chardev socket,id=console,fd={console} -serial chardev:console"
    ));
    add(&format!(
        "-chardev socket,id=monitor,fd={qmp} -mon chardev=monitor,mode=control"
    ));
    add(&format!(
        "-chardev socket,id=channel,fd={channel} -device virtio-serial-pci,max_ports=2"
    ));
    add(&format!(
        "-device virtserialport,chardev=channel,name={}",
        message::PORT
    ));
    add("-device virtio-rng-pci");
    add("-device virtio-balloon-pci,free-page-reporting=on,deflate-on-oom=on");
    if let Some(hotplug) = config.hotplug {
        add(&format!(
            "-object memory-backend-memfd,id=plug,size={},share=on",
            whole_blocks(hotplug.size)
        ));
        add(&format!(
            "-device virtio-mem-pci,id={HOTPLUG_ID},memdev=plug,block-size=2M,requested-size={}",
            hotplug.plugged
        ));
    }
    if let Some(share) = &config.share {
        add(&format!(
            "-chardev socket,id=share,fd={} -device vhost-user-fs-pci,chardev=share,tag={}",
            share.0,
            crate::vm::share::TAG
        ));
    }
    for (index, tap) in config.taps.iter().enumerate() {
        add(&format!("-netdev tap,id=net{index},fd={}", tap.fd.0));
        add(&format!(
            "-device virtio-net-pci,netdev=net{index},mac={},romfile=",
            tap.mac
        ));
    }
    args.extend(disk_arguments(&config.disks));
    args.push("-append".into());
    args.push(kernel_command_line(config));
    args
}

/// Each disk by a descriptor set, so that QEMU opens no file.
fn disk_arguments(disks: &[OpenDisk]) -> Vec<String> {
    let mut args: Vec<[String; 2]> = Vec::new();
    for (index, OpenDisk { fd, disk }) in disks.iter().enumerate() {
        let driver = if disk.device == 0 {
            "file"
        } else {
            "host_device"
        };
        let access = if disk.read_only {
            "read-only=on"
        } else {
            "read-only=off"
        };
        let set = index + 1;
        let file = format!(
            "driver={driver},node-name=file{index},filename=/dev/fdset/{set},{access},\
                auto-read-only=off"
        );
        let format = format!(
            "driver={},node-name=disk{index},file=file{index},{access}",
            disk.format
        );
        let device = format!("virtio-blk-pci,drive=disk{index},serial={}", serial(index));
        let options = [
            ("-add-fd", format!("fd={},set={set}", fd.0)),
            ("-blockdev", file),
            ("-blockdev", format),
            ("-device", device),
        ];
        args.extend(options.map(|(name, value)| [name.to_owned(), value]));
    }
    args.into_iter().flatten().collect()
}

/// The kernel's command line. The serial console shows only what a kernel prints when it panics:
/// each byte there costs a VM exit.
fn kernel_command_line(config: &VmConfig) -> String {
    let mark = format!("{}=1", message::MARK);
    let common = [
        "console=ttyS0,115200",
        "quiet",
        "loglevel=3",
        "panic=-1",
        "reboot=t",
        "cgroup_no_v1=all",
        "random.trust_cpu=on",
        "audit=0",
        &mark,
    ];
    // Under emulation, mitigations and KASLR make the guest slow and protect nothing: the emulated
    // CPU does not speculate, and hull confines QEMU as it confines a container.
    let emulated = [
        "mitigations=off",
        "tsc=reliable",
        "no_timer_check",
        "nokaslr",
    ];
    // Hot-plugged memory goes to ZONE_MOVABLE, so that all of it can be unplugged.
    let hotplug = config.hotplug.map(|_| "memhp_default_state=online_movable");
    let words = common.into_iter().chain(hotplug).chain(
        emulated
            .into_iter()
            .filter(|_| config.accelerator == Accelerator::Tcg),
    );
    words
        .map(str::to_owned)
        .chain(config.kernel_parameters.iter().cloned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The kernel plugs memory in by whole memory blocks of 128 MiB and ignores the rest of a device
/// (arch/x86/mm/init_64.c, MIN_MEMORY_BLOCK_SIZE).
fn whole_blocks(bytes: u64) -> u64 {
    bytes.next_multiple_of(128 << 20)
}

/// The value of `-m`: memory at boot, and the end of the address range for hot-pluggable memory.
fn memory_size(config: &VmConfig) -> String {
    let megabytes = config.memory >> 20;
    match config.hotplug {
        None => format!("{megabytes}M"),
        Some(hotplug) => format!(
            "size={megabytes}M,maxmem={}M",
            megabytes + (whole_blocks(hotplug.size) >> 20)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fd::Fd;
    use crate::vm::boot::disk::Disk;
    use crate::vm::channel::message::Disk as Purpose;

    #[test]
    fn qemu_gets_descriptors_of_disks_and_no_paths() {
        let disk = Disk {
            path: "/secret".into(),
            device: 0,
            read_only: true,
            format: "raw".into(),
            purpose: Purpose::Image,
        };
        let args = disk_arguments(&[OpenDisk { fd: Fd(-1), disk }]).join(" ");
        assert!(
            !args.contains("/secret")
                && args.contains("-blockdev driver=file,node-name=file0,filename=/dev/fdset/1,")
                && args.contains("read-only=on,auto-read-only=off -blockdev"),
            "{args}"
        );
    }
}
