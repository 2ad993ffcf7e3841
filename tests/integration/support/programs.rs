//! Programs that the tests run in containers, as `/bin/probe --probe NAME`: processes whose state
//! is compared after a restore, servers, and sd_notify(3); and the double of criu.

use super::raw;
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const SOON: Duration = Duration::from_millis(10);

/// Has threads, a child, shared memory, files, pipes, sockets and a timer. Writes their state to
/// `/tmp/answer` whenever there is `/tmp/ask`; reads what is in the pipe and in the socket only
/// where the question is `last`.
pub fn process_state() -> ! {
    static COUNTED: AtomicU64 = AtomicU64::new(0);
    let shared = raw::shared_with_a_child(|word| {
        word.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(SOON);
    });
    for _ in 0..3 {
        std::thread::spawn(|| {
            loop {
                COUNTED.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(SOON);
            }
        });
    }
    let (mut from_pipe, mut to_pipe) = std::io::pipe().unwrap();
    to_pipe.write_all(b"in the pipe").unwrap();
    let (mut left, mut right) = UnixStream::pair().unwrap();
    left.write_all(b"in the socket").unwrap();
    let listener = UnixListener::bind("/tmp/listener").unwrap();
    listener.set_nonblocking(true).unwrap();
    fs::write("/tmp/open", "0123456789").unwrap();
    let mut open = File::open("/tmp/open").unwrap();
    open.seek(SeekFrom::Start(5)).unwrap();
    let mut removed = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open("/tmp/removed")
        .unwrap();
    removed.write_all(b"of a removed file").unwrap();
    fs::remove_file("/tmp/removed").unwrap();
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::empty()).unwrap();
    timer
        .set(
            Expiration::OneShot(TimeSpec::seconds(3600)),
            TimerSetTimeFlags::empty(),
        )
        .unwrap();
    loop {
        std::thread::sleep(SOON);
        let Ok(question) = fs::read_to_string("/tmp/ask") else {
            continue;
        };
        let armed = matches!(timer.get(), Ok(Some(Expiration::OneShot(left))) if left.num_seconds() > 0 && left.num_seconds() <= 3600);
        let mut text = format!(
            "shared {}\ncounted {}\ntimer {armed}\n",
            shared.load(Ordering::SeqCst),
            COUNTED.load(Ordering::SeqCst)
        );
        if question.trim() == "last" {
            let (mut pipe, mut socket, mut rest, mut gone) =
                ([0; 11], [0; 13], String::new(), String::new());
            from_pipe.read_exact(&mut pipe).unwrap();
            right.read_exact(&mut socket).unwrap();
            open.read_to_string(&mut rest).unwrap();
            removed.seek(SeekFrom::Start(0)).unwrap();
            removed.read_to_string(&mut gone).unwrap();
            let mut peer = UnixStream::connect("/tmp/listener").unwrap();
            peer.write_all(b"x").unwrap();
            let accepted = listener.accept().is_ok();
            text += &format!(
                "pipe {}\nsocket {}\nrest {rest}\nremoved {gone}\naccepted {accepted}\n",
                String::from_utf8_lossy(&pipe),
                String::from_utf8_lossy(&socket)
            );
        }
        answer(&text);
    }
}

/// Answers the question in `/tmp/ask`.
fn answer(text: &str) {
    fs::remove_file("/tmp/ask").unwrap();
    fs::write("/tmp/answer.new", text).unwrap();
    fs::rename("/tmp/answer.new", "/tmp/answer").unwrap();
}

/// Words of 64 bits in a page.
const WORDS: usize = 512;

