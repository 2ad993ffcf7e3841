//! The channel between host and guest under load: the streams of twenty execs at once, readers that
//! do not read, and signals meanwhile.

use crate::support::runtime::{Container, text, until, wait};
use crate::support::vm::{LIMIT, Vm};
use crate::support::{fixture, leaks};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;

tests![
    ten_thousand_frames_of_twenty_execs,
    last_output_waits_for_its_reader
];

const EXECS: usize = 20;
/// The bytes of each exec in each direction. A frame has 16 KiB at most: these are 10240 frames,
/// and as many frames that give credit.
const BYTES: usize = 4 << 20;

/// Random bytes.
fn noise() -> Vec<u8> {
    let mut bytes = vec![0; BYTES];
    File::open("/dev/urandom")
        .unwrap()
        .read_exact(&mut bytes)
        .unwrap();
    bytes
}

fn exec(container: &Container, script: &str, stdin: Stdio, stdout: Stdio) -> Child {
    let bundle = container.bundle;
    let mut command: Command = bundle
        .runtime
        .command(&["exec", &bundle.id, "sh", "-c", script]);
    leaks::spawn(command.stdin(stdin).stdout(stdout)).unwrap()
}

/// Sends a signal to the process that stands for the program of an exec on the host.
fn signal(child: &Child, signal: Signal) {
    let children = || text(format!("/proc/{0}/task/{0}/children", child.id()));
    until("the exec's process", || {
        children().split_whitespace().count() == 1
    });
    kill_process(
        Pid::from_raw(children().trim().parse().unwrap()).unwrap(),
        signal,
    )
    .unwrap();
}

fn status(child: Child) -> i32 {
    wait(child, LIMIT)
}

/// Sends random bytes through `cat` in the guest: one half, and the other after the container has
/// got the signal. The same bytes must come back.
fn echoes(container: &Container, signalled: &Barrier) {
    let (sent, file) = (noise(), fixture::new_dir("back").join("bytes"));
    let mut child = exec(
        container,
        "exec cat",
        Stdio::piped(),
        File::create(&file).unwrap().into(),
    );
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&sent[..BYTES / 2]).unwrap();
    signalled.wait();
    stdin.write_all(&sent[BYTES / 2..]).unwrap();
    drop(stdin);
    assert_eq!(status(child), 0);
    assert!(
        fs::read(&file).unwrap() == sent,
        "{} of {BYTES} bytes came back, or other bytes",
        fs::metadata(&file).unwrap().len()
    );
}

/// Asserts that the text has consecutive numbers, up to the one at which the program was killed.
fn assert_counts(said: &str) {
    let (whole, _) = said.rsplit_once('\n').unwrap();
    assert!(
        whole
            .lines()
            .eq((0..whole.lines().count()).map(|n| n.to_string())),
        "numbers are missing"
    );
}

/// Asserts that the text is the output of `seq`: more than a pipe holds.
fn assert_numbers(said: &str) {
    assert!(
        said.lines().eq((0..40_000).map(|n| n.to_string())),
        "{} bytes of the last output",
        said.len()
    );
}

fn rest_of(child: &mut Child) -> String {
    let mut rest = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut rest)
        .unwrap();
    rest
}

// Attack: a hostile guest
fn ten_thousand_frames_of_twenty_execs() {
    only_hull!("the VM backend");
    let mut vm = Vm::sh(
        "trap 'echo caught >>/dir/log' USR1; trap 'exit 0' TERM; echo >/dir/ready; while :; do \
            sleep 0.1; done",
    );
    let dir = fixture::new_dir("volume");
    vm.bundle
        .mount("/dir", "bind", dir.to_str().unwrap(), &["rbind"]);
    let container = vm.create(&[]);
    container.start();
    until("the program", || dir.join("ready").exists());

    // The test does not read the output of these at first: one runs until SIGTERM, one until
    // SIGKILL, one exits by itself.
    let counting = "n=0; while :; do echo $n; n=$((n + 1)); done";
    let mut stopped = exec(&container, counting, Stdio::null(), Stdio::piped());
    let killed = exec(
        &container,
        "exec cat /dev/zero",
        Stdio::null(),
        Stdio::piped(),
    );
    let mut ended = exec(
        &container,
        "seq 0 39999; echo ended >/dir/ended",
        Stdio::null(),
        Stdio::piped(),
    );
    let signalled = Barrier::new(EXECS + 1);
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..EXECS)
            .map(|_| scope.spawn(|| echoes(&container, &signalled)))
            .collect();
        container.kill("USR1").success();
        until("the signal among the streams", || {
            text(dir.join("log")) == "caught\n"
        });
        signalled.wait();
        all.into_iter().for_each(|thread| thread.join().unwrap());
    });
    // The program gets a signal, and SIGKILL too, that is sent to the process that stands for it;
    // neither waits for a reader.
    let running = |word: &str| container.call(&["ps"]).success().stdout.contains(word);
    assert!(running("n=$((n + 1))") && running("cat /dev/zero"));
    signal(&stopped, Signal::TERM);
    until("the end of the first", || !running("n=$((n + 1))"));
    signal(&killed, Signal::KILL);
    until("the end of the second", || !running("cat /dev/zero"));
    assert_counts(&rest_of(&mut stopped));
    assert_eq!((status(stopped), status(killed)), (143, 137));
    // The third has exited long before, and its last output is still there.
    assert_eq!(text(dir.join("ended")), "ended\n");
    until("the end of exec on the host", || {
        ended.try_wait().unwrap().is_some()
    });
    assert_numbers(&rest_of(&mut ended));
    assert_eq!(status(ended), 0);
    container.kill("TERM").success();
    container.wait_for("stopped");
}

/// The container's program exits, and its VM with it, before anybody reads the output: it stays in
/// the pipe, as in the namespace backend.
fn last_output_waits_for_its_reader() {
    only_hull!("the VM backend");
    let vm = Vm::sh("seq 0 39999 >&2; seq 0 39999; exit 3");
    let container = Container::new(&vm.bundle);
    let mut command = vm.command("create", &[]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut create = leaks::spawn(&mut command).unwrap();
    let (mut stdout, mut stderr) = (create.stdout.take().unwrap(), create.stderr.take().unwrap());
    assert_eq!(status(create), 0);
    container.start();
    container.wait_for("stopped");
    for stream in [&mut stderr as &mut dyn Read, &mut stdout] {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_numbers(&text);
    }
}
