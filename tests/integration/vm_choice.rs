//! What chooses the second wall, what a machine is made of, and what becomes of one that does not
//! come up or does not live.

use crate::support::leaks;
use crate::support::machine::{LIMIT, Machine};
use crate::support::runtime::{Container, Output, finish, path, text, until};
use crate::support::{Bundle, fixture};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

tests![
    the_name_hull_vm_chooses_the_wall,
    what_the_file_of_defaults_says_wrong_is_an_error,
    kvm_is_taken_where_it_can_run_a_kernel,
    qemu_is_confined_and_its_end_is_the_containers,
    a_guest_that_hangs_is_an_error_in_time,
    a_machine_that_does_not_answer_can_be_ended,
    a_machine_that_stops_in_a_hook_does_not_hold_run,
];

/// Another for each boot of a kernel: the test machine runs the kernel that its own guests run.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// A file of defaults.
fn defaults(content: &str) -> PathBuf {
    let path = fixture::new_dir("defaults").join("config.toml");
    fs::write(&path, content).unwrap();
    path
}

fn make(machine: &Machine, flags: &[&str], verb: &str, more: &[&str]) -> Output {
    machine.bundle.write();
    let dir = machine.bundle.dir.display().to_string();
    let args = [
        flags,
        &[verb],
        more,
        &["--bundle", &dir, &machine.bundle.id],
    ]
    .concat();
    finish(machine.bundle.runtime.command(&args), LIMIT)
}

/// As an engine calls it: no option says anything of a machine. Which kernel, and how much memory,
/// the file of defaults says.
fn the_name_hull_vm_chooses_the_wall() {
    only_hull!("the second wall");
    let mut machine = Machine::sh("exec sleep 1000");
    let link = fixture::new_dir("bin").join("hull-vm");
    symlink(path(), &link).unwrap();
    machine.bundle.runtime.program = link;
    let file = defaults(&format!(
        "[vm]\nkernel = {:?}\nmemory = \"300m\"\nengine = \"qemu\"\n",
        machine.kernel
    ));
    machine
        .bundle
        .runtime
        .env
        .push(("HULL_CONFIG".into(), file.display().to_string()));
    let container = Container::new(&machine.bundle);
    make(&machine, &[], "create", &[]).success();
    assert_eq!(container.proc_file("comm").trim(), "hull-vm");
    container.start();
    let own = text(BOOT);
    let seen = container
        .exec(&[
            "sh",
            "-c",
            "cat /proc/sys/kernel/random/boot_id; sed -n \
        's/MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo",
        ])
        .success()
        .stdout;
    let (boot, memory) = seen.trim().split_once('\n').unwrap();
    assert_ne!(boot, own.trim(), "a kernel of its own");
    assert!(
        (150 << 10..300 << 10).contains(&memory.parse::<u64>().unwrap()),
        "{memory} KiB"
    );
    container.kill("KILL").success();
    container.wait_for("stopped");
    drop(container);

    machine
        .bundle
        .set("/annotations", json!({ "org.hull.backend": "namespaces" }));
    machine.bundle.args(&["/bin/cat", BOOT]);
    assert_eq!(
        make(&machine, &[], "run", &[]).success().stdout,
        own,
        "the container's own word goes before the name"
    );
}

fn what_the_file_of_defaults_says_wrong_is_an_error() {
    only_hull!("the file of defaults");
    let mut bundle = Bundle::sh("echo here");
    bundle.write();
    let dir = bundle.dir.display().to_string();
    let wrong = defaults("[vm]\nmemory = \"1g\"\nmemroy = \"1g\"\n");
    bundle
        .runtime
        .env
        .push(("HULL_CONFIG".into(), wrong.display().to_string()));
    let said = bundle
        .call(&["run", "--vm", "--bundle", &dir, &bundle.id])
        .failure();
    assert_has!(said, "config.toml: line 3: unknown field `memroy`");
    // Who needs nothing of it does not read it.
    assert_eq!(
        bundle
            .call(&["run", "--bundle", &dir, &bundle.id])
            .success()
            .stdout,
        "here\n"
    );
    let missing = bundle
        .call(&[
            "--config",
            "/nonexistent/file",
            "run",
            "--vm",
            "--bundle",
            &dir,
            &bundle.id,
        ])
        .failure();
    assert_has!(missing, "/nonexistent/file");
}

