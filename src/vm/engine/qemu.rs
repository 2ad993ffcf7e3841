//! QEMU as the engine: its command line, and the backend around it.
//!
//! QEMU runs with the namespace backend: an unprivileged user without capabilities, namespaces of its
//! own (an empty network among them), a root that holds its program's libraries read-only and
//! nothing of the host's, QEMU's own system call filter, and no descriptors but those named on its
//! command line.

use crate::backend::Created;
use crate::backend::namespaces::{Namespaces, Role, Target};
use crate::backend::run;
use crate::facts::Facts;
use crate::namespaces::spawn::Child;
use crate::plan;
use crate::spec::Spec;
use crate::spec::config::Config;
use crate::step::draft::PlanRequest;
use crate::sys::fd::Fd;
use crate::sys::{file, process};
use crate::vm::channel::message;
use crate::vm::engine::qmp::{Qmp, Said};
use crate::vm::engine::{Accelerator, Boot, Happened};
use crate::vm::stdio::stream_pair;
use crate::{Context, Error, Result};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Where Debian, Fedora, Arch and Alpine have it.
const PROGRAMS: [&str; 3] = [
    "/usr/bin/qemu-system-x86_64",
    "/usr/libexec/qemu-kvm",
    "/usr/local/bin/qemu-system-x86_64",
];
/// Where QEMU's object tree has the memory that can be plugged in.
pub const MORE: &str = "/machine/peripheral/more";
/// Who QEMU is: nobody.
const NOBODY: u32 = 65534;

/// A QEMU that runs.
pub struct Machine {
    child: Child,
    /// Its language.
    pub qmp: Qmp,
    /// What it says on stdout and stderr.
    words: Fd,
}

impl Machine {
    /// Starts one.
    ///
    /// # Errors
    /// It is not installed; the backend's.
    pub fn boot(boot: Boot) -> Result<(Self, Fd, Fd)> {
        let program = find(boot.program)?;
        let (channel, channel_far) = stream_pair()?;
        let (monitor, monitor_far) = stream_pair()?;
        let (console, console_far) = stream_pair()?;
        let words = Fd(file::memfd(c"hull:qemu", 0).on("make", "a memory file")?);
        let args = command_line(
            &boot,
            &program,
            [channel_far.0, monitor_far.0, console_far.0],
        );
        let handed = [channel_far.0, monitor_far.0, console_far.0]
            .into_iter()
            .chain(boot.share.iter().map(|held| held.0))
            .chain(boot.taps.iter().map(|tap| tap.fd.0))
            .chain(boot.disks.iter().map(|disk| disk.fd.0));
        let handed: Vec<i32> = handed.collect();
        // The program gets the descriptors up to the last of these; all others close at execve.
        handed
            .iter()
            .try_for_each(|raw| file::clear_cloexec(*raw))
            .on("hand", "descriptors to QEMU")?;
        let last = handed.iter().copied().max().unwrap_or(2);
        let null = file::openat(libc::AT_FDCWD, c"/dev/null", libc::O_RDONLY, 0)
            .map(Fd)
            .on("open", "/dev/null")?;
        let own = crate::vm::stdio::own()?;
        for (from, to) in [(null.0, 0), (words.0, 1), (words.0, 2)] {
            file::dup_to(from, to).on("set", "QEMU's stdio")?;
        }
        let child = under_own_plan(&boot, args, last);
        for (number, held) in own.iter().enumerate() {
            file::dup_to(held.0, number as i32).on("set", "stdio")?;
        }
        let child = child?;
        let qmp = Qmp::new(monitor)?;
        Ok((Self { child, qmp, words }, channel, console))
    }

    /// Its process.
    pub fn pidfd(&self) -> i32 {
        self.child.pidfd.0
    }

    /// What it has answered.
    ///
    /// # Errors
    /// It is gone.
    pub fn listen(&mut self) -> Result<Vec<Happened>> {
        let said = self.qmp.read()?;
        Ok(said
            .into_iter()
            .map(|said| match said {
                Said::Answer(answer) => Happened::Answered(answer.map(plain)),
                Said::Event(_) => Happened::Nothing,
            })
            .collect())
    }

