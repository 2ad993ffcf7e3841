//! Checkpoint and restore: what comes back, and what stays where it was.

use crate::checkpoint_world::{
    Saved, bundle, count, counter, guard, passed, started, succeeds, with_runc,
};
use crate::support::cgroups::{self, Version};
use crate::support::{Bundle, fixture, runtime, until};
use serde_json::json;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

tests![
    a_counter_goes_on_where_it_was,
    a_restored_container_is_saved_again,
    leave_running_leaves_it_running,
    a_folder_of_images_is_used_again,
    a_paused_container_is_saved,
    images_are_roots_alone,
    output_to_a_file_goes_on_to_the_new_callers_file,
    a_log_that_was_replaced_is_no_obstacle,
    input_from_a_file_goes_on_where_it_was,
    pipes_are_the_new_callers,
    runc_restores_hulls_images,
    hull_restores_runcs_images,
    restore_in_the_foreground_gives_the_exit_status,
    a_container_that_does_not_run_is_refused,
    folders_without_images_are_refused,
    a_missing_criu_is_named,
    a_program_that_is_no_criu_is_named,
];

fn a_counter_goes_on_where_it_was() {
    let b = counter();
    let c = started(&b);
    let before = passed(&b, 3);
    let pid_file = fixture::new_dir("pid").join("pid");
    let saved = Saved::new();
    saved.dumped(&b, &[]);
    let stopped = count(&b);
    assert!(stopped >= before);
    assert!(
        c.call(&["state"]).failure().contains("does not exist"),
        "with the checkpoint the container ends"
    );
    assert!(!b.cgroup_dir("freezer").exists(), "its cgroup is gone");
    saved
        .restore(&b, &["--pid-file", pid_file.to_str().unwrap()])
        .success();
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
    // It is in its cgroup, with the device rules.
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

fn a_restored_container_is_saved_again() {
    let b = counter();
    let _c = started(&b);
    let mut seen = passed(&b, 0);
    for _ in 0..3 {
        Saved::round(&b, &[], &[]);
        seen = passed(&b, seen);
    }
}

fn leave_running_leaves_it_running() {
    let b = counter();
    let c = started(&b);
    let (pid, before) = (c.pid(), passed(&b, 1));
    let saved = Saved::new();
    saved.dumped(&b, &["--leave-running"]);
    assert_eq!((c.status().as_str(), c.pid()), ("running", pid));
    let last = passed(&b, before + 2);
    c.call(&["delete", "--force"]).success();
    // What was saved is older than where it came to.
    saved.restore(&b, &[]).success();
    passed(&b, last);
}

fn a_folder_of_images_is_used_again() {
    let b = counter();
    let c = started(&b);
    let saved = Saved::new();
    let mut last = passed(&b, 1);
    for _ in 0..4 {
        saved.dumped(&b, &["--leave-running"]);
        last = passed(&b, last + 2);
    }
    saved.dumped(&b, &[]);
    assert!(c.call(&["state"]).failure().contains("does not exist"));
    // The images are those of the last dump, and whole.
    saved.restore(&b, &[]).success();
    assert!(passed(&b, last) > last);
}

fn a_paused_container_is_saved() {
    let b = counter();
    let c = started(&b);
    let before = passed(&b, 1);
    c.call(&["pause"]).success();
    let saved = Saved::new();
    saved.dumped(&b, &["--leave-running"]);
    assert_eq!(c.status(), "paused");
    c.call(&["resume"]).success();
    passed(&b, before);
}

fn images_are_roots_alone() {
    let b = counter();
    let _c = started(&b);
    passed(&b, 0);
    let saved = Saved::new();
    saved.dumped(&b, &["--leave-running"]);
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&saved.images), 0o700);
    let mut seen = 0;
    for entry in fs::read_dir(&saved.images).unwrap().flatten() {
        assert_eq!(mode(&entry.path()), 0o600, "{}", entry.path().display());
        seen += 1;
    }
    assert!(seen > 10, "{seen} images");
    let names: Vec<String> =
        serde_json::from_str(&runtime::text(saved.images.join("descriptors.json"))).unwrap();
    assert_eq!(names.len(), 3);
    assert!(!saved.log("dump.log").is_empty());
}

fn output_to_a_file_goes_on_to_the_new_callers_file() {
    only_hull!("runc cannot save a file of the host");
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
    let _c = guard(&b);
    until("some lines", || lines("first").len() > 3);
    let saved = Saved::new();
    saved.dumped(&b, &[]);
    let last = *lines("first").last().unwrap();
    run(
        &[
            "restore",
            "--detach",
            "--bundle",
            bundle,
            "--image-path",
            saved.images.to_str().unwrap(),
            &b.id,
        ],
        "second",
    );
    until("lines in the other file", || lines("second").len() > 3);
    assert_eq!(lines("second")[0], last + 1);
    assert_eq!(lines("first").last(), Some(&last));
}