/// `kvm` runs, or is an error that says why this machine's device cannot; `auto` does the one or
/// says the same in the log and emulates. `HULL_TEST_KVM` is set where it must run.
fn kvm_is_taken_where_it_can_run_a_kernel() {
    only_hull!("the second wall");
    let machine = Machine::sh("echo here");
    let kernel = machine.kernel.display().to_string();
    let with = |engine: &str, log: &str| {
        make(
            &machine,
            &["--log", log],
            "run",
            &["--vm", "--vm-kernel", &kernel, "--vm-engine", engine],
        )
    };
    let folder = fixture::new_dir("logs");
    let (asked, left) = (folder.join("kvm"), folder.join("auto"));
    let by_kvm = with("kvm", asked.to_str().unwrap());
    if std::env::var_os("HULL_TEST_KVM").is_some() || by_kvm.status == 0 {
        assert_eq!(by_kvm.status, 0, "{}", by_kvm.stderr);
        assert_eq!(by_kvm.stdout, "here\n");
    } else {
        assert_has!(by_kvm.stderr, "/dev/kvm");
    }
    assert_eq!(
        with("auto", left.to_str().unwrap()).success().stdout,
        "here\n"
    );
    let said = text(&left);
    assert_eq!(
        said.matches("the machine is emulated, which is slow")
            .count(),
        usize::from(by_kvm.status != 0),
        "{said}"
    );
    assert_eq!(said.contains("/dev/kvm"), by_kvm.status != 0, "{said}");
}

/// A child of a process, by its name.
fn child_named(parent: i32, name: &str) -> i32 {
    let children = text(format!("/proc/{parent}/task/{parent}/children"));
    let found = children
        .split_whitespace()
        .find(|pid| text(format!("/proc/{pid}/comm")).starts_with(name));
    found
        .unwrap_or_else(|| panic!("no child {name} among {children}"))
        .parse()
        .unwrap()
}

fn qemu_is_confined_and_its_end_is_the_containers() {
    only_hull!("the second wall");
    let machine = Machine::sh("exec sleep 1000");
    let container = machine.create(&[]);
    container.start();
    let monitor = container.pid();
    let qemu = child_named(monitor, "qemu-system");
    let status = text(format!("/proc/{qemu}/status"));
    let line = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}:")))
            .unwrap_or_else(|| panic!("no {name}"))
            .trim()
            .to_owned()
    };
    assert_eq!(line("Uid"), ["65534"; 4].join("\t"));
    assert_ne!(line("Gid").split('\t').next(), Some("0"));
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(line(set), "0000000000000000", "{set}");
    }
    assert_eq!(
        (line("NoNewPrivs").as_str(), line("Seccomp").as_str()),
        ("1", "2")
    );
    let namespace =
        |pid: &str, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    for kind in ["mnt", "pid", "ipc", "uts", "net"] {
        assert_ne!(
            namespace(&qemu.to_string(), kind),
            namespace("self", kind),
            "{kind}"
        );
        assert_ne!(
            (kind, namespace(&qemu.to_string(), kind)),
            ("net", namespace(&monitor.to_string(), "net"))
        );
    }
    // Its root is its own, and read only: no home, no bundle, no socket of the host's.
    let root = PathBuf::from(format!("/proc/{qemu}/root"));
    for name in [
        "home",
        "root",
        "run",
        "var",
        "tmp",
        "etc/shadow",
        "etc/passwd",
        "sys",
    ] {
        assert!(!root.join(name).exists(), "{name}");
    }
    // Its descriptors: sockets, memory and events; a file only of those that hold its own words,
    // and what it maps.
    for entry in fs::read_dir(format!("/proc/{qemu}/fd")).unwrap().flatten() {
        let target = fs::read_link(entry.path()).unwrap().display().to_string();
        let harmless = [
            "socket:",
            "anon_inode:",
            "/memfd:",
            "pipe:",
            "/dev/null",
            "/dev/kvm",
            "/dev/net/tun",
            "/dev/urandom",
        ];
        assert!(
            harmless.iter().any(|start| target.starts_with(start)),
            "{} is {target}",
            entry.path().display()
        );
    }
    // Without it there is no machine, and without a machine no container.
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(qemu).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    container.wait_for("stopped");
    until("the monitor's end", || {
        leaks::is_zombie(monitor) || !Path::new(&format!("/proc/{monitor}")).exists()
    });
}

