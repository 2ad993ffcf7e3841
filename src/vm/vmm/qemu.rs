//! QEMU as the VMM.
//!
//! QEMU runs as a container of the namespace backend: as an unprivileged user without
//! capabilities, in namespaces of its own (a network namespace without interfaces among them), with
//! a root that has the libraries of its program read-only and nothing else of the host, with
//! QEMU's own seccomp filter, and with no descriptors but those that its command line names.

use super::command_line::{self, Chardevs, HOTPLUG_ID};
use super::qmp::{Message, Qmp};
use super::{Accelerator, VmConfig};
use crate::backend::namespaces::{Namespaces, Role, Target};
use crate::backend::{Created, run};
use crate::facts::Facts;
use crate::namespaces::spawn::Child;
use crate::plan;
use crate::spec::Spec;
use crate::spec::config::Config;
use crate::step::draft::PlanRequest;
use crate::sys::fd::Fd;
use crate::sys::{file, process};
use crate::vm::stdio::stream_pair;
use crate::{Context, Error, Result};
use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where the packages of Debian and Arch, of Fedora, and a local installation have QEMU.
const PROGRAMS: [&str; 3] = [
    "/usr/bin/qemu-system-x86_64",
    "/usr/libexec/qemu-kvm",
    "/usr/local/bin/qemu-system-x86_64",
];
/// QEMU's directory in the container's directory: its bundle, with an empty `rootfs`.
const BUNDLE: &str = "qemu";
/// The user and group `nobody`.
const NOBODY: u32 = 65534;

/// A running QEMU process.
///
/// Each command is answered later, in the order of the commands: see [`Qemu::replies`].
pub(crate) struct Qemu {
    child: Child,
    qmp: Qmp,
    /// A memfd with what QEMU wrote to stdout and stderr.
    output: Fd,
}

/// A QEMU process that was started, and hull's ends of its sockets.
pub(crate) struct Started {
    /// The process.
    pub qemu: Qemu,
    /// The channel's virtio-console port.
    pub channel: Fd,
    /// The serial console.
    pub console: Fd,
}

impl Qemu {
    /// Starts QEMU. The caller must have one thread only, since hull clones.
    ///
    /// # Errors
    /// QEMU is not installed; a descriptor cannot be created; the namespace backend cannot create
    /// QEMU's container, or its program cannot be executed.
    pub fn start(config: VmConfig) -> Result<Started> {
        let program = find(config.program)?;
        let (channel, channel_far) = stream_pair()?;
        let (qmp, qmp_far) = stream_pair()?;
        let (console, console_far) = stream_pair()?;
        let output = Fd(file::memfd(c"hull:qemu", 0).on("create", "a memfd for QEMU's output")?);
        let chardevs = Chardevs {
            channel: channel_far.0,
            qmp: qmp_far.0,
            console: console_far.0,
        };
        let args = command_line::arguments(&config, &program, chardevs);
        let passed: Vec<i32> = [channel_far.0, qmp_far.0, console_far.0]
            .into_iter()
            .chain(config.share.iter().map(|socket| socket.0))
            .chain(config.taps.iter().map(|tap| tap.fd.0))
            .chain(config.disks.iter().map(|disk| disk.fd.0))
            .collect();
        // The container gets all descriptors up to the last of these. The others among them are
        // close-on-exec.
        passed
            .iter()
            .try_for_each(|fd| file::clear_cloexec(*fd))
            .on("pass", "descriptors to QEMU")?;
        let last = passed.iter().copied().max().unwrap_or(2);
        let null = file::openat(libc::AT_FDCWD, c"/dev/null", libc::O_RDONLY, 0)
            .map(Fd)
            .on("open", "/dev/null")?;
        let stdio = crate::vm::stdio::copy_own()?;
        for (from, to) in [(null.0, 0), (output.0, 1), (output.0, 2)] {
            file::dup_to(from, to).on("set", "QEMU's stdio")?;
        }
        let child = spawn_confined(&config, args, last);
        for (number, fd) in stdio.iter().enumerate() {
            file::dup_to(fd.0, number as i32).on("restore", "stdio")?;
        }
        let child = child?;
        let qmp = Qmp::new(qmp)?;
        Ok(Started {
            qemu: Self { child, qmp, output },
            channel,
            console,
        })
    }

