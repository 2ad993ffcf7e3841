//! `checkpoint` and `restore`: the life of a container over both, its standard streams, the images,
//! the exchange of images with runc, and errors of the arguments.

use crate::support::cgroups::{self, Version};
use crate::support::checkpoint::{
    Checkpoint, bundle, count, counter, passed, started, succeeds, with_runc,
};
use crate::support::{Bundle, Container, fixture, runtime, until};
use serde_json::json;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

tests![
    a_counter_continues_after_restore,
    a_restored_container_is_checkpointed_again,
    leave_running_leaves_it_running,
    a_directory_of_images_is_used_again,
    a_paused_container_is_checkpointed,
    images_are_readable_by_root_only,
    output_continues_in_the_restoring_callers_file,
    a_replaced_log_file_does_not_prevent_restore,
    input_from_a_file_continues_at_its_offset,
    pipes_are_the_restoring_callers,
    runc_restores_hulls_images,
    hull_restores_runcs_images,
    restore_in_the_foreground_gives_the_exit_status,
    a_container_that_is_not_running_is_refused,
    directories_without_images_are_refused,
    a_missing_criu_is_named,
    a_program_that_is_not_criu_is_named,
];

fn a_counter_continues_after_restore() {
    let b = counter();
    let c = started(&b);
    let before = passed(&b, 3);
    let pid_file = fixture::new_dir("pid").join("pid");
    let checkpoint = Checkpoint::new();
    checkpoint.dumped(&b, &[]);
    let stopped = count(&b);
    assert!(stopped >= before);
    assert!(
        c.call(&["state"]).failure().contains("does not exist"),
        "the checkpoint ends the container"
    );
    assert!(!b.cgroup_dir("freezer").exists(), "its cgroup is gone");
    checkpoint.restored(&b, &["--pid-file", pid_file.to_str().unwrap()]);
    assert_eq!(c.status(), "running");
    assert_eq!(runtime::text(&pid_file), c.pid().to_string());
    let after = passed(&b, stopped);
    assert!(
        after < stopped + 1000 && after > stopped,
        "{before}, {stopped}, {after}"
    );
    assert_eq!(
        c.exec(&["sh", "-c", "tr '\\0' ' ' </proc/1/cmdline | cut -c1-5"])
            .success()
            .stdout
            .trim(),
        "/bin/"
    );
    // The processes are in the container's cgroup, with the device rules.
    assert!(
        b.cgroup_file("freezer", "cgroup.procs")
            .lines()
            .any(|line| line == c.pid().to_string())
    );
    if cgroups::version("devices") == Version::V1 {
        assert!(
            !b.cgroup_file("devices", "devices.list")
                .contains("a *:* rwm")
        );
    }
}

fn a_restored_container_is_checkpointed_again() {
    let b = counter();
    let _c = started(&b);
    let mut seen = passed(&b, 0);
    for _ in 0..3 {
        Checkpoint::round(&b, &[], &[]);
        seen = passed(&b, seen);
    }
}

fn leave_running_leaves_it_running() {
    let b = counter();
    let c = started(&b);
    let (pid, before) = (c.pid(), passed(&b, 1));
    let checkpoint = Checkpoint::new();
    checkpoint.dumped(&b, &["--leave-running"]);
    assert_eq!((c.status().as_str(), c.pid()), ("running", pid));
    let last = passed(&b, before + 2);
    c.call(&["delete", "--force"]).success();
    // The images are older than the number that the counter reached.
    checkpoint.restored(&b, &[]);
    passed(&b, last);
}

fn a_directory_of_images_is_used_again() {
    let b = counter();
    let c = started(&b);
    let checkpoint = Checkpoint::new();
    let mut last = passed(&b, 1);
    for _ in 0..4 {
        checkpoint.dumped(&b, &["--leave-running"]);
        last = passed(&b, last + 2);
    }
    checkpoint.dumped(&b, &[]);
    assert!(c.call(&["state"]).failure().contains("does not exist"));
    // The images are those of the last dump, and complete.
    checkpoint.restored(&b, &[]);
    assert!(passed(&b, last) > last);
}

