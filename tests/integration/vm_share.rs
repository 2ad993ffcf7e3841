//! The share of a VM: the guest reaches the directories that the bundle shares and nothing else of
//! the host, with the modes and owners that the bundle allows.

use crate::races::Swapper;
use crate::support::backend::ANNOTATION;
use crate::support::fixture;
use crate::support::runtime::{finish, text};
use crate::support::share_attack::MARK;
use crate::support::vm::{BOOT_ID, LIMIT, Vm};
use serde_json::json;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

tests![
    a_share_reaches_only_its_directories,
    attacks_on_the_share_fail,
    an_annotation_chooses_the_backend_and_ids_are_translated,
    a_read_only_root_leaves_the_bundle_unchanged,
];

/// Every file with its mode, owner and content, as one number.
fn fingerprint(directory: &Path) -> String {
    let script =
        "find . -printf '%p %m %U %G %s %l\\n' | sort; find . -type f -exec sha256sum {} + | sort";
    let mut command = Command::new("sh");
    command.args(["-c", script]).current_dir(directory);
    finish(command, LIMIT).success().stdout
}

// Attack: a hostile guest
fn a_share_reaches_only_its_directories() {
    only_hull!("the VM backend");
    let mut vm = Vm::sh("true");
    let (volume, locked, unshared) = (
        fixture::new_dir("volume"),
        fixture::new_dir("locked"),
        fixture::new_dir("unshared"),
    );
    fs::write(unshared.join("secret"), "of the host").unwrap();
    fs::write(locked.join("file"), "as it was").unwrap();
    // Links that the host has made and that lead out of the share.
    symlink(unshared.join("secret"), volume.join("link")).unwrap();
    symlink(
        "../../../../../../../../../../etc/shadow",
        volume.join("up"),
    )
    .unwrap();
    let (volume_path, locked_path) = (
        volume.to_str().unwrap().to_owned(),
        locked.to_str().unwrap().to_owned(),
    );
    let hosts = volume.join("hosts");
    fs::write(&hosts, "127.0.0.1 here\n").unwrap();
    vm.bundle
        .writable()
        .mount("/v", "bind", &volume_path, &["rbind"])
        .mount("/l", "bind", &locked_path, &["rbind", "ro"]);
    vm.bundle
        .mount("/etc/hosts", "bind", hosts.to_str().unwrap(), &["bind"]);
    vm.bundle.add_caps(&[
        "CAP_MKNOD",
        "CAP_CHOWN",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_DAC_OVERRIDE",
        "CAP_SYS_ADMIN",
        "CAP_SETFCAP",
    ]);
    let script = format!(
        "say() {{ echo \"$1: $({{ eval \"$2\"; }} >/dev/null 2>&1 && echo done || echo \
            refused)\"; }}
        cat /etc/hosts; cat /v/link /v/up 2>/dev/null
        say node 'mknod /v/disk b 8 0'; say null 'mknod /v/null c 1 3'; say fifo 'mknod /v/fifo p'
        echo x >/v/tool; say setuid 'chmod 4755 /v/tool'; say setgid 'chmod 2755 /v/tool'; say \
        mode 'chmod 755 /v/tool'
        echo y >/v/theirs; chown 1000:1000 /v/theirs; say theirs 'chmod 4755 /v/theirs'; say back \
        'chown 0:0 /v/theirs'
        say locked 'echo z >/l/file'; say more 'touch /l/more'
        say out 'ls {out}'; say dots 'cat /v/../../../../../../..{out}/secret'
        ln -s {out}/secret /v/made; say made 'cat /v/made'
        mkdir /v/dir && mv /v/dir /v/moved; echo written >/v/moved/file; mkdir -p /new/dir; \
        echo in root >/new/dir/file",
        out = unshared.display()
    );
    vm.bundle.args(&["/bin/sh", "-c", &script]);
    let out = vm.run().success().stdout;
    assert!(out.starts_with("127.0.0.1 here\n"), "{out}");
    assert!(
        !out.contains("of the host") && !out.contains("root:"),
        "{out}"
    );
    for refused in [
        "node", "null", "setuid", "setgid", "locked", "more", "out", "dots", "made",
    ] {
        assert_has!(out, format!("{refused}: refused\n"));
    }
    for done in ["fifo", "mode", "theirs", "back"] {
        assert_has!(out, format!("{done}: done\n"));
    }
    assert!(!volume.join("disk").exists() && !volume.join("null").exists());
    assert_eq!(
        fs::metadata(volume.join("tool")).unwrap().mode() & 0o7777,
        0o755
    );
    let theirs = fs::metadata(volume.join("theirs")).unwrap();
    assert_eq!(
        (theirs.uid(), theirs.mode() & 0o6000),
        (0, 0),
        "a file of root with the setuid or setgid bit"
    );
    assert_eq!(text(locked.join("file")), "as it was");
    assert_eq!(
        text(volume.join("moved/file")),
        "written\n",
        "changes reach the host"
    );
    assert_eq!(
        text(vm.bundle.rootfs().join("new/dir/file")),
        "in root\n",
        "and the bundle"
    );
}