    /// The pidfd of QEMU's process, which poll(2) reports as readable when QEMU has ended.
    pub fn pidfd(&self) -> i32 {
        self.child.pidfd.0
    }

    /// The QMP socket, which poll(2) reports as readable when there are replies.
    pub fn qmp_descriptor(&self) -> i32 {
        self.qmp.descriptor()
    }

    /// The replies that have come since the last call, each for the oldest command without one:
    /// its value, or the reason why QEMU refused it.
    ///
    /// # Errors
    /// QEMU has closed the QMP socket, or sent something that is not QMP.
    pub fn replies(&mut self) -> Result<Vec<Result<Value, String>>> {
        let messages = self.qmp.read()?;
        Ok(messages
            .into_iter()
            .filter_map(|message| match message {
                Message::Reply(reply) => Some(reply.map(number)),
                Message::Event => None,
            })
            .collect())
    }

    /// Stops the virtual CPUs (QMP `stop`).
    ///
    /// # Errors
    /// The command cannot be written: QEMU has ended.
    pub fn pause(&mut self) -> Result<()> {
        self.qmp.command("stop", json!({}))
    }

    /// Resumes the virtual CPUs (QMP `cont`).
    ///
    /// # Errors
    /// As [`Qemu::pause`].
    pub fn resume(&mut self) -> Result<()> {
        self.qmp.command("cont", json!({}))
    }

    /// Sets what the balloon leaves the guest of the memory at boot, in bytes (QMP `balloon`). The
    /// guest inflates or deflates the balloon later.
    ///
    /// # Errors
    /// As [`Qemu::pause`].
    pub fn set_balloon(&mut self, bytes: u64) -> Result<()> {
        self.qmp.command("balloon", json!({ "value": bytes }))
    }

    /// Asks how much the balloon leaves the guest of the memory at boot, in bytes.
    ///
    /// # Errors
    /// As [`Qemu::pause`].
    pub fn query_balloon(&mut self) -> Result<()> {
        self.qmp.command("query-balloon", json!({}))
    }

    /// Sets how much of the hot-pluggable memory the guest is to have, in bytes (property
    /// `requested-size` of virtio-mem). The guest plugs or unplugs it later.
    ///
    /// # Errors
    /// As [`Qemu::pause`].
    pub fn set_plugged(&mut self, bytes: u64) -> Result<()> {
        let path = hotplug_path();
        let arguments = json!({ "path": path, "property": "requested-size", "value": bytes });
        self.qmp.command("qom-set", arguments)
    }

    /// Asks how much of the hot-pluggable memory the guest has, in bytes.
    ///
    /// # Errors
    /// As [`Qemu::pause`].
    pub fn query_plugged(&mut self) -> Result<()> {
        let arguments = json!({ "path": hotplug_path(), "property": "size" });
        self.qmp.command("qom-get", arguments)
    }

    /// Kills QEMU and waits for its end; returns what it wrote to stdout and stderr.
    pub fn kill(&mut self) -> String {
        let _ = process::pidfd_send_signal(self.child.pidfd.0, libc::SIGKILL);
        let _ = process::wait(self.child.pidfd.0, false);
        let mut text = [0_u8; 4096];
        let _ = file::rewind(self.output.0);
        let count = file::read(self.output.0, &mut text).unwrap_or(0);
        // TCG does not have all features of the CPU model `max`, and QEMU warns of each.
        let lines = String::from_utf8_lossy(&text[..count]);
        lines
            .lines()
            .filter(|line| !line.contains("TCG doesn't support requested feature"))
            .collect::<Vec<_>>()
            .join("; ")
    }
}

/// The virtio-mem device in QEMU's object tree.
fn hotplug_path() -> String {
    format!("/machine/peripheral/{HOTPLUG_ID}")
}

