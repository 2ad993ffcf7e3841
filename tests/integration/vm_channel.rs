//! The second wall's channel under load: streams of twenty execs at once, a reader that has
//! stopped, and signals in between.

use crate::support::machine::Machine;
use crate::support::runtime::{Container, number, text, until};
use crate::support::{fixture, harness, leaks, runtime};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;

tests![
    ten_thousand_frames_of_twenty_execs,
    what_was_written_last_waits_for_its_reader
];

const EXECS: usize = 20;
/// Of each exec, each way. The frames carry 16 KiB at most: these are 10240 of them, and as many
/// that give credit.
const BYTES: usize = 4 << 20;

/// Bytes that no text has, and no other exec.
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

/// A signal to the process of an exec's that stands for the program.
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

fn status(mut child: Child) -> i32 {
    assert!(
        harness::wait_within(
            &mut child,
            crate::support::machine::LIMIT * runtime::patience()
        ),
        "an exec hangs"
    );
    let status = number(child.wait().unwrap());
    leaks::OWN.lock().unwrap().remove(&child.id().cast_signed());
    status
}

/// `cat` of random bytes: half of them, and the rest after the signal has come through. What comes
/// back is what went in.
fn carries(container: &Container, signalled: &Barrier) {
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
        "{} bytes came back of {BYTES}, or others",
        fs::metadata(&file).unwrap().len()
    );
}

/// Numbers that follow each other, to the one where the program was ended.
fn assert_counts(said: &str) {
    let (whole, _) = said.rsplit_once('\n').unwrap();
    assert!(
        whole
            .lines()
            .eq((0..whole.lines().count()).map(|n| n.to_string())),
        "numbers are missing"
    );
}

/// What `seq` writes: more than a pipe holds.
fn assert_numbers(said: &str) {
    assert!(
        said.lines().eq((0..40_000).map(|n| n.to_string())),
        "{} bytes of its last words",
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

fn ten_thousand_frames_of_twenty_execs() {
    only_hull!("the second wall");
    let mut machine = Machine::sh(
        "trap 'echo caught >>/dir/log' USR1; trap 'exit 0' TERM; echo >/dir/ready; while :; do \
            sleep 0.1; done",
    );
    let dir = fixture::new_dir("volume");
    machine
        .bundle
        .mount("/dir", "bind", dir.to_str().unwrap(), &["rbind"]);
    let container = machine.create(&[]);
    container.start();
    until("the program", || dir.join("ready").exists());

    // Nobody reads what these say: one goes on for ever, one waits for its end, one has come to its
    // own by then.
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
            .map(|_| scope.spawn(|| carries(&container, &signalled)))
            .collect();
        container.kill("USR1").success();
        until("the signal among the streams", || {
            text(dir.join("log")) == "caught\n"
        });
        signalled.wait();
        all.into_iter().for_each(|thread| thread.join().unwrap());
    });
    // A signal to what stands for the program is the program's; its SIGKILL too. Neither waits for
    // the reader.
    let running = |word: &str| container.call(&["ps"]).success().stdout.contains(word);
    assert!(running("n=$((n + 1))") && running("cat /dev/zero"));
    signal(&stopped, Signal::TERM);
    until("the end of one that nobody reads", || {
        !running("n=$((n + 1))")
    });
    signal(&killed, Signal::KILL);
    until("the end of another", || !running("cat /dev/zero"));
    assert_counts(&rest_of(&mut stopped));
    assert_eq!((status(stopped), status(killed)), (143, 137));
    // It ended long ago, and its last bytes are there still.
    assert_eq!(text(dir.join("ended")), "ended\n");
    until("its end on the host", || {
        ended.try_wait().unwrap().is_some()
    });
    assert_numbers(&rest_of(&mut ended));
    assert_eq!(status(ended), 0);
    container.kill("TERM").success();
    container.wait_for("stopped");
}

/// The container's own program ends and its machine with it, while nobody reads: what it wrote
/// stays in the pipe, as on the shared kernel.
fn what_was_written_last_waits_for_its_reader() {
    only_hull!("the second wall");
    let machine = Machine::sh("seq 0 39999 >&2; seq 0 39999; exit 3");
    machine.bundle.write();
    let (id, dir, kernel) = (
        machine.bundle.id.clone(),
        machine.bundle.dir.display().to_string(),
        machine.kernel.display().to_string(),
    );
    let container = Container::new(&machine.bundle);
    let mut create = machine.bundle.runtime.command(&[
        "create",
        "--vm",
        "--vm-kernel",
        &kernel,
        "--bundle",
        &dir,
        &id,
    ]);
    let mut create = leaks::spawn(create.stdout(Stdio::piped()).stderr(Stdio::piped())).unwrap();
    assert!(create.wait().unwrap().success());
    container.start();
    container.wait_for("stopped");
    let mut errors = String::new();
    create
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut errors)
        .unwrap();
    assert_numbers(&errors);
    assert_numbers(&rest_of(&mut create));
    leaks::OWN
        .lock()
        .unwrap()
        .remove(&create.id().cast_signed());
}
