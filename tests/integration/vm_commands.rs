//! Commands whose output has more about a VM: `events` and `stats` report its usage and the OOM
//! kills in the guest, `plan` shows the guest's steps; and `run --rootfs` in a VM.

use crate::support::cgroups;
use crate::support::plan::{CONTAINER_STEPS, HOST_STEPS, steps};
use crate::support::runtime::{finish, text, until};
use crate::support::vm::{BOOT_ID, LIMIT, REPORT, Vm};
use crate::support::{fixture, leaks};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::process::Stdio;

tests![
    events_report_oom_kills_and_the_usage_of_the_vm,
    plan_shows_the_guests_steps,
    an_adhoc_container_in_a_vm
];

fn events_report_oom_kills_and_the_usage_of_the_vm() {
    only_hull!("the VM backend");
    let mut vm = Vm::sh(
        "while [ ! -e /dev/shm/go ]; do sleep 0.05; done; tail /dev/zero; while [ ! -e \
            /dev/shm/end ]; do sleep 0.05; done; exec tail /dev/zero",
    );
    vm.bundle
        .set("/linux/resources/memory", json!({ "limit": 24 << 20 }));
    let container = vm.create(&[]);
    container.start();
    let file = fixture::new_dir("events").join("out");
    let mut command = vm
        .bundle
        .runtime
        .command(&["events", "--interval", "1s", &vm.bundle.id]);
    let mut child = leaks::spawn(
        command
            .stdout(File::create(&file).unwrap())
            .stderr(Stdio::null()),
    )
    .unwrap();
    until("the first statistics", || text(&file).contains('\n'));
    let first: Value = serde_json::from_str(text(&file).lines().next().unwrap()).unwrap();
    let usage = |at: &str| {
        first
            .pointer(at)
            .and_then(Value::as_u64)
            .unwrap_or_else(|| panic!("no {at} in {first}"))
    };
    assert_eq!(
        usage("/data/memory/usage/limit"),
        24 << 20,
        "the limit of the container"
    );
    assert!(
        usage(&format!("/data/{REPORT}/memory/usage/usage")) > 24 << 20,
        "the usage of the VM includes that of its kernel: {first}"
    );
    assert!(
        usage(&format!("/data/{REPORT}/cpu/usage/total")) > 0,
        "{first}"
    );
    let rows: Value = serde_json::from_str(
        &vm.bundle
            .call(&["stats", "--no-stream", "--format", "json", &vm.bundle.id])
            .success()
            .stdout,
    )
    .unwrap();
    assert!(
        rows[0][format!("{REPORT}_mem_usage")].as_u64() > rows[0]["mem_usage"].as_u64(),
        "{rows}"
    );
    let kills = || text(&file).matches("\"oom\"").count();
    assert_eq!(kills(), 0);
    container.exec(&["touch", "/dev/shm/go"]).success();
    until("the event of the kill", || kills() == 1);
    assert_eq!(container.status(), "running");
    // The event of a kill that ends the container comes before its end.
    container.exec(&["touch", "/dev/shm/end"]).success();
    let mut status = None;
    until("the end of the events", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    assert!(status.unwrap().success());
    assert_eq!(kills(), 2, "{}", text(&file));
    container.wait_for("stopped");
}

fn plan_shows_the_guests_steps() {
    only_hull!("the VM backend");
    let mut vm = Vm::sh("true");
    let volume = fixture::new_dir("volume");
    vm.bundle
        .mount("/v", "bind", volume.to_str().unwrap(), &["rbind", "ro"]);
    // A limit that hull sets on the host, and that does not reach the packets of a VM.
    let has_net_cls = cgroups::hierarchy("net_cls").is_some();
    if has_net_cls {
        vm.bundle
            .set("/linux/resources/network", json!({ "classID": 1_048_577 }));
    }
    vm.bundle.write();
    let dir = vm.bundle.dir.display().to_string();
    let kernel = vm.kernel.display().to_string();
    let plan = |flags: &[&str]| {
        let vm_flags = [
            "plan",
            "--vm",
            "--vm-kernel",
            &kernel,
            "--vm-memory",
            "300m",
        ];
        vm.bundle.call(&[&vm_flags, flags, &[&dir]].concat())
    };
    let engine = ["--vm-memory-max", "500m", "--vm-engine", "qemu"];

    let text = plan(&engine).success().stdout;
    let head = text.lines().next().unwrap();
    assert!(
        head.starts_with("vm ")
            && head.contains(&kernel)
            && head.contains("tcg, 300 MiB and up to 500 MiB, 1 CPU"),
        "{head}"
    );
    let has_line = |kind: &str, part: &str| {
        let found = text
            .lines()
            .any(|line| line.starts_with(kind) && line.contains(part));
        assert!(found, "no line {kind} with {part:?} in:\n{text}");
    };
    has_line("share ", &format!("root: {dir}"));
    has_line("share ", &format!(": {}, read-only", volume.display()));
    has_line("guest ", "Cgroup");
    has_line(CONTAINER_STEPS, "/run/hull/share/m");
    if has_net_cls {
        let warning =
            "linux.resources.network: what a virtual machine sends comes from its own kernel";
        has_line("warning: ", warning);
    }

    let json = plan(&[&engine[..], &["--format", "json"]].concat());
    let value: Value = serde_json::from_str(&json.success().stdout).unwrap();
    assert_eq!(value["vm"]["memory"], json!(300 << 20));
    assert_eq!(value["vm"]["memoryMax"], json!(500 << 20));
    assert_eq!(value["vm"]["accelerator"], json!("tcg"));
    assert!(value[HOST_STEPS].is_array(), "{value}");
    assert!(!steps(&value["guest"], CONTAINER_STEPS).is_empty());
    assert_has!(
        plan(&["--vm-memory-max", "200m"]).failure(),
        "--vm-memory-max 209715200: the guest boots with 314572800 bytes"
    );
    assert!(
        !vm.bundle.runtime.state.join(&vm.bundle.id).exists(),
        "plan has made a state directory"
    );
}

fn an_adhoc_container_in_a_vm() {
    only_hull!("the VM backend");
    let vm = Vm::sh("true");
    let root = fixture::new_dir("root");
    fixture::fill_rootfs(&root);
    fs::write(root.join("file"), "of the host\n").unwrap();
    let (rootfs, kernel) = (root.display().to_string(), vm.kernel.display().to_string());
    let volume = fixture::new_dir("volume");
    let bound = format!("{}:/v", volume.display());
    let script = "cat /file; echo changed >/file; cat /file; cat /proc/sys/kernel/random/boot_id; \
        echo kept >/v/file; exit 6";
    let flags = [
        "run",
        "--vm",
        "--vm-kernel",
        &kernel,
        "--rootfs",
        &rootfs,
        "-v",
        &bound,
        "--",
        "sh",
        "-c",
        script,
    ];
    let out = finish(vm.bundle.runtime.command(&flags), LIMIT);
    assert_eq!(out.status, 6, "{}", out.stderr);
    assert!(
        out.stdout.starts_with("of the host\nchanged\n"),
        "{}",
        out.stdout
    );
    assert!(
        !out.stdout.contains(text(BOOT_ID).trim()),
        "the container runs on the host's kernel: {}",
        out.stdout
    );
    assert_eq!(
        text(root.join("file")),
        "of the host\n",
        "the changes were not discarded"
    );
    assert_eq!(text(volume.join("file")), "kept\n");
    let kept = fixture::new_dir("kept").display().to_string();
    let flags = [
        "run",
        "--vm",
        "--vm-kernel",
        &kernel,
        "--rootfs",
        &rootfs,
        "--keep-changes",
        &kept,
        "--",
        "true",
    ];
    assert_has!(
        finish(vm.bundle.runtime.command(&flags), LIMIT).failure(),
        "--keep-changes"
    );
}
