//! What a guest may do to the host's files: what the bundle shares, and nothing else.

use crate::support::machine::Machine;
use crate::support::runtime::text;
use crate::support::{fixture, leaks};
use serde_json::json;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

tests![a_share_keeps_to_itself, a_read_only_root_leaves_the_bundle_as_it_was];

/// Every file with its mode, owner and content, as one number.
fn fingerprint(folder: &Path) -> String {
    let script = "find . -printf '%p %m %U %G %s %l\\n' | sort; find . -type f -exec sha256sum {} + | sort";
    let mut command = Command::new("sh");
    command.args(["-c", script]).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped());
    let output = leaks::spawn(&mut command).unwrap().wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn a_share_keeps_to_itself() {
    only_hull!("the second wall");
    let mut machine = Machine::sh("true");
    let (volume, locked, outside) = (fixture::new_dir("volume"), fixture::new_dir("locked"), fixture::new_dir("outside"));
    fs::write(outside.join("secret"), "of the host").unwrap();
    fs::write(locked.join("file"), "as it was").unwrap();
    // Links that lead out, from the host's side, before the guest is there.
    symlink(outside.join("secret"), volume.join("link")).unwrap();
    symlink("../../../../../../../../../../etc/shadow", volume.join("up")).unwrap();
    let (volume_path, locked_path) = (volume.to_str().unwrap().to_owned(), locked.to_str().unwrap().to_owned());
    let hosts = volume.join("hosts");
    fs::write(&hosts, "127.0.0.1 here\n").unwrap();
    machine.bundle.writable().mount("/v", "bind", &volume_path, &["rbind"]).mount("/l", "bind", &locked_path, &["rbind", "ro"]);
    machine.bundle.mount("/etc/hosts", "bind", hosts.to_str().unwrap(), &["bind"]);
    machine.bundle.add_caps(&["CAP_MKNOD", "CAP_CHOWN", "CAP_FOWNER", "CAP_FSETID", "CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN", "CAP_SETFCAP"]);
    let script = format!(
        "say() {{ echo \"$1: $({{ eval \"$2\"; }} >/dev/null 2>&1 && echo done || echo refused)\"; }}
        cat /etc/hosts; cat /v/link /v/up 2>/dev/null
        say node 'mknod /v/disk b 8 0'; say null 'mknod /v/null c 1 3'; say fifo 'mknod /v/fifo p'
        echo x >/v/tool; say setuid 'chmod 4755 /v/tool'; say setgid 'chmod 2755 /v/tool'; say mode 'chmod 755 /v/tool'
        echo y >/v/theirs; chown 1000:1000 /v/theirs; say theirs 'chmod 4755 /v/theirs'; say back 'chown 0:0 /v/theirs'
        say locked 'echo z >/l/file'; say more 'touch /l/more'
        say out 'ls {out}'; say dots 'cat /v/../../../../../../..{out}/secret'
        ln -s {out}/secret /v/made; say made 'cat /v/made'
        mkdir /v/dir && mv /v/dir /v/moved; echo written >/v/moved/file; mkdir -p /new/folder; echo in root >/new/folder/file",
        out = outside.display()
    );
    machine.bundle.args(&["/bin/sh", "-c", &script]);
    let out = machine.run().success().stdout;
    assert!(out.starts_with("127.0.0.1 here\n"), "{out}");
    assert!(!out.contains("of the host") && !out.contains("root:"), "{out}");
    for refused in ["node", "null", "setuid", "setgid", "locked", "more", "out", "dots", "made"] {
        assert_has!(out, format!("{refused}: refused\n"));
    }
    for done in ["fifo", "mode", "theirs", "back"] {
        assert_has!(out, format!("{done}: done\n"));
    }
    assert!(!volume.join("disk").exists() && !volume.join("null").exists());
    assert_eq!(fs::metadata(volume.join("tool")).unwrap().mode() & 0o7777, 0o755);
    let theirs = fs::metadata(volume.join("theirs")).unwrap();
    assert_eq!((theirs.uid(), theirs.mode() & 0o6000), (0, 0), "root's, and therefore without the bit");
    assert_eq!(text(locked.join("file")), "as it was");
    assert_eq!(text(volume.join("moved/file")), "written\n", "changes reach the host");
    assert_eq!(text(machine.bundle.rootfs().join("new/folder/file")), "in root\n", "and the bundle");
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
