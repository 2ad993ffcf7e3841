//! Verbs that have more to say of a machine: what it costs, whom its kernel killed, what it would
//! carry out; and `run` for people.

use crate::support::machine::{LIMIT, Machine};
use crate::support::runtime::{finish, text, until};
use crate::support::{fixture, leaks};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::process::Stdio;

/// Another for each boot of a kernel: the test machine runs the kernel that its own guests run.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

tests![
    events_tell_of_kills_in_the_guest_and_of_the_machine,
    plan_shows_what_the_guest_carries_out,
    people_run_on_a_folder_in_a_machine
];

fn events_tell_of_kills_in_the_guest_and_of_the_machine() {
    only_hull!("the second wall");
    let mut machine = Machine::sh(
        "while [ ! -e /dev/shm/go ]; do sleep 0.05; done; tail /dev/zero; while [ ! -e \
            /dev/shm/end ]; do sleep 0.05; done; exec tail /dev/zero",
    );
    machine
        .bundle
        .set("/linux/resources/memory", json!({ "limit": 24 << 20 }));
    let container = machine.create(&[]);
    container.start();
    let file = fixture::new_dir("events").join("out");
    let mut command =
        machine
            .bundle
            .runtime
            .command(&["events", "--interval", "1s", &machine.bundle.id]);
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
        "the container's"
    );
    assert!(
        usage("/data/machine/memory/usage/usage") > 24 << 20,
        "the machine has a kernel too: {first}"
    );
    assert!(usage("/data/machine/cpu/usage/total") > 0, "{first}");
    let rows: Value = serde_json::from_str(
        &machine
            .bundle
            .call(&[
                "stats",
                "--no-stream",
                "--format",
                "json",
                &machine.bundle.id,
            ])
            .success()
            .stdout,
    )
    .unwrap();
    assert!(
        rows[0]["machine_mem_usage"].as_u64().unwrap() > rows[0]["mem_usage"].as_u64().unwrap(),
        "{rows}"
    );
    let kills = || text(&file).matches("\"oom\"").count();
    assert_eq!(kills(), 0);
    container.exec(&["touch", "/dev/shm/go"]).success();
    until("the kill is told", || kills() == 1);
    assert_eq!(container.status(), "running");
    // One that ends the container is told before its end.
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

fn plan_shows_what_the_guest_carries_out() {
    only_hull!("the second wall");
    let mut machine = Machine::sh("true");
    let volume = fixture::new_dir("volume");
    machine
        .bundle
        .mount("/v", "bind", volume.to_str().unwrap(), &["rbind", "ro"]);
    // What is only the host's to limit, and does not reach a machine's packets.
    machine.bundle.set(
        "/linux/resources/network",
        json!({ "classID": 1_048_577, "priorities": [] }),
    );
    machine.bundle.write();
    let (dir, kernel) = (
        machine.bundle.dir.display().to_string(),
        machine.kernel.display().to_string(),
    );
    let flags = [
        "plan",
        "--vm",
        "--vm-kernel",
        &kernel,
        "--vm-memory",
        "300m",
        "--vm-memory-max",
        "500m",
        "--vm-engine",
        "qemu",
    ];
    let shown = machine
        .bundle
        .call(&[&flags[..], &[&dir]].concat())
        .success()
        .stdout;
    let head = shown.lines().next().unwrap();
    assert!(
        head.starts_with("machine ")
            && head.contains(&kernel)
            && head.contains("tcg, 300 MiB and up to 500 MiB, 1 processor"),
        "{head}"
    );
    assert_has!(shown, format!(": {}, read-only\n", volume.display()));
    assert_has!(shown, format!("share    root: {dir}"));
    let inside = shown.split("guest    carries out").nth(1).unwrap();
    assert!(
        inside.contains("inside") && inside.contains("/run/hull/share/m"),
        "{shown}"
    );
    assert_has!(
        shown,
        "warning: linux.resources.network: what a virtual machine sends comes from its own kernel"
    );
    let value: Value = serde_json::from_str(
        &machine
            .bundle
            .call(&[&flags[..], &["--format", "json", &dir]].concat())
            .success()
            .stdout,
    )
    .unwrap();
    assert_eq!(
        (
            &value["machine"]["memory"],
            &value["machine"]["accelerator"]
        ),
        (&json!(300 << 20), &json!("tcg"))
    );
    assert_eq!(value["machine"]["memoryMax"], json!(500 << 20));
    let less = machine
        .bundle
        .call(&[
            "plan",
            "--vm",
            "--vm-kernel",
            &kernel,
            "--vm-memory",
            "300m",
            "--vm-memory-max",
            "200m",
            &dir,
        ])
        .failure();
    assert_has!(
        less,
        "--vm-memory-max 209715200: the guest boots with 314572800 bytes"
    );
    assert!(
        value["guest"].is_object() || value["guest"].is_array(),
        "{value}"
    );
    assert!(
        !machine
            .bundle
            .runtime
            .state
            .join(&machine.bundle.id)
            .exists(),
        "nothing is made"
    );
}

fn people_run_on_a_folder_in_a_machine() {
    only_hull!("the second wall");
    let machine = Machine::sh("true");
    let root = fixture::new_dir("root");
    fixture::fill_rootfs(&root);
    fs::write(root.join("file"), "of the host\n").unwrap();
    let (folder, kernel) = (
        root.display().to_string(),
        machine.kernel.display().to_string(),
    );
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
        &folder,
        "-v",
        &bound,
        "--",
        "sh",
        "-c",
        script,
    ];
    let out = finish(machine.bundle.runtime.command(&flags), LIMIT);
    assert_eq!(out.status, 6, "{}", out.stderr);
    assert!(
        out.stdout.starts_with("of the host\nchanged\n"),
        "{}",
        out.stdout
    );
    assert!(
        !out.stdout.contains(text(BOOT).trim()),
        "a kernel of its own: {}",
        out.stdout
    );
    assert_eq!(
        text(root.join("file")),
        "of the host\n",
        "changes are thrown away"
    );
    assert_eq!(text(volume.join("file")), "kept\n");
    let kept = fixture::new_dir("kept").display().to_string();
    let flags = [
        "run",
        "--vm",
        "--vm-kernel",
        &kernel,
        "--rootfs",
        &folder,
        "--keep-changes",
        &kept,
        "--",
        "true",
    ];
    assert_has!(
        finish(machine.bundle.runtime.command(&flags), LIMIT).failure(),
        "--keep-changes"
    );
}
