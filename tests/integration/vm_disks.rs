//! The disks of a VM: an image of the root file system, and block devices of the host.

use crate::support::runtime::{LIMIT, finish};
use crate::support::vm::Vm;
use crate::support::{fixture, leaks};
use serde_json::json;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

tests![the_root_comes_from_an_image, block_devices_are_disks];

fn the_root_comes_from_an_image() {
    only_hull!("the VM backend");
    if !leaks::succeeds(
        Command::new("mkfs.erofs")
            .arg("--help")
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    ) {
        skip!("erofs-utils is not installed");
    }
    let mut vm = Vm::sh(
        "mount | grep ' / '; ls -ln /etc/passwd; echo new >/etc/new && cat /etc/new; rm \
            /etc/passwd; ls /run/hull 2>&1; true",
    );
    vm.bundle.writable();
    let root = vm.bundle.rootfs();
    // Each new bundle of another test changes the ctime of a shared file, and hull makes no image
    // of files that change meanwhile.
    for name in ["busybox", "probe"] {
        fixture::make_private(&root.join("bin").join(name));
    }
    std::os::unix::fs::chown(root.join("etc/passwd"), Some(12), Some(34)).unwrap();
    let said = vm.run_with(&["--vm-rootfs", "image"]).success().stdout;
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].contains(" type overlay "), "{said}");
    assert!(
        lines[1].contains(" 12 ") && lines[1].contains(" 34 "),
        "owners: {said}"
    );
    assert_eq!(lines[2], "new", "{said}");
    assert!(
        lines[3].contains("No such file"),
        "the container sees the guest's own files: {said}"
    );
    assert!(
        root.join("etc/passwd").exists() && !root.join("etc/new").exists(),
        "the bundle's root has changed"
    );
    let images = |vm: &Vm| {
        let entries = fs::read_dir(vm.bundle.dir.join("state/@vm"))
            .unwrap()
            .flatten()
            .map(|entry| entry.path());
        entries
            .filter(|path| path.extension().is_some_and(|end| end == "erofs"))
            .collect::<Vec<PathBuf>>()
    };
    let first = images(&vm);
    assert_eq!(first.len(), 1);
    let inode = fs::metadata(&first[0]).unwrap().ino();

    // An image that the config names: the one that hull has just made; and a read-only root.
    vm.bundle.set(
        "/vm",
        json!({ "image": { "path": first[0], "format": "raw" }, "kernel": { "path": "" } }),
    );
    vm.bundle.set("/root/readonly", json!(true)).args(&[
        "sh",
        "-c",
        "touch /etc/other; echo $?; cat /etc/group",
    ]);
    fs::write(root.join("etc/group"), "of the directory\n").unwrap();
    let said = vm.run().success().stdout;
    assert!(
        said.starts_with("1\n") && !said.contains("of the directory"),
        "{said}"
    );
    assert_eq!(
        fs::metadata(&first[0]).unwrap().ino(),
        inode,
        "hull has made another image"
    );
}

/// A loop device on a file; dropping it detaches the device.
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
        command.args(["--find", "--show"]).arg(&file);
        let made = leaks::output(&mut command).unwrap();
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
    only_hull!("the VM backend");
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
        let files = fixture::new_dir("files");
        fs::write(files.join("file"), "on ext4\n").unwrap();
        let mut mkfs = Command::new("mkfs.ext4");
        mkfs.args(["-q", "-F", "-d"]).arg(&files).arg(file);
        finish(mkfs, LIMIT).success();
    });
    let mut vm = Vm::sh(
        "head -c 16 /dev/plain; echo; echo 'of the guest   ' | dd of=/dev/plain \
            conv=notrunc,fsync 2>/dev/null; echo $?
        head -c 16 /dev/closed; echo; stat -c '%a %u %g' /dev/closed; echo no | dd of=/dev/closed \
        conv=fsync 2>/dev/null; echo $?
        cat /files/file; touch /files/more; echo $?; ls /dev/vd* 2>/dev/null; exit 0",
    );
    let (major, minor) = closed.numbers();
    vm.bundle.mount(
        "/dev/plain",
        "bind",
        plain.device.to_str().unwrap(),
        &["bind"],
    );
    vm.bundle
        .mount("/files", "ext4", system.device.to_str().unwrap(), &["ro"]);
    vm.bundle.push("/linux/devices", json!({ "path": "/dev/closed", "type": "b", "major": major, "minor": minor, "fileMode": 0o644, "uid": 3, "gid": 4 }));
    vm.bundle.push(
        "/linux/resources/devices",
        json!({ "allow": true, "type": "b", "major": major, "minor": minor, "access": "r" }),
    );
    let (major, minor) = plain.numbers();
    vm.bundle.push(
        "/linux/resources/devices",
        json!({ "allow": true, "type": "b", "major": major, "minor": minor, "access": "rw" }),
    );
    let said = vm.run().success().stdout;
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
    let mut sync = Command::new("sync");
    sync.arg(&plain.device);
    finish(sync, LIMIT).success();
    assert_eq!(plain.start(), "of the guest   \n");
    assert_eq!(closed.start(), "of the host's   ");
    // A device that does not exist.
    vm.bundle.push(
        "/linux/devices",
        json!({ "path": "/dev/none", "type": "b", "major": 4000, "minor": 1 }),
    );
    assert_has!(vm.refused(), "4000:1");
}
