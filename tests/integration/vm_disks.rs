//! Disks of a machine: an image of the root file system, and block devices of the host's.

use crate::support::machine::Machine;
use crate::support::{fixture, leaks};
use serde_json::json;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

tests![the_root_comes_from_an_image, block_devices_are_disks];

fn output(command: &mut Command) -> String {
    let output = leaks::spawn(
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped()),
    )
    .unwrap()
    .wait_with_output()
    .unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn the_root_comes_from_an_image() {
    only_hull!("the second wall");
    if !leaks::succeeds(
        Command::new("mkfs.erofs")
            .arg("--help")
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    ) {
        skip!("erofs-utils is not installed");
    }
    let mut machine = Machine::sh(
        "mount | grep ' / '; ls -ln /etc/passwd; echo new >/etc/new && cat /etc/new; rm \
            /etc/passwd; ls /run/hull 2>&1; true",
    );
    machine.bundle.writable();
    let root = machine.bundle.rootfs();
    std::os::unix::fs::chown(root.join("etc/passwd"), Some(12), Some(34)).unwrap();
    let said = machine.run_with(&["--vm-rootfs", "image"]).success().stdout;
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].contains(" type overlay "), "{said}");
    assert!(
        lines[1].contains(" 12 ") && lines[1].contains(" 34 "),
        "owners: {said}"
    );
    assert_eq!(lines[2], "new", "{said}");
    assert!(
        lines[3].contains("No such file"),
        "nothing of the guest's own is seen: {said}"
    );
    assert!(
        root.join("etc/passwd").exists() && !root.join("etc/new").exists(),
        "what it changed is gone"
    );
    let images = |machine: &Machine| {
        let entries = fs::read_dir(machine.bundle.dir.join("state/@vm"))
            .unwrap()
            .flatten()
            .map(|entry| entry.path());
        entries
            .filter(|path| path.extension().is_some_and(|end| end == "erofs"))
            .collect::<Vec<PathBuf>>()
    };
    let first = images(&machine);
    assert_eq!(first.len(), 1);
    let inode = fs::metadata(&first[0]).unwrap().ino();

    // The config's own image, here the one that was just made; and a root that is read-only.
    machine.bundle.set(
        "/vm",
        json!({ "image": { "path": first[0], "format": "raw" }, "kernel": { "path": "" } }),
    );
    machine.bundle.set("/root/readonly", json!(true)).args(&[
        "sh",
        "-c",
        "touch /etc/other; echo $?; cat /etc/group",
    ]);
    fs::write(root.join("etc/group"), "of the folder\n").unwrap();
    let said = machine.run().success().stdout;
    assert!(
        said.starts_with("1\n") && !said.contains("of the folder"),
        "{said}"
    );
    assert_eq!(
        fs::metadata(&first[0]).unwrap().ino(),
        inode,
        "the image is used as it is"
    );
}

/// A loop device on a file, for as long as the test lasts.
struct Loop {
    device: PathBuf,
    file: PathBuf,
}

impl Loop {
    fn new(fill: impl FnOnce(&Path)) -> Self {
        let file = fixture::new_dir("disk").join("file");
        File::create(&file).unwrap().set_len(8 << 20).unwrap();
        fill(&file);
        let mut command = Command::new("losetup");
        command
            .args(["--find", "--show"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let made = leaks::spawn(&mut command)
            .unwrap()
            .wait_with_output()
            .unwrap();
        if !made.status.success() {
            skip!(
                "no loop device: {}",
                String::from_utf8_lossy(&made.stderr).trim()
            );
        }
        Self {
            device: PathBuf::from(String::from_utf8(made.stdout).unwrap().trim()),
            file,
        }
    }

    fn numbers(&self) -> (u32, u32) {
        let device = fs::metadata(&self.device).unwrap().rdev();
        (libc::major(device), libc::minor(device))
    }

    fn start(&self) -> String {
        let mut bytes = [0; 16];
        File::open(&self.file)
            .unwrap()
            .read_exact(&mut bytes)
            .unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        leaks::succeeds(Command::new("losetup").arg("--detach").arg(&self.device));
    }
}

fn block_devices_are_disks() {
    only_hull!("the second wall");
    let begins = |file: &Path| {
        File::options()
            .write(true)
            .open(file)
            .unwrap()
            .write_all(b"of the host's   ")
            .unwrap()
    };
    let (plain, closed) = (Loop::new(begins), Loop::new(begins));
    let system = Loop::new(|file| {
        let folder = fixture::new_dir("files");
        fs::write(folder.join("file"), "on ext4\n").unwrap();
        output(
            Command::new("mkfs.ext4")
                .args(["-q", "-F", "-d"])
                .arg(&folder)
                .arg(file),
        );
    });
    let mut machine = Machine::sh(
        "head -c 16 /dev/plain; echo; echo 'of the guest   ' | dd of=/dev/plain \
            conv=notrunc,fsync 2>/dev/null; echo $?
        head -c 16 /dev/closed; echo; stat -c '%a %u %g' /dev/closed; echo no | dd of=/dev/closed \
        conv=fsync 2>/dev/null; echo $?
        cat /files/file; touch /files/more; echo $?; ls /dev/vd* 2>/dev/null; exit 0",
    );
    let (major, minor) = closed.numbers();
    machine.bundle.mount(
        "/dev/plain",
        "bind",
        plain.device.to_str().unwrap(),
        &["bind"],
    );
    machine
        .bundle
        .mount("/files", "ext4", system.device.to_str().unwrap(), &["ro"]);
    machine.bundle.push("/linux/devices", json!({ "path": "/dev/closed", "type": "b", "major": major, "minor": minor, "fileMode": 0o644, "uid": 3, "gid": 4 }));
    machine.bundle.push(
        "/linux/resources/devices",
        json!({ "allow": true, "type": "b", "major": major, "minor": minor, "access": "r" }),
    );
    let (major, minor) = plain.numbers();
    machine.bundle.push(
        "/linux/resources/devices",
        json!({ "allow": true, "type": "b", "major": major, "minor": minor, "access": "rw" }),
    );
    let said = machine.run().success().stdout;
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines,
        [
            "of the host's   ",
            "0",
            "of the host's   ",
            "644 3 4",
            "1",
            "on ext4",
            "1"
        ],
        "{said}"
    );
    output(Command::new("sync").arg(&plain.device));
    assert_eq!(plain.start(), "of the guest   \n");
    assert_eq!(closed.start(), "of the host's   ");
    // A device that is not there.
    machine.bundle.push(
        "/linux/devices",
        json!({ "path": "/dev/none", "type": "b", "major": 4000, "minor": 1 }),
    );
    assert_has!(machine.refused(), "4000:1");
}