/// `hull run --detach >log`: written in place, not appended; cut off, removed or another kind of
/// thing by the time of the restore.
fn a_log_that_was_replaced_is_no_obstacle() {
    only_hull!("runc cannot save a file of the host");
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
    let _c = guard(&b);
    until("some lines", || runtime::text(&log).lines().count() > 3);
    let first = |text: String| {
        text.split_once(['\n'])
            .map(|(line, _)| line.to_owned())
            .unwrap_or_default()
    };
    for how in ["cut off", "removed while it ran", "replaced by no file"] {
        let saved = Saved::new();
        if how == "removed while it ran" {
            fs::remove_file(&log).unwrap();
        }
        saved.dumped(&b, &[]);
        let last = count(&b);
        let images = [
            "--image-path",
            saved.images.to_str().unwrap(),
            "--work-path",
            saved.work.to_str().unwrap(),
            &b.id,
        ];
        let args = [&["restore", "--detach", "--bundle", bundle], &images[..]].concat();
        if how == "replaced by no file" {
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

fn input_from_a_file_goes_on_where_it_was() {
    only_hull!("runc cannot save a file of the host");
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
    let _c = guard(&b);
    go("1");
    until("the second line", || seen() == "2\n");
    let saved = Saved::new();
    saved.dumped(&b, &[]);
    fs::write(&input, "1\n2\nthree\nfour\n").unwrap();
    reading(&[
        "restore",
        "--detach",
        "--bundle",
        bundle,
        "--image-path",
        saved.images.to_str().unwrap(),
        &b.id,
    ]);
    go("2");
    until("the third line of the new file", || seen() == "three\n");
    go("three");
    go("four");
    until("the end", || seen() == "end\n");
}

fn pipes_are_the_new_callers() {
    let b = bundle("i=0; while read line; do i=$((i+1)); echo $i $line; done");
    b.write();
    let (bundle, saved) = (b.dir.to_str().unwrap(), Saved::new());
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
    let _c = guard(&b);
    let (line, to, from) = talk(&["run", "--detach", "--bundle", bundle, &b.id], "one\n");
    assert_eq!(line, "1 one\n");
    saved.dumped(&b, &[]);
    drop((to, from));
    let (line, ..) = talk(
        &[
            "restore",
            "--detach",
            "--bundle",
            bundle,
            "--image-path",
            saved.images.to_str().unwrap(),
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
    let saved = Saved::new();
    saved.dumped(&b, &[]);
    let stopped = count(&b);
    let _r = guard(&runc);
    let out = saved.restore(&runc, &[]);
    assert!(
        out.status == 0,
        "{}\n{}",
        out.stderr,
        saved.log("restore.log")
    );
    passed(&b, stopped);
}

fn hull_restores_runcs_images() {
    let b = counter();
    let runc = with_runc(&b);
    let r = started(&runc);
    passed(&b, 1);
    let saved = Saved::new();
    saved.dumped(&runc, &[]);
    drop(r);
    let stopped = count(&b);
    let c = guard(&b);
    let out = saved.restore(&b, &[]);
    assert!(
        out.status == 0,
        "{}\n{}",
        out.stderr,
        saved.log("restore.log")
    );
    passed(&b, stopped);
    assert_eq!(c.status(), "running");
}

fn restore_in_the_foreground_gives_the_exit_status() {
    let b = bundle("until [ -e /tmp/go ]; do sleep 0.1; done; exit 7");
    let _c = started(&b);
    let saved = Saved::new();
    saved.dumped(&b, &[]);
    fs::write(b.rootfs().join("tmp/go"), "").unwrap();
    let (images, bundle) = (saved.images.to_str().unwrap(), b.dir.to_str().unwrap());
    let out = b.call(&["restore", "--bundle", bundle, "--image-path", images, &b.id]);
    assert_eq!(out.status, 7, "{}", out.stderr);
    assert!(
        b.call(&["state", &b.id])
            .failure()
            .contains("does not exist")
    );
}

fn a_container_that_does_not_run_is_refused() {
    let b = counter();
    let saved = Saved::new();
    assert!(
        saved
            .checkpoint(&b, &[])
            .failure()
            .contains("does not exist")
    );
    let c = b.create();
    assert!(
        saved
            .checkpoint(&b, &[])
            .failure()
            .contains("cannot be checkpointed in created state")
    );
    c.kill("KILL").success();
    c.wait_for("stopped");
    assert!(
        saved
            .checkpoint(&b, &[])
            .failure()
            .contains("cannot be checkpointed in stopped state")
    );
}

fn folders_without_images_are_refused() {
    let b = counter();
    let saved = Saved::new();
    let said = saved.restore(&b, &[]).failure();
    assert_has!(said, "no images to restore from");
    fs::create_dir(&saved.images).unwrap();
    assert_has!(saved.restore(&b, &[]).failure(), "inventory.img");
    assert!(
        b.call(&["state", &b.id])
            .failure()
            .contains("does not exist")
    );
    assert!(!b.cgroup_dir("freezer").exists());
}

fn a_missing_criu_is_named() {
    only_hull!("runc words it otherwise");
    let mut b = Bundle::sleeper();
    b.runtime.global = vec!["--criu".into(), "/nowhere/criu".into()];
    let c = started(&b);
    let said = Saved::new().checkpoint(&b, &[]).failure();
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

fn a_program_that_is_no_criu_is_named() {
    only_hull!("runc words it otherwise");
    let mut b = Bundle::sleeper();
    let fake = fixture::new_dir("criu").join("criu");
    fixture::write_executable(&fake, "#!/bin/sh\necho this is no criu >&2\nexit 3\n");
    b.runtime.global = vec!["--criu".into(), fake.to_str().unwrap().into()];
    b.set("/process/args", json!(["sleep", "1000"]));
    let c = started(&b);
    let said = Saved::new().checkpoint(&b, &[]).failure();
    assert_has!(said, "criu cannot be run");
    assert_has!(said, "this is no criu");
    assert_eq!(c.status(), "running");
}