    /// Ends it; what it said.
    pub fn kill(&mut self) -> String {
        let _ = process::pidfd_send_signal(self.child.pidfd.0, libc::SIGKILL);
        let _ = process::wait(self.child.pidfd.0, false);
        let mut text = [0_u8; 4096];
        let _ = file::rewind(self.words.0);
        let count = file::read(self.words.0, &mut text).unwrap_or(0);
        // Emulation lacks some of what its own model of a processor promises, and says so each
        // time.
        let lines = String::from_utf8_lossy(&text[..count]);
        lines
            .lines()
            .filter(|line| !line.contains("TCG doesn't support requested feature"))
            .collect::<Vec<_>>()
            .join("; ")
    }
}

/// The number itself, where QEMU answers with a structure around it (BalloonInfo: bytes of the
/// memory at boot that the guest's driver says it has not given to the balloon).
fn plain(answer: Value) -> Value {
    answer.get("actual").cloned().unwrap_or(answer)
}

fn find(named: Option<&Path>) -> Result<PathBuf> {
    let candidates: Vec<PathBuf> = named.map_or_else(
        || PROGRAMS.iter().map(PathBuf::from).collect(),
        |path| vec![path.to_owned()],
    );
    let found = candidates.iter().find(|path| path.is_file()).cloned();
    found.ok_or_else(|| {
        Error::new(format!(
            "no QEMU at {}: install qemu-system-x86",
            candidates
                .iter()
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>()
                .join(", ")
        ))
    })
}

/// The kernel's command line. The serial console is for what a dying kernel says: each byte there
/// costs an exit.
fn kernel_words(boot: &Boot) -> String {
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
    // Emulation is slow where a guest guards against a processor that is not there, and against
    // nobody: QEMU is the backend's inner side.
    let emulated = [
        "mitigations=off",
        "tsc=reliable",
        "no_timer_check",
        "nokaslr",
    ];
    // What can be plugged in goes where all of it can be given back.
    let plugged = boot.more.map(|_| "memhp_default_state=online_movable");
    let words = common.into_iter().chain(plugged).chain(
        emulated
            .into_iter()
            .filter(|_| boot.accelerator == Accelerator::Tcg),
    );
    words
        .map(str::to_owned)
        .chain(boot.parameters.iter().cloned())
        .collect::<Vec<_>>()
        .join(" ")
}

fn command_line(boot: &Boot, program: &Path, [channel, monitor, console]: [i32; 3]) -> Vec<String> {
    let memory = boot.memory;
    let accelerator = match boot.accelerator {
        Accelerator::Kvm => "kvm".to_owned(),
        Accelerator::Tcg => "tcg,thread=multi,tb-size=128".to_owned(),
    };
    let model = if boot.accelerator == Accelerator::Kvm {
        "host"
    } else {
        "max,la57=off"
    };
    let mut args: Vec<String> = vec![
        program.display().to_string(),
        "-name".into(),
        format!("hull-{}", boot.id),
    ];
    let mut add = |text: &str| args.extend(text.split(' ').map(str::to_owned));
    add(
        "-nodefaults -no-user-config -no-reboot -display none -machine \
            q35,memory-backend=ram,vmport=off",
    );
    add(&format!(
        "-accel {accelerator} -cpu {model} -smp {} -m {}",
        boot.cpus,
        memory_size(boot)
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
        "-chardev socket,id=monitor,fd={monitor} -mon chardev=monitor,mode=control"
    ));
    add(&format!(
        "-chardev socket,id=channel,fd={channel} -device virtio-serial-pci,max_ports=2"
    ));
    add(&format!(
        "-device virtserialport,chardev=channel,name={}",
        message::PORT
    ));
    add("-device virtio-rng-pci -device \
            virtio-balloon-pci,free-page-reporting=on,deflate-on-oom=on");
    if let Some((more, plugged)) = boot.more {
        add(&format!(
            "-object memory-backend-memfd,id=plug,size={},share=on",
            whole_blocks(more)
        ));
        add(&format!(
            "-device virtio-mem-pci,id=more,memdev=plug,block-size=2M,requested-size={plugged}"
        ));
    }
    if let Some(share) = &boot.share {
        add(&format!(
            "-chardev socket,id=share,fd={} -device vhost-user-fs-pci,chardev=share,tag={}",
            share.0,
            crate::vm::share::TAG
        ));
    }
    for (index, tap) in boot.taps.iter().enumerate() {
        add(&format!(
            "-netdev tap,id=net{index},fd={} -device \
                virtio-net-pci,netdev=net{index},mac={},romfile=",
            tap.fd.0, tap.hardware
        ));
    }
    args.extend(crate::vm::boot::disk::arguments(&boot.disks));
    args.push("-append".into());
    args.push(kernel_words(boot));
    args
}

