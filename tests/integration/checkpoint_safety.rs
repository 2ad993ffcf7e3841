//! Failures of `checkpoint` and `restore`: after a failed checkpoint the source runs, thawed and
//! with its network unlocked; after a failed restore nothing is left. And what hull requests of
//! criu agrees with the plan.

use crate::support::cgroups::by_version;
use crate::support::checkpoint::{
    Checkpoint, Double, bundle, count, counter, criu, fields, passed, started, succeeds,
};
use crate::support::plan::{self, CONTAINER_STEPS, HOST_STEPS};
use crate::support::{Bundle, Container, fixture, runtime, until, users};
use nix::mount::MsFlags;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

tests![
    a_full_disk_leaves_the_source_running,
    a_failed_fsync_leaves_the_source_running,
    a_sigkill_of_hull_leaves_the_source_running,
    a_failing_criu_leaves_the_source_running,
    a_sigkill_of_criu_leaves_no_network_lock,
    each_damaged_image_is_named,
    external_mounts_come_from_the_plan,
    external_namespaces_and_files_come_from_the_plan,
    pre_dump_needs_soft_dirty_tracking,
    a_failed_restore_leaves_nothing,
];

fn thawed(b: &Bundle) -> bool {
    b.cgroup_value("freezer", "freezer.state", "cgroup.freeze")
        == by_version("freezer", "THAWED", "0")
}

/// Asserts that the source still runs, in a thawed cgroup, and that no rule in its network
/// namespace drops packets.
#[track_caller]
fn still_runs(b: &Bundle, pid: i32) {
    let c = std::mem::ManuallyDrop::new(Container::new(b));
    assert_eq!((c.status().as_str(), c.pid()), ("running", pid));
    assert!(thawed(b));
    passed(b, count(b));
    for tool in [
        &["nft", "list", "ruleset"][..],
        &["iptables-save"],
        &["ip6tables-save"],
    ] {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{pid}/ns/net")).args(tool);
        let out = runtime::finish(command, runtime::LIMIT);
        assert!(
            !out.stdout.contains("CRIU") && !out.stdout.contains("drop"),
            "{tool:?}: {}",
            out.stdout
        );
    }
}

fn a_full_disk_leaves_the_source_running() {
    users::private_mounts();
    let b = counter();
    let c = started(&b);
    passed(&b, 1);
    let full = fixture::new_dir("full");
    fixture::mount_tmpfs(&full, MsFlags::empty(), Some("size=40k"));
    let checkpoint = Checkpoint {
        images: full.join("images"),
        ..Checkpoint::new()
    };
    let said = checkpoint.dump(&b, &[]).failure();
    still_runs(&b, c.pid());
    nix::mount::umount(&full).unwrap();
    assert_has!(said, "no space left");
}

/// `checkpoint` under strace, which lets one of hull's calls fail or kills hull at it; whether the
/// checkpoint succeeded.
fn injected(b: &Bundle, checkpoint: &Checkpoint, what: &[&str]) -> bool {
    let plain = b.runtime.command(&[
        "checkpoint",
        "--image-path",
        checkpoint.images.to_str().unwrap(),
        "--work-path",
        checkpoint.work.to_str().unwrap(),
        &b.id,
    ]);
    let mut command = Command::new("strace");
    command
        .args(["-o", "/dev/null", "-e", "trace=fsync"])
        .args(what)
        .arg(plain.get_program())
        .args(plain.get_args());
    command.env("HULL_TEST_DIR", fixture::test_scratch());
    succeeds(command)
}

fn a_failed_fsync_leaves_the_source_running() {
    only_hull!("runc does not call fsync");
    let b = counter();
    let c = started(&b);
    passed(&b, 1);
    // At an image, and at the directory.
    let checkpoint = Checkpoint::new();
    assert!(!injected(
        &b,
        &checkpoint,
        &["-e", "inject=fsync:error=EIO:when=2"]
    ));
    still_runs(&b, c.pid());
    let checkpoint = Checkpoint::new();
    assert!(!injected(
        &b,
        &checkpoint,
        &[
            "-e",
            "inject=fsync:error=EIO",
            "-P",
            checkpoint.images.to_str().unwrap()
        ]
    ));
    still_runs(&b, c.pid());
    let checkpoint = Checkpoint::new();
    assert!(
        injected(&b, &checkpoint, &["-e", "inject=fsync:error=EIO:when=5000"]),
        "the checkpoint fails without a fault too"
    );
    checkpoint.restored(&b, &[]);
}

