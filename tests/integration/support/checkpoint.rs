//! What the tests of checkpoint and restore use: a criu that fits this kernel, containers whose
//! state can be compared before and after, and a double of criu.

use super::runtime::{Output, drives_hull};
use super::{Bundle, Container, fixture, leaks, runtime, until};
use prost::encoding::decode_varint;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A criu that works on this kernel: `HULL_TEST_CRIU`, or the one that `tests/criu/fetch` builds.
/// Skips the test with the reason where there is none.
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
            .unwrap_or("criu is not available")
            .to_owned();
        fs::write(&failed, &reason).unwrap();
        skip!("{reason}");
    }
    PathBuf::from(out.stdout.trim())
}

/// The version of that criu, as `4.2.1`.
pub fn version() -> String {
    let mut command = Command::new(criu());
    command.arg("--version");
    let said = runtime::finish(command, runtime::LIMIT).success().stdout;
    said.lines()
        .find_map(|line| line.strip_prefix("Version: "))
        .unwrap()
        .to_owned()
}

/// Runs a command to its end, with the standard streams that it has; whether it succeeded.
pub fn succeeds(mut command: Command) -> bool {
    runtime::wait(leaks::spawn(&mut command).unwrap(), runtime::LIMIT) == 0
}

/// A bundle whose runtime uses that criu.
pub fn bundle(script: &str) -> Bundle {
    with_criu(Bundle::sh(script))
}

/// Gives the bundle's runtime that criu.
pub fn with_criu(mut b: Bundle) -> Bundle {
    let criu = criu();
    b.runtime
        .global
        .extend(["--criu".into(), criu.to_str().unwrap().into()]);
    // The programs write to /tmp.
    b.writable();
    b
}

/// `create` and `start` with `/dev/null` as standard streams: a checkpoint contains them too, and
/// runc cannot checkpoint a file of the host.
#[track_caller]
pub fn started(b: &Bundle) -> Container<'_> {
    started_with(b, &[])
}

/// `create` with further flags, and `start`.
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

/// A script that counts, ten times a second, and writes the number to `/tmp/count`; its memory
/// alone has the number.
pub const COUNT: &str = "i=0; while true; do i=$((i+1)); echo $i >/tmp/new; mv /tmp/new \
    /tmp/count; sleep 0.1; done";

/// A bundle that counts.
pub fn counter() -> Bundle {
    bundle(COUNT)
}

/// The number that a counter has reached.
pub fn count(b: &Bundle) -> u64 {
    fs::read_to_string(b.rootfs().join("tmp/count"))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

/// Waits until a counter has passed a number, and returns its number then.
#[track_caller]
pub fn passed(b: &Bundle, number: u64) -> u64 {
    until("the counter to continue", || count(b) > number);
    count(b)
}

/// A checkpoint: the directories of its images and of criu's logs.
pub struct Checkpoint {
    /// `--image-path`.
    pub images: PathBuf,
    /// `--work-path`.
    pub work: PathBuf,
}

impl Checkpoint {
    /// New directories; the runtime makes that of the images.
    pub fn new() -> Self {
        let dir = fixture::new_dir("checkpoint");
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

    /// The directories of another checkpoint, beside those of this one.
    pub fn beside(&self, name: &str) -> Self {
        Self {
            images: self.images.with_file_name(name),
            work: self.work.with_file_name(format!("{name}-work")),
        }
    }

    /// `checkpoint`, with further flags.
    pub fn dump(&self, b: &Bundle, flags: &[&str]) -> Output {
        b.call(&[&["checkpoint"], &self.paths()[..], flags, &[&b.id]].concat())
    }

    /// `checkpoint`, started only.
    pub fn spawn_dump(&self, b: &Bundle, flags: &[&str]) -> std::process::Child {
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

    /// The text of a log.
    pub fn log(&self, name: &str) -> String {
        runtime::text(self.work.join(name))
    }

    /// `checkpoint` and `restore`, both of which must succeed.
    #[track_caller]
    pub fn round(b: &Bundle, dump: &[&str], restore: &[&str]) -> Self {
        let checkpoint = Self::new();
        checkpoint.dumped(b, dump);
        checkpoint.restored(b, restore);
        checkpoint
    }

    /// `checkpoint`, which must succeed.
    #[track_caller]
    pub fn dumped(&self, b: &Bundle, flags: &[&str]) {
        let out = self.dump(b, flags);
        assert!(
            out.status == 0,
            "checkpoint: {}\n{}",
            out.stderr,
            self.tail("dump.log")
        );
    }

    /// `restore --detach`, which must succeed; its output.
    #[track_caller]
    pub fn restored(&self, b: &Bundle, flags: &[&str]) -> Output {
        let out = self.restore(b, flags);
        assert!(
            out.status == 0,
            "restore: {}\n{}",
            out.stderr,
            self.tail("restore.log")
        );
        out
    }

    fn tail(&self, name: &str) -> String {
        let log = self.log(name);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

/// A double of criu, which is the test's own program: it records each request and refuses it.
pub struct Double(PathBuf);

impl Double {
    /// Makes a bundle's runtime use the double.
    pub fn of(b: &mut Bundle) -> Self {
        let directory = fixture::new_dir("double");
        let criu = directory.join("criu");
        fs::copy(std::env::current_exe().unwrap(), &criu).unwrap();
        b.runtime.global = vec!["--criu".into(), criu.to_str().unwrap().into()];
        Self(directory)
    }

    /// The type of the last request, and the values of one of its options, by the field numbers of
    /// criu's published `rpc.proto`.
    pub fn request(&self, number: u64) -> (Vec<u8>, Vec<Vec<u8>>) {
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

    /// Whether its environment had a variable, given as `NAME=VALUE`.
    pub fn had_variable(&self, variable: &str) -> bool {
        fs::read(self.0.join("environment"))
            .unwrap()
            .split(|byte| *byte == 0)
            .any(|one| one == variable.as_bytes())
    }

    /// The value of an option that is given once.
    pub fn option(&self, number: u64) -> Option<Vec<u8>> {
        self.request(number).1.pop()
    }
}

/// The fields of a message (protocol buffers, Encoding): their numbers and bytes; an integer as it
/// is encoded.
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

/// The same bundle under Debian's runc, with a state directory of its own.
pub fn with_runc(b: &Bundle) -> Bundle {
    if !drives_hull() {
        skip!("for hull and runc together");
    }
    let mut other = b.clone();
    other.id.push_str("-runc");
    other.runtime.program = PathBuf::from("/usr/sbin/runc");
    other.runtime.state = fixture::new_dir("runc").join("state");
    if !other.runtime.program.exists() {
        skip!("runc is not installed");
    }
    other
}

/// Asks the probe in a container for its state, by a file in its root; the words of its answer.
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

/// The same bundle for a second container beside the first, with a cgroup of its own.
pub fn another(b: &Bundle) -> Bundle {
    let mut other = b.clone();
    other.id.push_str("-2");
    other.cgroup.push_str("-2");
    other.set("/linux/cgroupsPath", serde_json::json!(other.cgroup));
    other
}
