//! The caller's standard streams where they are pipes with O_NONBLOCK: nothing is lost in either
//! direction, and a reader that stands still does not delay signals.

use crate::support::runtime::{LIMIT, wait};
use crate::support::{Bundle, leaks, until};
use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

tests![
    nonblocking_output_reaches_a_slow_reader,
    nonblocking_output_of_exec_reaches_a_slow_reader,
    nonblocking_input_reaches_the_program,
    signals_are_forwarded_while_nobody_reads,
];

/// A pipe: the test's end to read from, and the runtime's end to write to, with O_NONBLOCK.
fn nonblocking_pipe() -> (fs::File, OwnedFd) {
    let (ours, theirs) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&theirs, true).unwrap();
    (fs::File::from(OwnedFd::from(ours)), theirs.into())
}

fn reads_all_slowly(b: &Bundle, args: &[&str]) {
    let (mut ours, theirs) = nonblocking_pipe();
    b.write();
    let mut command = b.runtime.command(args);
    let child = leaks::spawn(command.stdout(theirs)).unwrap();
    drop(command);
    std::thread::sleep(Duration::from_millis(300));
    let mut all = String::new();
    ours.read_to_string(&mut all).unwrap();
    assert_eq!((wait(child, LIMIT), all.lines().count()), (0, 100_000));
}

fn nonblocking_output_reaches_a_slow_reader() {
    let b = Bundle::sh("seq 1 100000");
    reads_all_slowly(&b, &["run", "--bundle", b.dir.to_str().unwrap(), &b.id]);
}

fn nonblocking_output_of_exec_reaches_a_slow_reader() {
    let b = Bundle::sleeper();
    let _c = b.started();
    reads_all_slowly(&b, &["exec", &b.id, "seq", "1", "100000"]);
}

fn nonblocking_input_reaches_the_program() {
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
    assert_eq!((wait(child, LIMIT), all.as_str()), (0, "second\nfirst\n"));
}

fn signals_are_forwarded_while_nobody_reads() {
    only_hull!("runc does not handle signals while it writes to a full pipe");
    let mut b = Bundle::sh(
        "trap 'echo >/tmp/told; exit 7' TERM; seq 1 100000 & while :; do sleep 0.05; done",
    );
    b.writable();
    b.write();
    let (ours, theirs) = nonblocking_pipe();
    let mut command = b
        .runtime
        .command(&["run", "--bundle", b.dir.to_str().unwrap(), &b.id]);
    let child = leaks::spawn(command.stdout(theirs)).unwrap();
    drop(command);
    until("a full pipe", || {
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
    assert_eq!(wait(child, LIMIT), 7);
}
