//! Readiness: `run` and `start` pass the container's sd_notify(3) messages to the caller's
//! `NOTIFY_SOCKET`, and wait for `READY=1`.

use crate::support::runtime::{LIMIT, wait};
use crate::support::vm::Vm;
use crate::support::{Bundle, Container, fixture, leaks, until};
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

tests![
    run_passes_readiness_on,
    run_detached_returns_when_the_container_is_ready,
    start_returns_when_the_container_is_ready,
    start_does_not_wait_for_a_container_that_has_ended,
    a_vm_passes_readiness_on,
    no_socket_no_mount,
];

/// A service manager's end of the socket.
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

    /// The next message, without its newline.
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

/// Sends a message of these lines from a process in the container.
fn say(b: &Bundle, lines: &[&str]) {
    b.call(&[&["exec", &b.id, "/bin/probe", "--probe", "notify"], lines].concat())
        .success();
}

/// Whether the container has its socket.
fn has_socket(b: &Bundle) -> bool {
    b.call(&["exec", &b.id, "test", "-S", "/run/notify/notify.sock"])
        .status
        == 0
}

fn spawn(b: &Bundle, args: &[&str]) -> Child {
    b.write();
    leaks::spawn(b.runtime.command(args).stdout(Stdio::null())).unwrap()
}

/// Whether a command still runs after a time in which it would have ended long before.
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
    assert_eq!(wait(run, LIMIT), 4);
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
    assert_eq!(wait(run, LIMIT), 0);
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
    assert_eq!(wait(start, LIMIT), 0);
}

fn start_does_not_wait_for_a_container_that_has_ended() {
    let manager = Manager::new();
    let b = manager.bundle("exit 0");
    let c = b.create();
    assert_eq!(wait(spawn(&b, &["start", &b.id]), LIMIT), 0);
    c.wait_for("stopped");
}

/// The first READY=1 of the program reaches the host, and no other message.
fn a_vm_passes_readiness_on() {
    only_hull!("the VM backend");
    let manager = Manager::new();
    let notify = "/bin/probe --probe notify";
    let script = format!(
        "{notify} STATUS=up MAINPID=1; {notify} MAINPID=1 READY=1 STATUS=there; {notify} READY=1; \
            echo >/tmp/told; sleep 1000"
    );
    let mut vm = Vm::of(|| manager.bundle(&script));
    vm.bundle.writable();
    let container = Container::new(&vm.bundle);
    assert_eq!(vm.run_with(&["--detach"]).success().stdout, "");
    let pid = container.pid();
    assert_eq!(
        [(); 3].map(|()| manager.next()),
        [
            "READY=1".to_owned(),
            format!("MAINPID={pid}"),
            "BARRIER=1".to_owned()
        ]
    );
    let told = vm.bundle.rootfs().join("tmp/told");
    until("the end of the second message", || {
        fs::read_to_string(&told).is_ok_and(|text| !text.is_empty())
    });
    manager.socket.set_nonblocking(true).unwrap();
    assert!(manager.socket.recv(&mut [0]).is_err(), "more messages came");
}

fn no_socket_no_mount() {
    let mut b = Bundle::new();
    assert_eq!(
        b.output_of("echo \"[$NOTIFY_SOCKET]\"; grep -c notify /proc/self/mountinfo; true"),
        "[]\n0"
    );
}