/// A kernel's header, and code that goes round in a circle where a bootloader enters it.
fn a_guest_that_hangs_is_an_error_in_time() {
    only_hull!("the second wall");
    let mut machine = Machine::sh("true");
    let folder = fixture::new_dir("kernel");
    let mut image = vec![0_u8; 8192];
    image[0x1f1] = 1;
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[0x200..0x202].copy_from_slice(&[0xeb, 0xfe]);
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x020c_u16.to_le_bytes());
    image[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
    image[0x211] = 1;
    image[0x22c..0x230].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    image[0x300..0x306].copy_from_slice(b"0.0.1\0");
    let kernel = folder.join("vmlinuz");
    fs::write(&kernel, image).unwrap();
    // Modules of its own, built in all: none is loaded.
    let modules = folder.join("lib/modules/0.0.1");
    fs::create_dir_all(&modules).unwrap();
    fs::write(modules.join("modules.dep"), "").unwrap();
    fs::write(
        modules.join("modules.builtin"),
        "kernel/virtio_pci.ko\nkernel/virtio_console.ko\nkernel/virtiofs.ko\n",
    )
    .unwrap();
    machine.kernel = kernel;
    let file = defaults("[vm]\nboot-timeout = 4\n");
    machine
        .bundle
        .runtime
        .env
        .push(("HULL_CONFIG".into(), file.display().to_string()));
    assert_has!(machine.refused(), "the guest did not come up within 4 s");
    assert!(
        !machine
            .bundle
            .runtime
            .state
            .join(&machine.bundle.id)
            .exists(),
        "its folder is there"
    );
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// The processes of a container's machine, and QEMU stopped where it stands.
fn freeze(container: &Container) -> [i32; 2] {
    let monitor = container.pid();
    let below = text(format!("/proc/{monitor}/task/{monitor}/children"));
    let mut pids = below
        .split_whitespace()
        .map(|pid| pid.parse::<i32>().unwrap());
    let qemu = pids
        .find(|pid| text(format!("/proc/{pid}/comm")).starts_with("qemu"))
        .unwrap();
    signal(qemu, Signal::STOP);
    [monitor, qemu]
}

/// A machine that stands still: what asks the guest ends in time and says how to end it, and both
/// ways of ending it do.
fn a_machine_that_does_not_answer_can_be_ended() {
    only_hull!("the second wall");
    let mut machine = Machine::sh(
        "trap 'echo one >>/dir/log' TERM; trap 'echo all >>/dir/log' USR1; echo out; exec >&- \
            2>&-; while :; do sleep 0.1; done",
    );
    let log = fixture::new_dir("volume").join("log");
    machine.bundle.mount(
        "/dir",
        "bind",
        log.parent().unwrap().to_str().unwrap(),
        &["rbind"],
    );
    let file = defaults("[vm]\nanswer-timeout = 2\n");
    machine
        .bundle
        .runtime
        .env
        .push(("HULL_CONFIG".into(), file.display().to_string()));
    machine.bundle.write();
    let gone = |pid: i32| leaks::is_zombie(pid) || !Path::new(&format!("/proc/{pid}")).exists();
    let (id, dir, kernel) = (
        machine.bundle.id.clone(),
        machine.bundle.dir.display().to_string(),
        machine.kernel.display().to_string(),
    );
    let container = Container::new(&machine.bundle);
    let mut create = machine.bundle.runtime.command(&[
        "create",
        "--vm",
        "--vm-kernel",
        &kernel,
        "--bundle",
        &dir,
        &id,
    ]);
    let mut create = leaks::spawn(
        create
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null()),
    )
    .unwrap();
    assert!(create.wait().unwrap().success());
    container.start();
    // The caller's stdout ends with the program's, though the machine goes on.
    let mut said = String::new();
    create
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(
        (said.as_str(), container.status().as_str()),
        ("out\n", "running")
    );
    let processes = freeze(&container);
    let ask = |words: &[&str]| machine.bundle.call(words);
    let help = format!(
        "does not answer (waited 2 s): hull kill {id} KILL or hull delete --force {id} ends it"
    );
    // A signal waits in it, as for a frozen program of the shared kernel; an engine goes on to the
    // next.
    for words in [&["kill", &id, "TERM"][..], &["kill", "--all", &id, "USR1"]] {
        assert_has!(
            ask(words).success().stderr,
            format!("the signal waits: the container's machine {help}")
        );
    }
    signal(processes[1], Signal::CONT);
    until("the signals that waited", || {
        ["one\n", "all\n"]
            .iter()
            .all(|word| text(&log).contains(word))
    });
    signal(processes[1], Signal::STOP);
    for words in [
        &["exec", &id, "true"][..],
        &["ps", &id],
        &["pause", &id],
        &["update", "--cpu-quota", "50000", &id],
        &["events", "--stats", &id],
    ] {
        let said = ask(words).failure();
        // It is given in small letters.
        assert!(said.contains(&help.to_lowercase()), "{words:?}: {said}");
    }
    assert_eq!(
        ask(&["state", &id])
            .success()
            .stdout
            .matches("\"running\"")
            .count(),
        1
    );
    ask(&["kill", &id, "KILL"]).success();
    until("the machine's end", || processes.into_iter().all(gone));
    ask(&["delete", &id]).success();

    let container = machine.create(&[]);
    let processes = freeze(&container);
    assert_has!(ask(&["start", &id]).failure(), help.to_lowercase());
    ask(&["delete", "--force", &id]).success();
    until("the machine's end", || processes.into_iter().all(gone));
    assert_ne!(machine.bundle.call(&["state", &id]).status, 0);
}

