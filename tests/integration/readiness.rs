//! Readiness (`NOTIFY_SOCKET`, sd_notify(3)), what `start` waits for, and stdio that does not
//! block.

use crate::support::machine::Machine;
use crate::support::{Bundle, Container, fixture, harness, leaks, runtime, until};
use serde_json::json;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

tests![
    run_passes_readiness_on,
    run_detached_returns_when_the_container_is_ready,
    start_returns_when_the_container_is_ready,
    start_does_not_wait_for_a_container_that_ends_without_a_word,
    a_machine_passes_readiness_on,
    no_socket_no_mount,
    start_returns_when_the_program_is_there,
    slow_reader_of_a_pipe_that_does_not_block_gets_all,
    slow_reader_of_a_pipe_that_does_not_block_gets_all_of_exec,
    input_that_does_not_block_reaches_the_program,
    signals_pass_while_a_reader_sleeps,
];

/// A service manager's end.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new() -> Self {
        let path = fixture::new_dir("manager").join("notify.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(40)))
            .unwrap();
        Self { socket, path }
    }

    /// A bundle whose runtime has this socket in its environment.
    fn bundle(&self, script: &str) -> Bundle {
        let mut b = Bundle::sh(script);
        b.runtime
            .env
            .push(("NOTIFY_SOCKET".into(), self.path.to_str().unwrap().into()));
        b
    }

    /// The next message, without its line's end.
    fn next(&self) -> String {
        let mut buffer = [0; 512];
        let count = self
            .socket
            .recv(&mut buffer)
            .expect("nothing came over the socket");
        String::from_utf8_lossy(&buffer[..count])
            .trim_end()
            .to_owned()
    }
}

/// Sends a message of these lines over the container's own socket, from a process in it.
fn say(b: &Bundle, lines: &[&str]) {
    b.call(&[&["exec", &b.id, "/bin/probe", "--probe", "notify"], lines].concat())
        .success();
}

/// The container has its socket.
fn has_socket(b: &Bundle) -> bool {
    b.call(&["exec", &b.id, "test", "-S", "/run/notify/notify.sock"])
        .status
        == 0
}

fn spawn(b: &Bundle, args: &[&str]) -> Child {
    b.write();
    leaks::spawn(b.runtime.command(args).stdout(Stdio::null())).unwrap()
}

fn end(mut child: Child) -> i32 {
    let pid = child.id().cast_signed();
    assert!(harness::wait_within(&mut child, runtime::LIMIT), "it hung");
    leaks::OWN.lock().unwrap().remove(&pid);
    runtime::number(child.wait().unwrap())
}

/// Whether a command is still there after a time in which it would long have ended.
fn still_runs(child: &mut Child) -> bool {
    std::thread::sleep(Duration::from_millis(300));
    child.try_wait().unwrap().is_none()
}

fn pid_in(file: &PathBuf) -> i32 {
    until("the pid file", || {
        fs::read_to_string(file).is_ok_and(|text| !text.is_empty())
    });
    fs::read_to_string(file).unwrap().trim().parse().unwrap()
}

fn run_passes_readiness_on() {
    let manager = Manager::new();
    let mut b = manager.bundle(
        "test $NOTIFY_SOCKET = /run/notify/notify.sock || exit 9; until \
        test -e /tmp/end; do sleep 0.05; done; exit 4",
    );
    b.writable();
    let file = b.dir.join("pid");
    let run = spawn(
        &b,
        &[
            "run",
            "--bundle",
            b.dir.to_str().unwrap(),
            "--pid-file",
            file.to_str().unwrap(),
            &b.id,
        ],
    );
    let pid = pid_in(&file);
    until("the socket", || has_socket(&b));
    say(&b, &["STATUS=warming up"]);
    say(&b, &["STATUS=there", "READY=1", ""]);
    assert_eq!(
        [manager.next(), manager.next()],
        ["READY=1".to_owned(), format!("MAINPID={pid}")]
    );
    fs::write(b.rootfs().join("tmp/end"), "").unwrap();
    assert_eq!(end(run), 4);
}

fn run_detached_returns_when_the_container_is_ready() {
    let manager = Manager::new();
    let b = manager.bundle("exec sleep 1000");
    let file = b.dir.join("pid");
    let mut run = spawn(
        &b,
        &[
            "run",
            "--detach",
            "--bundle",
            b.dir.to_str().unwrap(),
            "--pid-file",
            file.to_str().unwrap(),
            &b.id,
        ],
    );
    let c = Container::new(&b);
    let pid = pid_in(&file);
    c.wait_for("running");
    assert!(still_runs(&mut run), "it did not wait for READY");
    until("the socket", || has_socket(&b));
    say(&b, &["READY=1"]);
    let mut said = vec![manager.next(), manager.next()];
    said.push(manager.next());
    assert_eq!(
        said,
        [
            "READY=1".to_owned(),
            format!("MAINPID={pid}"),
            "BARRIER=1".to_owned()
        ]
    );
    assert_eq!(end(run), 0);
    assert_eq!(c.status(), "running");
}

fn start_returns_when_the_container_is_ready() {
    let manager = Manager::new();
    let b = manager.bundle("exec sleep 1000");
    let c = b.create();
    let pid = c.pid();
    let mut start = spawn(&b, &["start", &b.id]);
    until("the socket", || has_socket(&b));
    assert!(still_runs(&mut start), "it did not wait for READY");
    say(&b, &["READY=1"]);
    assert_eq!(
        [manager.next(), manager.next()],
        ["READY=1".to_owned(), format!("MAINPID={pid}")]
    );
    assert_eq!(manager.next(), "BARRIER=1");
    assert_eq!(end(start), 0);
}

