//! Programs of the tests of checkpoint: a process with much that must come back, an echo server,
//! and a double of criu that writes down what it was asked.

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

/// Holds threads, a child, shared memory, files, pipes, sockets and a timer. Writes what it has to
/// `/tmp/answer` whenever there is `/tmp/ask`; what was in pipe and socket is read only then, if
/// the question is `last`.
pub fn life() -> ! {
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
        let mut said = format!(
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
            said += &format!(
                "pipe {}\nsocket {}\nrest {rest}\nremoved {gone}\naccepted {accepted}\n",
                String::from_utf8_lossy(&pipe),
                String::from_utf8_lossy(&socket)
            );
        }
        fs::remove_file("/tmp/ask").unwrap();
        fs::write("/tmp/answer.new", said).unwrap();
        fs::rename("/tmp/answer.new", "/tmp/answer").unwrap();
    }
}

/// Words of 64 bits in a page.
const WORDS: usize = 512;

/// Memory of so many pages, an eighth of which is written to for ever: each page's number of writes
/// stands in a list, and the page is full of it. Whenever there is `/tmp/ask`, `/tmp/answer` tells
/// how many writes there were and which pages do not hold what they should.
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
        fs::remove_file("/tmp/ask").unwrap();
        fs::write(
            "/tmp/answer.new",
            format!(
                "writes {writes}\nwrong {}:{}\n",
                wrong.len(),
                wrong.join(",")
            ),
        )
        .unwrap();
        fs::rename("/tmp/answer.new", "/tmp/answer").unwrap();
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

/// Sends numbers to a socket that somebody else has bound, from one connected to it.
pub fn send(path: &str) -> ! {
    let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
    socket.connect(path).unwrap();
    for number in 0_u64.. {
        socket.send(number.to_string().as_bytes()).unwrap();
        std::thread::sleep(SOON * 5);
    }
    unreachable!()
}

/// Sends back what comes, for each connection.
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

/// Sends datagrams back where they come from, of IPv4 and IPv6.
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

/// Sends lines over the socket that the environment names (sd_notify(3)).
pub fn notify(lines: &str) {
    let path = std::env::var("NOTIFY_SOCKET").expect("no socket is named");
    std::os::unix::net::UnixDatagram::unbound()
        .unwrap()
        .send_to(lines.as_bytes(), path)
        .expect("nobody listens");
}

/// Answers for criu: its version is 4.2.1, and what else it is asked it writes to `request` beside
/// itself, its environment to `environment`, and refuses.
pub fn double() -> ExitCode {
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