/// A hook may take its time, and a machine that has stopped is told from it: `run --detach` ends,
/// and nothing is left.
fn a_machine_that_stops_in_a_hook_does_not_hold_run() {
    only_hull!("the second wall");
    let mut machine = Machine::sh("exec sleep 1000");
    let (volume, said) = (
        fixture::new_dir("volume"),
        fixture::new_dir("said").join("stderr"),
    );
    machine
        .bundle
        .mount("/v", "bind", volume.to_str().unwrap(), &["rbind"]);
    machine.bundle.push(
        "/hooks/startContainer",
        json!({ "path": "/bin/sh", "args": ["sh", "-c", "echo >/v/here; exec sleep 1000"] }),
    );
    let file = defaults("[vm]\nanswer-timeout = 2\n");
    machine
        .bundle
        .runtime
        .env
        .push(("HULL_CONFIG".into(), file.display().to_string()));
    machine.bundle.write();
    let (id, dir, kernel) = (
        machine.bundle.id.clone(),
        machine.bundle.dir.display().to_string(),
        machine.kernel.display().to_string(),
    );
    let container = Container::new(&machine.bundle);
    let mut run = machine.bundle.runtime.command(&[
        "run",
        "--detach",
        "--vm",
        "--vm-kernel",
        &kernel,
        "--bundle",
        &dir,
        &id,
    ]);
    let mut run = leaks::spawn(
        run.stdout(Stdio::null())
            .stderr(fs::File::create(&said).unwrap()),
    )
    .unwrap();
    until("the hook", || volume.join("here").exists());
    // Longer than a look at the machine takes.
    std::thread::sleep(Duration::from_millis(2500));
    assert!(
        run.try_wait().unwrap().is_none(),
        "a hook that takes its time is no silence: {}",
        text(&said)
    );
    let processes = freeze(&container);
    assert!(!run.wait().unwrap().success());
    assert_has!(text(&said), "does not answer (waited 2 s)");
    until("the machine's end", || {
        processes
            .into_iter()
            .all(|pid| leaks::is_zombie(pid) || !Path::new(&format!("/proc/{pid}")).exists())
    });
    assert_ne!(machine.bundle.call(&["state", &id]).status, 0);
}
