//! What the tests of checkpoint and restore stand on: a criu that fits this kernel, and containers
//! that are saved and brought back.

use crate::support::runtime::{Output, drives_hull};
use crate::support::{Bundle, Container, fixture, harness, leaks, runtime, until};
use prost::encoding::decode_varint;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A criu that works on this kernel: `HULL_TEST_CRIU`, or what `tests/criu/fetch` has. Skips the
/// test with the reason where there is none.
pub fn criu() -> PathBuf {
    if let Some(path) = std::env::var_os("HULL_TEST_CRIU") {
        return path.into();
    }
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let failed = fixture::suite_scratch().join("no-criu");
    if let Ok(reason) = fs::read_to_string(&failed) {
        skip!("{reason}");
    }
    let mut fetch = Command::new(top.join("tests/criu/fetch"));
    fetch.arg(top.join("target/criu"));
    let out = runtime::finish(fetch, Duration::from_secs(220));
    if out.status != 0 {
        let reason = out
            .stderr
            .lines()
            .next()
            .unwrap_or("criu cannot be had")
            .to_owned();
        fs::write(&failed, &reason).unwrap();
        skip!("{reason}");
    }
    PathBuf::from(out.stdout.trim())
}

/// Its version, as `4.2.1`.
pub fn version() -> String {
    let mut command = Command::new(criu());
    command.arg("--version");
    let said = runtime::finish(command, runtime::LIMIT).success().stdout;
    said.lines()
        .find_map(|line| line.strip_prefix("Version: "))
        .unwrap()
        .to_owned()
}

/// Runs a command whose stdio is its own business to its end; true where it succeeded.
pub fn succeeds(mut command: Command) -> bool {
    let mut child = leaks::spawn(&mut command).unwrap();
    let pid = child.id().cast_signed();
    let in_time = harness::wait_within(&mut child, runtime::LIMIT);
    let status = child.wait().unwrap();
    leaks::OWN.lock().unwrap().remove(&pid);
    in_time && status.success()
}

/// A bundle whose runtime knows the criu.
pub fn bundle(script: &str) -> Bundle {
    with_criu(Bundle::sh(script))
}

/// Tells the bundle's runtime of the criu.
pub fn with_criu(mut b: Bundle) -> Bundle {
    let criu = criu();
    b.runtime
        .global
        .extend(["--criu".into(), criu.to_str().unwrap().into()]);
    // Without it criu keeps what it knows of the kernel on no disk, and looks each time.
    b.writable();
    b
}

/// `create` and `start` with nothing on stdin, stdout and stderr: what they are is saved too, and
/// runc cannot save a file of the host.
#[track_caller]
pub fn started(b: &Bundle) -> Container<'_> {
    started_with(b, &[])
}

/// The same with further flags of `create`.
#[track_caller]
pub fn started_with<'a>(b: &'a Bundle, flags: &[&str]) -> Container<'a> {
    b.write();
    let mut command = b.runtime.command(
        &[
            &["create", "--bundle", b.dir.to_str().unwrap()],
            flags,
            &[&b.id],
        ]
        .concat(),
    );
    command.stdout(Stdio::null()).stderr(Stdio::null());
    assert!(succeeds(command), "create failed");
    let c = Container::new(b);
    c.start();
    c
}

/// A container that counts in `/tmp/count`, ten times a second; the number is in its memory alone.
pub fn counter() -> Bundle {
    bundle(
        "i=0; while true; do i=$((i+1)); echo $i >/tmp/new; mv /tmp/new /tmp/count; sleep 0.1; \
            done",
    )
}