fn a_paused_container_is_checkpointed() {
    let b = counter();
    let c = started(&b);
    let before = passed(&b, 1);
    c.call(&["pause"]).success();
    let checkpoint = Checkpoint::new();
    checkpoint.dumped(&b, &["--leave-running"]);
    assert_eq!(c.status(), "paused");
    c.call(&["resume"]).success();
    passed(&b, before);
}

fn images_are_readable_by_root_only() {
    let b = counter();
    let _c = started(&b);
    passed(&b, 0);
    let checkpoint = Checkpoint::new();
    checkpoint.dumped(&b, &["--leave-running"]);
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&checkpoint.images), 0o700);
    let mut seen = 0;
    for entry in fs::read_dir(&checkpoint.images).unwrap().flatten() {
        assert_eq!(mode(&entry.path()), 0o600, "{}", entry.path().display());
        seen += 1;
    }
    assert!(seen > 10, "{seen} images");
    let names: Vec<String> =
        serde_json::from_str(&runtime::text(checkpoint.images.join("descriptors.json"))).unwrap();
    assert_eq!(names.len(), 3);
    assert!(!checkpoint.log("dump.log").is_empty());
}

fn output_continues_in_the_restoring_callers_file() {
    only_hull!("runc cannot checkpoint a file of the host");
    let b = bundle("i=0; while true; do i=$((i+1)); echo line $i; sleep 0.1; done");
    let dir = fixture::new_dir("files");
    let run = |args: &[&str], name: &str| {
        let mut command = b.runtime.command(args);
        let open = |name: &str| {
            fs::File::options()
                .create(true)
                .append(true)
                .open(dir.join(name))
                .unwrap()
        };
        command.stdout(open(name)).stderr(open("errors"));
        assert!(succeeds(command), "{}", runtime::text(dir.join("errors")));
    };
    let lines = |name: &str| -> Vec<u64> {
        runtime::text(dir.join(name))
            .lines()
            .filter_map(|line| line.strip_prefix("line ")?.parse().ok())
            .collect()
    };
    b.write();
    let bundle = b.dir.to_str().unwrap();
    run(&["run", "--detach", "--bundle", bundle, &b.id], "first");
    let _c = Container::new(&b);
    until("some lines", || lines("first").len() > 3);
    let checkpoint = Checkpoint::new();
    checkpoint.dumped(&b, &[]);
    let last = *lines("first").last().unwrap();
    run(
        &[
            "restore",
            "--detach",
            "--bundle",
            bundle,
            "--image-path",
            checkpoint.images.to_str().unwrap(),
            &b.id,
        ],
        "second",
    );
    until("lines in the other file", || lines("second").len() > 3);
    assert_eq!(lines("second")[0], last + 1);
    assert_eq!(lines("first").last(), Some(&last));
}

/// `hull run --detach >log`: the program writes at an offset and does not append. By the time of
/// the restore the log is truncated, removed, or no file any more.
fn a_replaced_log_file_does_not_prevent_restore() {
    only_hull!("runc cannot checkpoint a file of the host");
    let b = bundle(
        "i=0; while true; do i=$((i+1)); echo line $i; echo $i >/tmp/new; mv /tmp/new /tmp/count; \
            sleep 0.1; done",
    );
    b.write();
    let (bundle, log) = (b.dir.to_str().unwrap(), fixture::new_dir("log").join("log"));
    let to_log = |args: &[&str]| {
        let mut command = b.runtime.command(args);
        let file = fs::File::create(&log).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file);
        assert!(succeeds(command), "{}", runtime::text(&log));
    };
    to_log(&["run", "--detach", "--bundle", bundle, &b.id]);
    let _c = Container::new(&b);
    until("some lines", || runtime::text(&log).lines().count() > 3);
    let first = |text: String| {
        text.split_once(['\n'])
            .map(|(line, _)| line.to_owned())
            .unwrap_or_default()
    };
    for how in ["truncated", "removed", "not a file"] {
        let checkpoint = Checkpoint::new();
        if how == "removed" {
            fs::remove_file(&log).unwrap();
        }
        checkpoint.dumped(&b, &[]);
        let last = count(&b);
        let images = [
            "--image-path",
            checkpoint.images.to_str().unwrap(),
            "--work-path",
            checkpoint.work.to_str().unwrap(),
            &b.id,
        ];
        let args = [&["restore", "--detach", "--bundle", bundle], &images[..]].concat();
        if how == "not a file" {
            b.call(&args).success();
        } else {
            to_log(&args);
            until("a line of the same program", || {
                runtime::text(&log).contains('\n')
            });
            let begin = first(runtime::text(&log));
            assert!(
                begin == format!("line {}", last + 1) || begin == format!("line {}", last + 2),
                "{how}: {begin:?} after {last}"
            );
        }
        passed(&b, last);
    }
}