/// `query-balloon` answers with a structure: BalloonInfo, whose `actual` is the memory at boot
/// less the balloon, in bytes. All other replies are used as they are.
fn number(reply: Value) -> Value {
    reply.get("actual").cloned().unwrap_or(reply)
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

/// The config of QEMU's container.
fn container_config(config: &VmConfig, args: &[String], group: u32) -> Value {
    let read_only = |destination: &str, source: &Path| {
        json!({
            "destination": destination,
            "type": "bind",
            "source": source,
            "options": ["rbind", "ro", "nosuid", "nodev"],
        })
    };
    let mut mounts = vec![
        json!({
            "destination": "/proc",
            "type": "proc",
            "source": "proc",
            "options": ["nosuid", "nodev", "noexec"],
        }),
        json!({
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "mode=755", "size=65536k"],
        }),
        read_only("/kernel", &config.kernel.image),
        read_only("/initramfs", config.initramfs),
    ];
    for path in [
        "/usr",
        "/lib",
        "/lib64",
        "/bin",
        "/etc/ld.so.cache",
        "/etc/alternatives",
    ] {
        if Path::new(path).exists() {
            mounts.push(read_only(path, Path::new(path)));
        }
    }
    let mut devices = Vec::new();
    if config.accelerator == Accelerator::Kvm {
        devices.push(json!({
            "path": "/dev/kvm",
            "type": "c",
            "major": 10,
            "minor": 232,
            "fileMode": 0o660,
            "uid": 0,
            "gid": group,
        }));
    }
    let user = config
        .id_maps
        .map_or(NOBODY, |maps| maps.unprivileged(NOBODY));
    let namespaces = ["mount", "pid", "ipc", "uts", "network"].map(|kind| json!({ "type": kind }));
    // Rootless, QEMU keeps the supplementary groups of hull's user: one of them may give access to
    // /dev/kvm, and setgroups(2) may be denied in the user namespace.
    let keep_groups = if config.id_maps.is_some() { "1" } else { "0" };
    json!({
        "ociVersion": "1.3.0",
        "annotations": { "run.oci.keep_original_groups": keep_groups },
        "root": { "path": "rootfs", "readonly": true },
        "mounts": mounts,
        "process": {
            "user": { "uid": user, "gid": group },
            "args": args,
            "env": ["PATH=/usr/bin:/bin"],
            "cwd": "/",
            "noNewPrivileges": true,
        },
        "linux": { "namespaces": namespaces, "devices": devices },
    })
}

/// Starts QEMU in its container. It inherits the descriptors up to `last`.
fn spawn_confined(config: &VmConfig, args: Vec<String>, last: i32) -> Result<Child> {
    let directory = config.directory.join(BUNDLE);
    std::fs::create_dir_all(directory.join("rootfs")).on("create", directory.display())?;
    let group = match config.id_maps {
        Some(maps) => maps.unprivileged(NOBODY),
        None if config.accelerator == Accelerator::Kvm => {
            std::fs::metadata("/dev/kvm").map_or(NOBODY, |meta| meta.gid())
        }
        None => NOBODY,
    };
    let container: Config = serde_json::from_value(container_config(config, &args, group))
        .map_err(|error| Error::new(format!("config of QEMU's container: {error}")))?;
    let spec = Spec::check(container, directory.clone())?;
    let facts = Facts::probe(&spec)?;
    let request = PlanRequest {
        id: config.id.to_owned(),
        no_new_keyring: true,
        preserve_fds: (last - 2).max(0) as u32,
        dies_with_parent: true,
        ..PlanRequest::default()
    };
    let plan = plan::plan(&spec, &facts, &request)?;
    let mut no_record = |_: crate::state::Made| Ok(());
    let mut namespaces = Namespaces {
        target: Target {
            spec: &spec,
            id: config.id,
            directory: &directory,
        },
        plan: &plan,
        console: None,
        fresh_init: false,
        role: Role::Create(&mut no_record),
    };
    let done = run::run(&plan.host, plan.slots, &directory, &mut namespaces)
        .map_err(|error| error.within("QEMU"))?;
    let created = Created::of(done, plan)?;
    file::write(created.start.0, b"0").on("start", "QEMU")?;
    Ok(created.child)
}