/// How far a counter is.
pub fn count(b: &Bundle) -> u64 {
    fs::read_to_string(b.rootfs().join("tmp/count"))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

/// Waits until a counter has passed a number, and gives where it is.
#[track_caller]
pub fn passed(b: &Bundle, number: u64) -> u64 {
    until("the counter to go on", || count(b) > number);
    count(b)
}

/// The folders of images and of the log.
pub struct Saved {
    /// `--image-path`.
    pub images: PathBuf,
    /// `--work-path`.
    pub work: PathBuf,
}

impl Saved {
    /// New folders; that of the images is made by the runtime.
    pub fn new() -> Self {
        let dir = fixture::new_dir("saved");
        Self {
            images: dir.join("images"),
            work: dir.join("work"),
        }
    }

    fn paths(&self) -> [&str; 4] {
        [
            "--image-path",
            self.images.to_str().unwrap(),
            "--work-path",
            self.work.to_str().unwrap(),
        ]
    }

    /// `checkpoint`, with further flags.
    pub fn checkpoint(&self, b: &Bundle, flags: &[&str]) -> Output {
        b.call(&[&["checkpoint"], &self.paths()[..], flags, &[&b.id]].concat())
    }

    /// `checkpoint`, which goes on by itself.
    pub fn begun(&self, b: &Bundle, flags: &[&str]) -> std::process::Child {
        let mut command = b
            .runtime
            .command(&[&["checkpoint"], &self.paths()[..], flags, &[&b.id]].concat());
        leaks::spawn(command.stdout(Stdio::null()).stderr(Stdio::null())).unwrap()
    }

    /// `restore --detach`, with further flags.
    pub fn restore(&self, b: &Bundle, flags: &[&str]) -> Output {
        b.write();
        let bundle = b.dir.to_str().unwrap();
        b.call(
            &[
                &["restore", "--detach", "--bundle", bundle],
                &self.paths()[..],
                flags,
                &[&b.id],
            ]
            .concat(),
        )
    }

    /// A log's text.
    pub fn log(&self, name: &str) -> String {
        runtime::text(self.work.join(name))
    }

    /// `checkpoint` and `restore`, both of which must succeed.
    #[track_caller]
    pub fn round(b: &Bundle, dump: &[&str], restore: &[&str]) -> Self {
        let saved = Self::new();
        saved.dumped(b, dump);
        let out = saved.restore(b, restore);
        assert!(
            out.status == 0,
            "restore: {}\n{}",
            out.stderr,
            saved.tail("restore.log")
        );
        saved
    }

    /// `checkpoint`, which must succeed.
    #[track_caller]
    pub fn dumped(&self, b: &Bundle, flags: &[&str]) {
        let out = self.checkpoint(b, flags);
        assert!(
            out.status == 0,
            "checkpoint: {}\n{}",
            out.stderr,
            self.tail("dump.log")
        );
    }

    fn tail(&self, name: &str) -> String {
        let log = self.log(name);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

/// The same bundle and container once more.
pub fn same(b: &Bundle) -> Bundle {
    Bundle {
        dir: b.dir.clone(),
        spec: b.spec.clone(),
        id: b.id.clone(),
        runtime: b.runtime.clone(),
        cgroup: b.cgroup.clone(),
    }
}

/// The test's own program in criu's place: it writes down what it is asked, and refuses it.
pub struct Double(PathBuf);

impl Double {
    /// Puts it in criu's place for a bundle's runtime.
    pub fn of(b: &mut Bundle) -> Self {
        let folder = fixture::new_dir("double");
        fs::copy(std::env::current_exe().unwrap(), folder.join("criu")).unwrap();
        b.runtime.global = vec![
            "--criu".into(),
            folder.join("criu").to_str().unwrap().into(),
        ];
        Self(folder)
    }

    /// The last request's kind, and the values of one of its options, by the numbers of criu's
    /// published `rpc.proto`.
    pub fn asked(&self, number: u64) -> (Vec<u8>, Vec<Vec<u8>>) {
        let request = fs::read(self.0.join("request")).unwrap();
        let part = |number: u64| {
            fields(&request)
                .into_iter()
                .find(|(one, _)| *one == number)
                .unwrap()
                .1
        };
        let values = fields(part(2))
            .into_iter()
            .filter(|(one, _)| *one == number)
            .map(|(_, bytes)| bytes.to_vec());
        (part(1).to_vec(), values.collect())
    }

    /// Whether it was started with a variable of the environment.
    pub fn had(&self, variable: &str) -> bool {
        fs::read(self.0.join("environment"))
            .unwrap()
            .split(|byte| *byte == 0)
            .any(|one| one == variable.as_bytes())
    }

    /// The value of an option that is given once.
    pub fn option(&self, number: u64) -> Option<Vec<u8>> {
        self.asked(number).1.pop()
    }
}

/// The fields of a message (protocol buffers, Encoding): their numbers and bytes; a number's as
/// they stand there.
pub fn fields(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    let mut found = vec![];
    while !bytes.is_empty() {
        let tag = decode_varint(&mut bytes).unwrap();
        let whole = bytes;
        let length = decode_varint(&mut bytes).unwrap() as usize;
        let value = if tag & 7 == 2 {
            bytes.split_off(..length).unwrap()
        } else {
            &whole[..whole.len() - bytes.len()]
        };
        found.push((tag >> 3, value));
    }
    found
}

/// The same bundle under Debian's runc, with a store of its own.
pub fn with_runc(b: &Bundle) -> Bundle {
    if !drives_hull() {
        skip!("for hull and runc together");
    }
    let mut other = same(b);
    other.id.push_str("-runc");
    other.runtime.program = PathBuf::from("/usr/sbin/runc");
    other.runtime.state = fixture::new_dir("runc").join("state");
    if !other.runtime.program.exists() {
        skip!("runc is not installed");
    }
    other
}

/// A guard for a container that was restored.
pub fn guard(b: &Bundle) -> Container<'_> {
    Container::new(b)
}

/// Asks the probe in a container what it has, by a file in its root; its answer's words.
#[track_caller]
pub fn ask(b: &Bundle, question: &str) -> HashMap<String, String> {
    let (ask, answer) = (b.rootfs().join("tmp/ask"), b.rootfs().join("tmp/answer"));
    fs::remove_file(&answer).ok();
    fs::write(b.rootfs().join("tmp/ask.new"), question).unwrap();
    fs::rename(b.rootfs().join("tmp/ask.new"), ask).unwrap();
    until("the program's answer", || answer.exists());
    runtime::text(answer)
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// A network namespace of the test's own, with a loopback device.
pub fn own_network() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    let mut up = Command::new("ip");
    up.args(["link", "set", "lo", "up"]);
    assert!(leaks::succeeds(&mut up), "no loopback device");
}

/// The same bundle for a second container beside the first, with a cgroup of its own.
pub fn another(b: &Bundle) -> Bundle {
    let mut other = same(b);
    other.id.push_str("-2");
    other.cgroup.push_str("-2");
    other.set("/linux/cgroupsPath", serde_json::json!(other.cgroup));
    other
}