fn input_from_a_file_continues_at_its_offset() {
    only_hull!("runc cannot checkpoint a file of the host");
    let b = bundle(
        "while read line; do echo $line >/tmp/seen; until [ -e /tmp/go-$line ]; do sleep 0.1; \
            done; done; echo end >/tmp/seen",
    );
    b.write();
    let (bundle, input) = (
        b.dir.to_str().unwrap(),
        fixture::new_dir("input").join("lines"),
    );
    fs::write(&input, "1\n2\n3\n").unwrap();
    let reading = |args: &[&str]| {
        let mut command = b.runtime.command(args);
        command
            .stdin(fs::File::open(&input).unwrap())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        assert!(succeeds(command));
    };
    let seen = || runtime::text(b.rootfs().join("tmp/seen"));
    let go = |line: &str| fs::write(b.rootfs().join(format!("tmp/go-{line}")), "").unwrap();
    reading(&["run", "--detach", "--bundle", bundle, &b.id]);
    let _c = Container::new(&b);
    go("1");
    until("the second line", || seen() == "2\n");
    let checkpoint = Checkpoint::new();
    checkpoint.dumped(&b, &[]);
    fs::write(&input, "1\n2\nthree\nfour\n").unwrap();
    reading(&[
        "restore",
        "--detach",
        "--bundle",
        bundle,
        "--image-path",
        checkpoint.images.to_str().unwrap(),
        &b.id,
    ]);
    go("2");
    until("the third line of the new file", || seen() == "three\n");
    go("three");
    go("four");
    until("the end", || seen() == "end\n");
}

fn pipes_are_the_restoring_callers() {
    let b = bundle("i=0; while read line; do i=$((i+1)); echo $i $line; done");
    b.write();
    let (bundle, checkpoint) = (b.dir.to_str().unwrap(), Checkpoint::new());
    let talk = |args: &[&str], said: &str| {
        let mut command = b.runtime.command(args);
        let (theirs_in, mut to) = std::io::pipe().unwrap();
        let (from, theirs_out) = std::io::pipe().unwrap();
        command
            .stdin(theirs_in)
            .stdout(theirs_out)
            .stderr(Stdio::null());
        assert!(succeeds(command), "{args:?}");
        to.write_all(said.as_bytes()).unwrap();
        let mut line = String::new();
        let mut from = BufReader::new(from);
        from.read_line(&mut line).unwrap();
        (line, to, from)
    };
    let _c = Container::new(&b);
    let (line, to, from) = talk(&["run", "--detach", "--bundle", bundle, &b.id], "one\n");
    assert_eq!(line, "1 one\n");
    checkpoint.dumped(&b, &[]);
    drop((to, from));
    let (line, ..) = talk(
        &[
            "restore",
            "--detach",
            "--bundle",
            bundle,
            "--image-path",
            checkpoint.images.to_str().unwrap(),
            &b.id,
        ],
        "two\n",
    );
    assert_eq!(line, "2 two\n");
}