fn a_sigkill_of_hull_leaves_the_source_running() {
    only_hull!("runc does not call fsync");
    let b = counter();
    let c = started(&b);
    passed(&b, 1);
    for _ in 0..3 {
        // criu then waits for the answer to its post-dump notification.
        assert!(!injected(
            &b,
            &Checkpoint::new(),
            &["-e", "inject=fsync:signal=KILL:when=1"]
        ));
        until("criu to give up", || {
            thawed(&b) && c.status_line("TracerPid") == "0"
        });
        still_runs(&b, c.pid());
    }
    let checkpoint = Checkpoint::new();
    checkpoint.dumped(&b, &[]);
    checkpoint.restored(&b, &[]);
}

fn a_failing_criu_leaves_the_source_running() {
    only_hull!("runc has another error message");
    let b = bundle(
        "i=0; exec 3</proc/self/ns/net; while true; do i=$((i+1)); echo $i >/tmp/new; mv /tmp/new \
            /tmp/count; sleep 0.1; done",
    );
    let c = started(&b);
    passed(&b, 1);
    let mut other = b.runtime.clone();
    let wrapper = fixture::new_dir("criu").join("criu");
    // A criu that is killed in the middle of its work.
    fixture::write_executable(
        &wrapper,
        &format!(
            "#!/bin/sh\nexec strace -o /dev/null -e trace=mkdirat,openat -e \
                inject=openat:signal=KILL:when=60 {} \"$@\"\n",
            criu().display()
        ),
    );
    other.global = vec!["--criu".into(), wrapper.to_str().unwrap().into()];
    let checkpoint = Checkpoint::new();
    let said = other
        .call(&[
            "checkpoint",
            "--image-path",
            checkpoint.images.to_str().unwrap(),
            &b.id,
        ])
        .failure();
    assert_has!(said, "criu");
    still_runs(&b, c.pid());
}

/// SIGKILL reaches criu when it runs tar for a tmpfs: it has locked the network by then, and its
/// code is in the processes.
fn a_sigkill_of_criu_leaves_no_network_lock() {
    only_hull!("runc leaves the lock, and the container frozen");
    let mut b = bundle(
        "dd if=/dev/zero bs=1M count=2 2>/dev/null | tr '\\0' x >/large/big; i=0; while true; do \
            i=$((i+1)); echo $i >/tmp/new; mv /tmp/new /tmp/count; sleep 0.1; done",
    );
    b.mount("/large", "tmpfs", "tmpfs", &[]);
    let c = started(&b);
    passed(&b, 1);
    let directory = fixture::new_dir("path");
    let locks = directory.join("locks");
    let list = "{ nft list tables; iptables-save; ip6tables-save; } 2>/dev/null | grep CRIU";
    let script = format!(
        "#!/bin/sh\nnsenter --net=/proc/{}/ns/net sh -c '{list}' >{}\nkill -9 $PPID\n",
        c.pid(),
        locks.display()
    );
    fixture::write_executable(&directory.join("tar"), &script);
    let mut other = b.runtime.clone();
    other.env.push((
        "PATH".into(),
        format!("{}:{}", directory.display(), std::env::var("PATH").unwrap()),
    ));
    for method in ["iptables", "nftables"] {
        let checkpoint = Checkpoint::new();
        let said = other
            .call(&[
                "checkpoint",
                "--network-lock",
                method,
                "--image-path",
                checkpoint.images.to_str().unwrap(),
                &b.id,
            ])
            .failure();
        assert_has!(said, "criu ended without an answer");
        assert!(
            runtime::text(&locks).contains("CRIU"),
            "{method}: nothing was locked: {:?}",
            runtime::text(&locks)
        );
        fs::remove_file(&locks).unwrap();
        still_runs(&b, c.pid());
    }
    Checkpoint::round(&b, &[], &[]);
    passed(&b, count(&b));
}