/// In the guest, with every capability that helps, while the host exchanges a directory of the
/// share and a link out of it.
// Attack: a hostile guest
fn attacks_on_the_share_fail() {
    only_hull!("the VM backend");
    let mut vm = Vm::sh("true");
    let (volume, locked, unshared) = (
        fixture::new_dir("volume"),
        fixture::new_dir("locked"),
        fixture::new_dir("unshared"),
    );
    fs::write(unshared.join("secret"), format!("{MARK}nobody else's")).unwrap();
    fs::write(locked.join("file"), "as it was").unwrap();
    fs::create_dir(volume.join("theirs")).unwrap();
    fs::write(volume.join("theirs/secret"), "of the share").unwrap();
    symlink(&unshared, volume.join("theirs-link")).unwrap();
    symlink(unshared.join("secret"), volume.join("their-file-link")).unwrap();
    vm.bundle
        .writable()
        .mount("/v", "bind", volume.to_str().unwrap(), &["rbind"])
        .mount("/l", "bind", locked.to_str().unwrap(), &["rbind", "ro"]);
    vm.bundle.add_caps(&[
        "CAP_SYS_ADMIN",
        "CAP_DAC_READ_SEARCH",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_LINUX_IMMUTABLE",
    ]);
    vm.bundle.args(&[
        "/bin/probe",
        "--probe",
        "attack",
        unshared.to_str().unwrap(),
    ]);
    let (before, locked_before) = (fingerprint(&unshared), fingerprint(&locked));
    let mut swapper = Swapper::new(volume.join("theirs"), volume.join("theirs-link"));
    let out = vm.run().success().stdout;
    assert!(
        swapper.end() > 100,
        "the host exchanged the names too rarely"
    );
    assert!(!out.contains("leak"), "{out}");
    assert_eq!(
        (fingerprint(&unshared), fingerprint(&locked)),
        (before, locked_before),
        "{out}"
    );
    let race = out.lines().find(|line| line.starts_with("race: ")).unwrap();
    let numbers: Vec<u64> = race
        .split(' ')
        .filter_map(|word| word.parse().ok())
        .collect();
    assert!(
        numbers.len() == 3 && numbers.iter().all(|number| *number > 0),
        "{race}"
    );
    for line in [
        "link by name: ",
        "link by a link: ",
        "link of another share: ",
        "link by /proc: ",
        "reopened: ",
        "rename to /l/mine: ",
        "handles: ",
        "second mount: ",
    ] {
        assert_has!(out, format!("\n{line}"));
    }
}

/// A bundle whose annotation chooses the VM backend, and an idmapped volume.
fn an_annotation_chooses_the_backend_and_ids_are_translated() {
    only_hull!("the VM backend");
    let mut vm = Vm::sh(
        "cat /proc/sys/kernel/random/boot_id; stat -c '%u %g' /v/file; touch /v/made; chown 7:8 \
            /v/made; stat -c '%u %g' /v/made",
    );
    vm.bundle
        .runtime
        .set_defaults(&format!("[vm]\nkernel = {:?}\n", vm.kernel));
    let volume = fixture::new_dir("volume");
    fs::write(volume.join("file"), "").unwrap();
    std::os::unix::fs::chown(volume.join("file"), Some(100_005), Some(100_006)).unwrap();
    std::os::unix::fs::chown(&volume, Some(100_000), Some(100_000)).unwrap();
    // What the file system has on the left is on the right in the mount (config.md, mounts).
    let map = json!([{ "containerID": 100_000, "hostID": 0, "size": 65536 }]);
    vm.bundle.push("/mounts", json!({
        "destination": "/v", "type": "bind", "source": volume, "options": ["rbind", "ridmap"], "uidMappings": map, "gidMappings": map
    }));
    vm.bundle
        .set("/annotations", json!({ ANNOTATION: "vm" }))
        .add_caps(&["CAP_CHOWN"]);
    vm.bundle.write();
    let dir = vm.bundle.dir.display().to_string();
    let out = finish(
        vm.bundle
            .runtime
            .command(&["run", "--bundle", &dir, &vm.bundle.id]),
        LIMIT,
    )
    .success()
    .stdout;
    let (boot, owners) = out.split_once('\n').unwrap();
    assert_ne!(
        boot,
        text(BOOT_ID).trim(),
        "the container runs on the host's kernel"
    );
    assert_eq!(owners, "5 6\n7 8\n");
    let made = fs::metadata(volume.join("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (100_007, 100_008));
}

// Attack: CVE-2025-24965
fn a_read_only_root_leaves_the_bundle_unchanged() {
    only_hull!("the VM backend");
    let mut vm = Vm::sh("touch /file; echo $?; ls /proc/self >/dev/null && echo proc");
    let root = vm.bundle.rootfs();
    for name in ["proc", "dev", "sys", "tmp"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    vm.bundle.set("/root/readonly", json!(true));
    let before = fingerprint(&root);
    let out = vm.run().success().stdout;
    assert_eq!(out, "1\nproc\n");
    assert_eq!(fingerprint(&root), before);
}