/// The kernel plugs memory in by blocks of this, and leaves the rest of a device alone
/// (arch/x86/mm/init_64.c, MIN_MEMORY_BLOCK_SIZE).
fn whole_blocks(bytes: u64) -> u64 {
    bytes.next_multiple_of(128 << 20)
}

/// Memory at boot, and the addresses that there are for more.
fn memory_size(boot: &Boot) -> String {
    let megabytes = boot.memory >> 20;
    boot.more.map_or(format!("{megabytes}M"), |(more, _)| {
        format!(
            "size={megabytes}M,maxmem={}M",
            megabytes + (whole_blocks(more) >> 20)
        )
    })
}

/// QEMU's own container.
fn config(boot: &Boot, args: &[String], group: u32) -> Value {
    let read_only = |destination: &str, source: &Path| json!({ "destination": destination, "type": "bind", "source": source, "options": ["rbind", "ro", "nosuid", "nodev"] });
    let mut mounts = vec![
        json!({ "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "nodev", "noexec"] }),
        json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"] }),
        read_only("/kernel", &boot.kernel.image),
        read_only("/initramfs", boot.initramfs),
    ];
    for directory in [
        "/usr",
        "/lib",
        "/lib64",
        "/bin",
        "/etc/ld.so.cache",
        "/etc/alternatives",
    ] {
        if Path::new(directory).exists() {
            mounts.push(read_only(directory, Path::new(directory)));
        }
    }
    let mut devices = Vec::new();
    if boot.accelerator == Accelerator::Kvm {
        devices.push(json!({ "path": "/dev/kvm", "type": "c", "major": 10, "minor": 232, "fileMode": 0o660, "uid": 0, "gid": group }));
    }
    let kinds = ["mount", "pid", "ipc", "uts", "network"].map(|kind| json!({ "type": kind }));
    json!({
        // An ordinary user's groups stay: setgroups(2) may be denied, and /dev/kvm is for one of
        // them.
        "annotations": { "run.oci.keep_original_groups": if boot.own.is_some() { "1" } else { "0" } },
        "ociVersion": "1.3.0",
        "root": { "path": "rootfs", "readonly": true },
        "mounts": mounts,
        "process": {
            "user": { "uid": boot.own.map_or(NOBODY, |own| own.unprivileged(NOBODY)), "gid": group }, "args": args, "env": ["PATH=/usr/bin:/bin"], "cwd": "/", "noNewPrivileges": true,
        },
        "linux": { "namespaces": kinds, "devices": devices },
    })
}

fn under_own_plan(boot: &Boot, args: Vec<String>, last: i32) -> Result<Child> {
    let directory = boot.directory.join("machine");
    std::fs::create_dir_all(directory.join("rootfs")).on("make", directory.display())?;
    let group = std::fs::metadata("/dev/kvm")
        .map_or(NOBODY, |meta| std::os::unix::fs::MetadataExt::gid(&meta));
    let group = match boot.own {
        Some(own) => own.unprivileged(NOBODY),
        None if boot.accelerator == Accelerator::Kvm => group,
        None => NOBODY,
    };
    let config: Config = serde_json::from_value(config(boot, &args, group))
        .map_err(|error| Error::new(format!("QEMU's own config: {error}")))?;
    let spec = Spec::check(config, directory.clone())?;
    let facts = Facts::probe(&spec)?;
    let request = PlanRequest {
        id: boot.id.to_owned(),
        no_new_keyring: true,
        preserve_fds: (last - 2).max(0) as u32,
        dies_with_parent: true,
        ..PlanRequest::default()
    };
    let plan = plan::plan(&spec, &facts, &request)?;
    let mut unrecorded = |_: i32,
                          _: Option<crate::cgroups::group::Record>,
                          _: Vec<crate::state::PolicyOutcome>| Ok(());
    let mut namespaces = Namespaces {
        target: Target {
            spec: &spec,
            id: boot.id,
            directory: &directory,
        },
        plan: &plan,
        console: None,
        fresh_init: false,
        role: Role::Create(&mut unrecorded),
    };
    let done = run::run(&plan.host, plan.slots, &directory, &mut namespaces)
        .map_err(|error| error.within("QEMU"))?;
    let made = Created::of(done, plan)?;
    file::write(made.start.0, b"0").on("start", "QEMU")?;
    Ok(made.child)
}