fn each_damaged_image_is_named() {
    only_hull!("runc does not check the images");
    let b = counter();
    let c = started(&b);
    passed(&b, 1);
    let checkpoint = Checkpoint::new();
    checkpoint.dumped(&b, &[]);
    drop(c);
    let images: Vec<_> = fs::read_dir(&checkpoint.images)
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "img"))
        .collect();
    assert!(images.len() > 10);
    for image in &images {
        let good = fs::read(image).unwrap();
        let name = image.file_name().unwrap().to_str().unwrap();
        let mut bad = good.clone();
        if let Some(byte) = bad.last_mut() {
            *byte ^= 1;
        }
        for (bytes, words) in [
            (&bad[..], "checksum"),
            (&good[..good.len().saturating_sub(1)], "should have"),
        ] {
            fs::write(image, bytes).unwrap();
            if good.is_empty() {
                continue;
            }
            let said = checkpoint.restore(&b, &[]).failure();
            assert_has!(said, name);
            assert_has!(said, words);
            // hull's own error message only: criu has done nothing yet.
            assert_eq!(said.lines().count(), 1, "{said}");
        }
        fs::remove_file(image).unwrap();
        let said = checkpoint.restore(&b, &[]).failure();
        assert!(
            said.contains(name) && said.contains("missing") || said.contains("no images"),
            "{said}"
        );
        fs::write(image, good).unwrap();
    }
    assert!(
        b.call(&["state", &b.id])
            .failure()
            .contains("does not exist")
    );
    let _c = Container::new(&b);
    checkpoint.restored(&b, &[]);
}

/// Asserts that each external mount in the request to criu is one of the plan's steps, with the
/// plan's target, and that each bind of the plan is in the request. Returns the mount points.
fn mounts_are_the_plans(mut b: Bundle) -> Vec<String> {
    let double = Double::of(&mut b);
    let c = started(&b);
    let said = Checkpoint::new().dump(&b, &[]).failure();
    assert_has!(said, "criu");
    assert_eq!(c.status(), "running");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut points = vec![];
    let plan = plan::of(&b, &[]);
    let steps = plan::steps(&plan, CONTAINER_STEPS);
    let target = |step: &Value| {
        step["fields"]["target"]
            .as_str()
            .or(step["fields"]["path"].as_str())
            .unwrap_or_default()
            .to_owned()
    };
    let is_bind = |step: &&Value| {
        step["step"] == json!("Bind")
            || step["step"] == json!("Node") && step["fields"]["bind"] == json!(true)
    };
    for mount in double.request(23).1 {
        let parts = fields(&mount);
        let (point, key) = (text(parts[0].1), text(parts[1].1));
        let step = steps.iter().find(|step| {
            target(step) == point && (is_bind(step) || step["step"] == json!("Protect"))
        });
        let step = step.unwrap_or_else(|| panic!("{point} is not in the plan"));
        let expected = if step["step"] == "Protect" {
            "/dev/null"
        } else {
            &point
        };
        assert_eq!(key, expected, "{step}");
        points.push(point);
    }
    for bind in steps.iter().filter(is_bind) {
        assert!(
            points.contains(&target(bind)),
            "{bind} is in the plan and not in the request to criu: {points:?}"
        );
    }
    points
}

fn external_mounts_come_from_the_plan() {
    only_hull!("only hull has plans");
    let mut b = bundle("sleep 1000");
    let data = fixture::new_dir("data");
    b.mount("/data", "bind", data.to_str().unwrap(), &["bind"]);
    b.mount("/deep/er", "bind", data.to_str().unwrap(), &["bind", "ro"]);
    let points = mounts_are_the_plans(b);
    let has = |point: &str| points.iter().any(|known| known == point);
    assert!(
        has("/data") && has("/deep/er") && has("/proc/keys"),
        "{points:?}"
    );
    // In a user namespace, hull binds the device nodes.
    let mut b = Bundle::with_user_namespace();
    b.args(&["sleep", "1000"]);
    let points = mounts_are_the_plans(b);
    assert!(
        points.iter().any(|point| point == "/dev/null"),
        "{points:?}"
    );
}

