//! What a guest may do to the host's files: what the bundle shares, and nothing else.

use crate::races::Swapper;
use crate::support::attack::MARK;
use crate::support::machine::{LIMIT, Machine};
use crate::support::runtime::{finish, text};
use crate::support::{fixture, leaks};
use serde_json::json;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

tests![
    a_share_keeps_to_itself,
    attacks_on_the_share_reach_nothing,
    an_annotation_chooses_the_wall_and_ids_are_translated,
    a_read_only_root_leaves_the_bundle_as_it_was,
];

/// Every file with its mode, owner and content, as one number.
fn fingerprint(folder: &Path) -> String {
    let script =
        "find . -printf '%p %m %U %G %s %l\\n' | sort; find . -type f -exec sha256sum {} + | sort";
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let output = leaks::spawn(&mut command)
        .unwrap()
        .wait_with_output()
        .unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn a_share_keeps_to_itself() {
    only_hull!("the second wall");
    let mut machine = Machine::sh("true");
    let (volume, locked, outside) = (
        fixture::new_dir("volume"),
        fixture::new_dir("locked"),
        fixture::new_dir("outside"),
    );
    fs::write(outside.join("secret"), "of the host").unwrap();
    fs::write(locked.join("file"), "as it was").unwrap();
    // Links that lead out, from the host's side, before the guest is there.
    symlink(outside.join("secret"), volume.join("link")).unwrap();
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
    machine
        .bundle
        .writable()
        .mount("/v", "bind", &volume_path, &["rbind"])
        .mount("/l", "bind", &locked_path, &["rbind", "ro"]);
    machine
        .bundle
        .mount("/etc/hosts", "bind", hosts.to_str().unwrap(), &["bind"]);
    machine.bundle.add_caps(&[
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
        mkdir /v/dir && mv /v/dir /v/moved; echo written >/v/moved/file; mkdir -p /new/folder; \
        echo in root >/new/folder/file",
        out = outside.display()
    );
    machine.bundle.args(&["/bin/sh", "-c", &script]);
    let out = machine.run().success().stdout;
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
        "root's, and therefore without the bit"
    );
    assert_eq!(text(locked.join("file")), "as it was");
    assert_eq!(
        text(volume.join("moved/file")),
        "written\n",
        "changes reach the host"
    );
    assert_eq!(
        text(machine.bundle.rootfs().join("new/folder/file")),
        "in root\n",
        "and the bundle"
    );
}

/// From inside, with every right that a guest can have, while the host exchanges a folder of the
/// share and a link out of it.
fn attacks_on_the_share_reach_nothing() {
    only_hull!("the second wall");
    let mut machine = Machine::sh("true");
    let (volume, locked, outside) = (
        fixture::new_dir("volume"),
        fixture::new_dir("locked"),
        fixture::new_dir("outside"),
    );
    fs::write(outside.join("secret"), format!("{MARK}nobody else's")).unwrap();
    fs::write(locked.join("file"), "as it was").unwrap();
    fs::create_dir(volume.join("theirs")).unwrap();
    fs::write(volume.join("theirs/secret"), "inside").unwrap();
    symlink(&outside, volume.join("theirs-link")).unwrap();
    symlink(outside.join("secret"), volume.join("their-file-link")).unwrap();
    machine
        .bundle
        .writable()
        .mount("/v", "bind", volume.to_str().unwrap(), &["rbind"])
        .mount("/l", "bind", locked.to_str().unwrap(), &["rbind", "ro"]);
    machine.bundle.add_caps(&[
        "CAP_SYS_ADMIN",
        "CAP_DAC_READ_SEARCH",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_LINUX_IMMUTABLE",
    ]);
    machine
        .bundle
        .args(&["/bin/probe", "--probe", "attack", outside.to_str().unwrap()]);
    let (before, locked_before) = (fingerprint(&outside), fingerprint(&locked));
    let mut swapper = Swapper::new(volume.join("theirs"), volume.join("theirs-link"));
    let out = machine.run().success().stdout;
    assert!(swapper.end() > 100, "the host hardly exchanged anything");
    assert!(!out.contains("leak"), "{out}");
    assert_eq!(
        (fingerprint(&outside), fingerprint(&locked)),
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

/// A bundle whose own words ask for a machine, and a volume whose ids are others inside.
fn an_annotation_chooses_the_wall_and_ids_are_translated() {
    only_hull!("the second wall");
    let mut machine = Machine::sh(
        "cat /proc/sys/kernel/random/boot_id; stat -c '%u %g' /v/file; touch /v/made; chown 7:8 \
            /v/made; stat -c '%u %g' /v/made",
    );
    let file = fixture::new_dir("defaults").join("config.toml");
    fs::write(&file, format!("[vm]\nkernel = {:?}\n", machine.kernel)).unwrap();
    let volume = fixture::new_dir("volume");
    fs::write(volume.join("file"), "").unwrap();
    std::os::unix::fs::chown(volume.join("file"), Some(100_005), Some(100_006)).unwrap();
    std::os::unix::fs::chown(&volume, Some(100_000), Some(100_000)).unwrap();
    // What the file system has on the left is on the right in the mount (config.md, mounts).
    let map = json!([{ "containerID": 100_000, "hostID": 0, "size": 65536 }]);
    machine.bundle.push("/mounts", json!({
        "destination": "/v", "type": "bind", "source": volume, "options": ["rbind", "ridmap"], "uidMappings": map, "gidMappings": map
    }));
    machine
        .bundle
        .set("/annotations", json!({ "org.hull.backend": "vm" }))
        .add_caps(&["CAP_CHOWN"]);
    machine
        .bundle
        .runtime
        .env
        .push(("HULL_CONFIG".into(), file.display().to_string()));
    machine.bundle.write();
    let dir = machine.bundle.dir.display().to_string();
    let out = finish(
        machine
            .bundle
            .runtime
            .command(&["run", "--bundle", &dir, &machine.bundle.id]),
        LIMIT,
    )
    .success()
    .stdout;
    let (boot, owners) = out.split_once('\n').unwrap();
    assert_ne!(
        boot,
        text("/proc/sys/kernel/random/boot_id").trim(),
        "a kernel of its own"
    );
    assert_eq!(owners, "5 6\n7 8\n");
    let made = fs::metadata(volume.join("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (100_007, 100_008));
}

fn a_read_only_root_leaves_the_bundle_as_it_was() {
    only_hull!("the second wall");
    let mut machine = Machine::sh("touch /file; echo $?; ls /proc/self >/dev/null && echo proc");
    let root = machine.bundle.rootfs();
    for folder in ["proc", "dev", "sys", "tmp"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    machine.bundle.set("/root/readonly", json!(true));
    let before = fingerprint(&root);
    let out = machine.run().success().stdout;
    assert_eq!(out, "1\nproc\n");
    assert_eq!(fingerprint(&root), before);
}