fn runc_restores_hulls_images() {
    let b = counter();
    let runc = with_runc(&b);
    let _c = started(&b);
    passed(&b, 1);
    let checkpoint = Checkpoint::new();
    checkpoint.dumped(&b, &[]);
    let stopped = count(&b);
    let _r = Container::new(&runc);
    checkpoint.restored(&runc, &[]);
    passed(&b, stopped);
}

fn hull_restores_runcs_images() {
    let b = counter();
    let runc = with_runc(&b);
    let r = started(&runc);
    passed(&b, 1);
    let checkpoint = Checkpoint::new();
    checkpoint.dumped(&runc, &[]);
    drop(r);
    let stopped = count(&b);
    let c = Container::new(&b);
    checkpoint.restored(&b, &[]);
    passed(&b, stopped);
    assert_eq!(c.status(), "running");
}

fn restore_in_the_foreground_gives_the_exit_status() {
    let b = bundle("until [ -e /tmp/go ]; do sleep 0.1; done; exit 7");
    let _c = started(&b);
    let checkpoint = Checkpoint::new();
    checkpoint.dumped(&b, &[]);
    fs::write(b.rootfs().join("tmp/go"), "").unwrap();
    let (images, bundle) = (checkpoint.images.to_str().unwrap(), b.dir.to_str().unwrap());
    let out = b.call(&["restore", "--bundle", bundle, "--image-path", images, &b.id]);
    assert_eq!(out.status, 7, "{}", out.stderr);
    assert!(
        b.call(&["state", &b.id])
            .failure()
            .contains("does not exist")
    );
}

fn a_container_that_is_not_running_is_refused() {
    let b = counter();
    let checkpoint = Checkpoint::new();
    assert!(
        checkpoint
            .dump(&b, &[])
            .failure()
            .contains("does not exist")
    );
    let c = b.create();
    assert!(
        checkpoint
            .dump(&b, &[])
            .failure()
            .contains("cannot be checkpointed in created state")
    );
    c.kill("KILL").success();
    c.wait_for("stopped");
    assert!(
        checkpoint
            .dump(&b, &[])
            .failure()
            .contains("cannot be checkpointed in stopped state")
    );
}

fn directories_without_images_are_refused() {
    let b = counter();
    let checkpoint = Checkpoint::new();
    let said = checkpoint.restore(&b, &[]).failure();
    assert_has!(said, "no images to restore from");
    fs::create_dir(&checkpoint.images).unwrap();
    assert_has!(checkpoint.restore(&b, &[]).failure(), "inventory.img");
    assert!(
        b.call(&["state", &b.id])
            .failure()
            .contains("does not exist")
    );
    assert!(!b.cgroup_dir("freezer").exists());
}

fn a_missing_criu_is_named() {
    only_hull!("runc has another error message");
    let mut b = Bundle::sleeper();
    b.runtime.global = vec!["--criu".into(), "/nowhere/criu".into()];
    let c = started(&b);
    let said = Checkpoint::new().dump(&b, &[]).failure();
    assert_has!(said, "/nowhere/criu is not there");
    assert_has!(said, "--criu path");
    assert_eq!(c.status(), "running");
    let mut other = b.runtime.clone();
    other.global.clear();
    other.env = vec![("HULL_CRIU".into(), "/nowhere/else".into())];
    assert_has!(
        other
            .call(&["checkpoint", "--image-path", "/nowhere/images", &b.id])
            .failure(),
        "/nowhere/else is not there"
    );
}

fn a_program_that_is_not_criu_is_named() {
    only_hull!("runc has another error message");
    let mut b = Bundle::sleeper();
    let fake = fixture::new_dir("criu").join("criu");
    fixture::write_executable(&fake, "#!/bin/sh\necho this is no criu >&2\nexit 3\n");
    b.runtime.global = vec!["--criu".into(), fake.to_str().unwrap().into()];
    b.set("/process/args", json!(["sleep", "1000"]));
    let c = started(&b);
    let said = Checkpoint::new().dump(&b, &[]).failure();
    assert_has!(said, "criu cannot be run");
    assert_has!(said, "this is no criu");
    assert_eq!(c.status(), "running");
}