/// The namespaces that the container joins, and the files of the caller: the keys are those of the
/// namespaces that the plan opens and of the files that init was given.
fn external_namespaces_and_files_come_from_the_plan() {
    only_hull!("only hull has plans");
    let mut b = bundle("sleep 1000");
    let holder = users::Holder::new(&["--net", "--pid", "--fork", "--kill-child"]);
    b.join("network", holder.path("net"))
        .join("pid", holder.path("pid_for_children"));
    let double = Double::of(&mut b);
    b.write();
    let c = Container::new(&b);
    let mut command = b.runtime.command(&[
        "run",
        "--detach",
        "--bundle",
        b.dir.to_str().unwrap(),
        &b.id,
    ]);
    command
        .stdout(fs::File::create(fixture::new_dir("log").join("log")).unwrap())
        .stderr(std::process::Stdio::null());
    assert!(succeeds(command));
    let inode = |path: &str| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let mut expected = vec![];
    for step in plan::steps(&plan::of(&b, &[]), HOST_STEPS) {
        let Some(path) = step["fields"]["what"]["namespace"]["path"].as_str() else {
            continue;
        };
        let kind = match step["from"].as_str().unwrap() {
            "linux.namespaces[network]" => ("net", "extRootNetNS"),
            "linux.namespaces[pid]" => ("pid", "extRootPidNS"),
            other => panic!("{other} is not in the config"),
        };
        expected.push(format!("{}[{}]:{}", kind.0, inode(path), kind.1));
    }
    assert_eq!(expected.len(), 2);
    let output = format!("/proc/{}/fd/1", c.pid());
    let mount = c
        .proc_file("fdinfo/1")
        .lines()
        .find_map(|line| line.strip_prefix("mnt_id:"))
        .unwrap()
        .trim()
        .parse::<u64>()
        .unwrap();
    expected.push(format!("file[{mount:x}:{:x}]", inode(&output)));
    Checkpoint::new().dump(&b, &[]).failure();
    let mut given: Vec<String> = double
        .request(37)
        .1
        .into_iter()
        .map(|key| String::from_utf8(key).unwrap())
        .collect();
    given.sort();
    expected.sort();
    assert_eq!(given, expected);
}

fn pre_dump_needs_soft_dirty_tracking() {
    let b = counter();
    let c = started(&b);
    let before = passed(&b, 1);
    let checkpoint = Checkpoint::new();
    let out = checkpoint.dump(&b, &["--pre-dump"]);
    assert_eq!(c.status(), "running");
    if out.status != 0 {
        assert_has!(out.stderr, "CONFIG_MEM_SOFT_DIRTY");
        passed(&b, before);
        return;
    }
    let last = checkpoint.beside("last");
    last.dumped(&b, &["--parent-path", "../images"]);
    last.restored(&b, &[]);
    passed(&b, before);
}

fn a_failed_restore_leaves_nothing() {
    let b = counter();
    let c = started(&b);
    passed(&b, 1);
    let checkpoint = Checkpoint::new();
    checkpoint.dumped(&b, &[]);
    drop(c);
    let hooked = {
        let mut other = b.clone();
        other.push("/hooks/prestart", json!({ "path": "/bin/false" }));
        other
    };
    let said = checkpoint.restore(&hooked, &[]).failure();
    assert_has!(said, "hook");
    assert!(
        b.call(&["state", &b.id])
            .failure()
            .contains("does not exist")
    );
    assert!(!b.cgroup_dir("freezer").exists() && !Path::new(&b.runtime.state).join(&b.id).exists());
    let _c = Container::new(&b);
    checkpoint.restored(&b, &[]);
}