/// Has memory of so many pages, and keeps writing to an eighth of them: a list has the number of
/// writes of each page, and the page is full of that number. Whenever there is `/tmp/ask`, answers
/// with the number of all writes and with the pages that have another content.
pub fn pages(count: usize) -> ! {
    let full = |page: usize, writes: u64| writes << 32 | page as u64;
    let (mut memory, mut written, mut writes) = (vec![0_u64; count * WORDS], vec![0_u64; count], 0);
    for (page, words) in memory.chunks_mut(WORDS).enumerate() {
        words.fill(full(page, 0));
    }
    fs::write("/tmp/full", "").unwrap();
    loop {
        std::thread::sleep(SOON);
        let page = usize::try_from(writes).unwrap() % (count / 8);
        written[page] += 1;
        memory[page * WORDS..(page + 1) * WORDS].fill(full(page, written[page]));
        writes += 1;
        if !std::path::Path::new("/tmp/ask").exists() {
            continue;
        }
        let wrong: Vec<String> = (0..count)
            .filter(|&page| {
                memory[page * WORDS..(page + 1) * WORDS]
                    .iter()
                    .any(|&word| word != full(page, written[page]))
            })
            .map(|page| page.to_string())
            .collect();
        answer(&format!(
            "writes {writes}\nwrong {}:{}\n",
            wrong.len(),
            wrong.join(",")
        ));
    }
}

/// Holds a lock (flock) on a file until it is killed.
pub fn lock(path: &str) -> ! {
    let file = File::options()
        .create(true)
        .append(true)
        .open(path)
        .unwrap();
    file.lock().unwrap();
    fs::write("/tmp/locked", "").unwrap();
    loop {
        std::thread::sleep(Duration::from_secs(1000));
    }
}

/// Sends numbers over a datagram socket that is connected to a path.
pub fn send(path: &str) -> ! {
    let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
    socket.connect(path).unwrap();
    for number in 0_u64.. {
        socket.send(number.to_string().as_bytes()).unwrap();
        std::thread::sleep(SOON * 5);
    }
    unreachable!()
}

/// A server that sends back the bytes of each connection.
pub fn echo(port: u16) -> ! {
    let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
    loop {
        let Ok((mut stream, _)) = listener.accept() else {
            continue;
        };
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut bytes) {
                if stream.write_all(&bytes[..count]).is_err() {
                    return;
                }
            }
        });
    }
}

/// A server that sends each datagram back, over IPv4 and IPv6.
pub fn datagrams(port: u16) -> ! {
    let socket = std::net::UdpSocket::bind(("::", port)).unwrap();
    let mut bytes = [0; 4096];
    loop {
        let Ok((count, from)) = socket.recv_from(&mut bytes) else {
            continue;
        };
        let _ = socket.send_to(&bytes[..count], from);
    }
}

/// Sends lines over `NOTIFY_SOCKET` (sd_notify(3)).
pub fn notify(lines: &str) {
    let path = std::env::var("NOTIFY_SOCKET").expect("no socket is named");
    std::os::unix::net::UnixDatagram::unbound()
        .unwrap()
        .send_to(lines.as_bytes(), path)
        .expect("nobody listens");
}

/// A double of `criu swrk`: its version is 4.2.1. It writes any other request to the file `request`
/// beside its own, its environment to `environment`, and refuses the request.
pub fn criu_double() -> ExitCode {
    let socket = raw::third_descriptor();
    let mut bytes = vec![0; 65536];
    loop {
        let Ok((count, _)) =
            rustix::net::recv(&socket, &mut bytes[..], rustix::net::RecvFlags::empty())
        else {
            return ExitCode::FAILURE;
        };
        if count == 0 {
            return ExitCode::SUCCESS;
        }
        // type = VERSION (10), success, version { 4, 2, sublevel 1 }; or the same type again,
        // refused.
        let answer: &[u8] = match bytes[..2] {
            [0x08, 10] => &[0x08, 10, 0x10, 1, 0x52, 6, 0x08, 4, 0x10, 2, 0x20, 1],
            _ => {
                fs::write(
                    std::env::current_exe().unwrap().with_file_name("request"),
                    &bytes[..count],
                )
                .unwrap();
                fs::write(
                    std::env::current_exe()
                        .unwrap()
                        .with_file_name("environment"),
                    fs::read("/proc/self/environ").unwrap(),
                )
                .unwrap();
                &[0x08, 1, 0x10, 0]
            }
        };
        rustix::net::send(&socket, answer, rustix::net::SendFlags::empty()).unwrap();
    }
}
