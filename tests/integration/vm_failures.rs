//! VMs that fail: a guest that panics or does not boot, and one that does not answer any more.

use crate::support::runtime::{Container, LIMIT, text, until, wait};
use crate::support::vm::{Vm, host_processes, qemu};
use crate::support::{fixture, leaks};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

tests![
    a_guest_kernel_panic_is_an_error_with_the_console,
    a_guest_that_does_not_boot_is_an_error_in_time,
    a_vm_that_does_not_answer_can_be_ended,
    a_vm_that_stops_in_a_hook_does_not_block_run,
];

fn a_guest_kernel_panic_is_an_error_with_the_console() {
    only_hull!("the VM backend");
    let mut vm = Vm::sh("true");
    vm.bundle.set(
        "/vm",
        json!({ "kernel": { "path": "", "parameters": ["rdinit=/nothing", "init=/nothing"] } }),
    );
    let error = vm.refused();
    assert_has!(error, "the vm ended");
    assert_has!(error, "kernel panic");
}

/// An image with the header of a kernel, whose first instruction is a jump to itself; and its
/// modules, all of which are built in.
fn endless_kernel() -> PathBuf {
    let dir = fixture::new_dir("kernel");
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
    let kernel = dir.join("vmlinuz");
    fs::write(&kernel, image).unwrap();
    let modules = dir.join("lib/modules/0.0.1");
    fs::create_dir_all(&modules).unwrap();
    fs::write(modules.join("modules.dep"), "").unwrap();
    fs::write(
        modules.join("modules.builtin"),
        "kernel/virtio_pci.ko\nkernel/virtio_console.ko\nkernel/virtiofs.ko\n",
    )
    .unwrap();
    kernel
}

fn a_guest_that_does_not_boot_is_an_error_in_time() {
    only_hull!("the VM backend");
    let mut vm = Vm::sh("true");
    vm.kernel = endless_kernel();
    vm.bundle.runtime.set_defaults("[vm]\nboot-timeout = 4\n");
    assert_has!(vm.refused(), "the guest did not come up within 4 s");
    assert!(
        !vm.bundle.runtime.state.join(&vm.bundle.id).exists(),
        "the state directory is left"
    );
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// Stops QEMU, so that the VM does not answer; the processes of the VM.
fn stop(container: &Container) -> Vec<i32> {
    signal(qemu(container), Signal::STOP);
    host_processes(container)
}

/// Commands that ask the guest fail in time, with an error that says how to end the VM; `kill KILL`
/// and `delete --force` do that.
fn a_vm_that_does_not_answer_can_be_ended() {
    only_hull!("the VM backend");
    let mut vm = Vm::sh(
        "trap 'echo one >>/dir/log' TERM; trap 'echo all >>/dir/log' USR1; echo out; exec >&- \
            2>&-; while :; do sleep 0.1; done",
    );
    let log = fixture::new_dir("volume").join("log");
    vm.bundle.mount(
        "/dir",
        "bind",
        log.parent().unwrap().to_str().unwrap(),
        &["rbind"],
    );
    vm.bundle.runtime.set_defaults("[vm]\nanswer-timeout = 2\n");
    let container = started_with_pipe(&vm);
    let id = &vm.bundle.id;
    let call = |args: &[&str]| vm.bundle.call(args);
    let help = format!(
        "does not answer (waited 2 s): hull kill {id} KILL or hull delete --force {id} ends it"
    );

    let processes = stop(&container);
    // The VM gets the signal later, like a frozen process of the namespace backend. It is no error,
    // since an engine sends the next signal then.
    for args in [&["kill", id, "TERM"][..], &["kill", "--all", id, "USR1"]] {
        assert_has!(
            call(args).success().stderr,
            format!("the signal is pending: the container's VM {help}")
        );
    }
    signal(qemu(&container), Signal::CONT);
    until("the pending signals", || {
        ["one\n", "all\n"]
            .iter()
            .all(|line| text(&log).contains(line))
    });
    stop(&container);
    for args in [
        &["exec", id, "true"][..],
        &["ps", id],
        &["pause", id],
        &["update", "--cpu-quota", "50000", id],
        &["events", "--stats", id],
    ] {
        let error = call(args).failure();
        // `failure` gives the error in lower case.
        assert!(error.contains(&help.to_lowercase()), "{args:?}: {error}");
    }
    let state = call(&["state", id]).success().stdout;
    assert_eq!(state.matches("\"running\"").count(), 1, "{state}");
    call(&["kill", id, "KILL"]).success();
    until("the VM's end", || {
        processes.iter().all(|pid| leaks::is_gone(*pid))
    });
    call(&["delete", id]).success();

    let container = vm.create(&[]);
    let processes = stop(&container);
    assert_has!(call(&["start", id]).failure(), help.to_lowercase());
    call(&["delete", "--force", id]).success();
    until("the VM's end", || {
        processes.iter().all(|pid| leaks::is_gone(*pid))
    });
    assert_ne!(call(&["state", id]).status, 0);
}

/// Creates the container with a pipe as its standard output, and starts it. The pipe is closed when
/// the program closes its standard output, though the VM still runs.
fn started_with_pipe(vm: &Vm) -> Container<'_> {
    let container = Container::new(&vm.bundle);
    let mut command = vm.command("create", &[]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut create = leaks::spawn(&mut command).unwrap();
    let mut stdout = create.stdout.take().unwrap();
    assert_eq!(wait(create, LIMIT), 0);
    container.start();
    let mut said = String::new();
    stdout.read_to_string(&mut said).unwrap();
    assert_eq!(
        (said.as_str(), container.status().as_str()),
        ("out\n", "running")
    );
    container
}

/// A hook may take longer than `answer-timeout`; a VM that has stopped meanwhile ends
/// `run --detach`, and nothing is left.
fn a_vm_that_stops_in_a_hook_does_not_block_run() {
    only_hull!("the VM backend");
    let mut vm = Vm::sh("exec sleep 1000");
    let (volume, stderr) = (
        fixture::new_dir("volume"),
        fixture::new_dir("run").join("stderr"),
    );
    vm.bundle
        .mount("/v", "bind", volume.to_str().unwrap(), &["rbind"]);
    vm.bundle.push(
        "/hooks/startContainer",
        json!({ "path": "/bin/sh", "args": ["sh", "-c", "echo >/v/here; exec sleep 1000"] }),
    );
    vm.bundle.runtime.set_defaults("[vm]\nanswer-timeout = 2\n");
    let container = Container::new(&vm.bundle);
    let mut command = vm.command("run", &["--detach"]);
    command
        .stdout(Stdio::null())
        .stderr(fs::File::create(&stderr).unwrap());
    let mut run = leaks::spawn(&mut command).unwrap();
    until("the hook", || volume.join("here").exists());
    // Longer than hull waits for an answer of the VM.
    std::thread::sleep(Duration::from_millis(2500));
    assert!(
        run.try_wait().unwrap().is_none(),
        "run took the slow hook for a VM that does not answer: {}",
        text(&stderr)
    );
    let processes = stop(&container);
    assert_ne!(wait(run, LIMIT), 0);
    assert_has!(text(&stderr), "does not answer (waited 2 s)");
    until("the VM's end", || {
        processes.iter().all(|pid| leaks::is_gone(*pid))
    });
    assert_ne!(vm.bundle.call(&["state", &vm.bundle.id]).status, 0);
}