fn start_does_not_wait_for_a_container_that_ends_without_a_word() {
    let manager = Manager::new();
    let b = manager.bundle("exit 0");
    let c = b.create();
    assert_eq!(end(spawn(&b, &["start", &b.id])), 0);
    c.wait_for("stopped");
}

/// The program's own word crosses, once; nothing else of what it says does.
fn a_machine_passes_readiness_on() {
    only_hull!("the second wall");
    let manager = Manager::new();
    let say = "/bin/probe --probe notify";
    let script = format!(
        "{say} STATUS=up MAINPID=1; {say} MAINPID=1 READY=1 STATUS=there; {say} READY=1; echo \
            >/tmp/told; sleep 1000"
    );
    let mut machine = Machine::of(|| manager.bundle(&script));
    machine.bundle.writable();
    let container = Container::new(&machine.bundle);
    assert_eq!(machine.run_with(&["--detach"]).success().stdout, "");
    let pid = container.pid();
    assert_eq!(
        [(); 3].map(|()| manager.next()),
        [
            "READY=1".to_owned(),
            format!("MAINPID={pid}"),
            "BARRIER=1".to_owned()
        ]
    );
    let told = machine.bundle.rootfs().join("tmp/told");
    until("the end of the second word", || {
        fs::read_to_string(&told).is_ok_and(|text| !text.is_empty())
    });
    manager.socket.set_nonblocking(true).unwrap();
    assert!(manager.socket.recv(&mut [0]).is_err(), "more has come");
}

fn no_socket_no_mount() {
    let mut b = Bundle::new();
    assert_eq!(
        b.output_of("echo \"[$NOTIFY_SOCKET]\"; grep -c notify /proc/self/mountinfo; true"),
        "[]\n0"
    );
}

/// Nothing of hull's is left of init when `start` returns: a signal sent then meets the program.
fn start_returns_when_the_program_is_there() {
    only_hull!("runc's start returns when its init has been told, which may be before execve");
    let mut b = Bundle::sleeper();
    // A hook between start and the program makes the wait longer than any luck.
    b.push(
        "/hooks/startContainer",
        json!({ "path": "/bin/sleep", "args": ["sleep", "0.3"] }),
    );
    for _ in 0..5 {
        let c = b.create();
        c.start();
        let program = c.program();
        assert!(program.ends_with("bin/busybox"), "{}", program.display());
    }
}

/// A pipe whose written end does not block: (its reader, the end for the runtime).
fn pipe() -> (fs::File, OwnedFd) {
    let (ours, theirs) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&theirs, true).unwrap();
    (fs::File::from(OwnedFd::from(ours)), theirs.into())
}

fn reads_all_slowly(b: &Bundle, args: &[&str]) {
    let (mut ours, theirs) = pipe();
    b.write();
    let mut command = b.runtime.command(args);
    let child = leaks::spawn(command.stdout(theirs)).unwrap();
    drop(command);
    std::thread::sleep(Duration::from_millis(300));
    let mut all = String::new();
    ours.read_to_string(&mut all).unwrap();
    assert_eq!((end(child), all.lines().count()), (0, 100_000));
}

fn slow_reader_of_a_pipe_that_does_not_block_gets_all() {
    let b = Bundle::sh("seq 1 100000");
    reads_all_slowly(&b, &["run", "--bundle", b.dir.to_str().unwrap(), &b.id]);
}

fn slow_reader_of_a_pipe_that_does_not_block_gets_all_of_exec() {
    let b = Bundle::sleeper();
    let _c = b.started();
    reads_all_slowly(&b, &["exec", &b.id, "seq", "1", "100000"]);
}

fn input_that_does_not_block_reaches_the_program() {
    let b = Bundle::sh("read word; cat; echo $word");
    b.write();
    let (theirs, mut ours) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&theirs, true).unwrap();
    let mut command = b
        .runtime
        .command(&["run", "--bundle", b.dir.to_str().unwrap(), &b.id]);
    let mut child = leaks::spawn(command.stdin(theirs).stdout(Stdio::piped())).unwrap();
    drop(command);
    std::thread::sleep(Duration::from_millis(300));
    ours.write_all(b"first\nsecond\n").unwrap();
    drop(ours);
    let mut all = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut all)
        .unwrap();
    assert_eq!((end(child), all.as_str()), (0, "second\nfirst\n"));
}

fn signals_pass_while_a_reader_sleeps() {
    only_hull!("runc writes to a full pipe for as long as that takes");
    let mut b = Bundle::sh(
        "trap 'echo >/tmp/told; exit 7' TERM; seq 1 100000 & while :; do sleep 0.05; done",
    );
    b.writable();
    b.write();
    let (ours, theirs) = pipe();
    let mut command = b
        .runtime
        .command(&["run", "--bundle", b.dir.to_str().unwrap(), &b.id]);
    let child = leaks::spawn(command.stdout(theirs)).unwrap();
    drop(command);
    until("a full pipe that nobody reads", || {
        rustix::io::ioctl_fionread(&ours).unwrap() > 60_000
    });
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&child),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    until("the program's answer to the signal", || {
        b.rootfs().join("tmp/told").exists()
    });
    drop(ours);
    assert_eq!(end(child), 7);
}
