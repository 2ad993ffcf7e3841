//! System calls without a safe wrapper: those of the probe, which a container runs as `/bin/probe
//! --probe WORDS`, and the agent's side of seccomp notifications.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::process::ExitCode;

/// The probe's entry point, in a container. `syscall NUMBER ARGS...` makes the call and prints its
/// result; `keyring` prints the description of the session keyring; `dumpable` prints whether
/// another process of the same user may trace this one; the other words are programs of
/// [`super::programs`] and [`super::share_attack`].
pub fn probe() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(2).collect();
    match words.first().map(String::as_str) {
        Some("syscall") => {
            let number = |w: &String| w.parse::<i64>().expect("a number");
            println!(
                "{}",
                call(
                    number(&words[1]),
                    &words[2..].iter().map(number).collect::<Vec<_>>()
                )
            );
        }
        Some("keyring") => println!("{}", keyring()),
        Some("state") => super::programs::process_state(),
        Some("echo") => super::programs::echo(words[1].parse().expect("a port")),
        Some("datagrams") => super::programs::datagrams(words[1].parse().expect("a port")),
        Some("notify") => super::programs::notify(&words[1..].join("\n")),
        Some("pages") => super::programs::pages(words[1].parse().expect("a number")),
        Some("attack") => super::share_attack::attack(&words[1]),
        Some("lock") => super::programs::lock(&words[1]),
        Some("send") => super::programs::send(&words[1]),
        Some("dumpable") => println!("{:?}", rustix::process::dumpable_behavior()),
        _ => return ExitCode::FAILURE,
    }
    ExitCode::SUCCESS
}

/// A word of memory that this process shares with a child, which runs `work` on it again and again.
pub fn shared_with_a_child(
    mut work: impl FnMut(&std::sync::atomic::AtomicU64),
) -> &'static std::sync::atomic::AtomicU64 {
    // SAFETY: a new anonymous mapping; it is never unmapped, and zero is a valid atomic.
    let word = unsafe {
        let page = libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        assert!(page != libc::MAP_FAILED, "no shared memory");
        &*page.cast::<std::sync::atomic::AtomicU64>()
    };
    // SAFETY: this process has one thread yet, so its child is a whole one.
    if unsafe { libc::fork() } == 0 {
        loop {
            work(word);
        }
    }
    word
}

/// The socket that a program has which was started as `criu swrk 3`.
pub fn third_descriptor() -> std::os::fd::OwnedFd {
    // SAFETY: nobody else in this process uses it.
    unsafe { std::os::fd::FromRawFd::from_raw_fd(3) }
}

/// Makes a system call whose arguments are numbers. Returns `ok N`, or the error as `errno N`.
fn call(number: i64, args: &[i64]) -> String {
    let a = |i: usize| args.get(i).copied().unwrap_or(0);
    // SAFETY: the tests pass numbers that the kernel takes as numbers, or pointers that are null or
    // invalid, which it refuses.
    let result = unsafe { libc::syscall(number, a(0), a(1), a(2), a(3), a(4), a(5)) };
    match result {
        -1 => format!(
            "errno {}",
            std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
        ),
        n => format!("ok {n}"),
    }
}

/// `keyctl(KEYCTL_DESCRIBE, KEY_SPEC_SESSION_KEYRING)`: type, owner, group, rights and name.
fn keyring() -> String {
    let mut buffer = [0_u8; 256];
    // SAFETY: the buffer lives over the call, and its length is passed.
    let n = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            6_i64,
            -3_i64,
            buffer.as_mut_ptr(),
            buffer.len(),
        )
    };
    match usize::try_from(n) {
        Ok(n) => String::from_utf8_lossy(&buffer[..n.saturating_sub(1)]).into_owned(),
        Err(_) => format!("error: {}", std::io::Error::last_os_error()),
    }
}

/// The longest handle (linux/exportfs.h, MAX_HANDLE_SZ).
const HANDLE: usize = 128;

/// A file's handle: its kind, and its bytes (name_to_handle_at(2)).
pub fn name_to_handle(path: &str) -> std::io::Result<(i32, Vec<u8>)> {
    let name = std::ffi::CString::new(path).unwrap();
    let mut handle = [0_u32; 2 + HANDLE / 4];
    handle[0] = HANDLE as u32;
    let mut mount = 0_i32;
    // SAFETY: the name is a C string, the handle has the room that its first word says, and all
    // outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            name.as_ptr(),
            handle.as_mut_ptr(),
            &raw mut mount,
            0,
        )
    };
    if result != 0 {
        return Err(std::io::Error::last_os_error());
    }
    let bytes = handle[2..]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .take(handle[0] as usize)
        .collect();
    Ok((handle[1] as i32, bytes))
}

/// Opens a file by its handle, on the file system of a descriptor (open_by_handle_at(2)).
pub fn open_by_handle(
    place: BorrowedFd,
    kind: i32,
    bytes: &[u8],
) -> std::io::Result<std::os::fd::OwnedFd> {
    let mut handle = [0_u32; 2 + HANDLE / 4];
    (handle[0], handle[1]) = (bytes.len() as u32, kind as u32);
    for (word, piece) in handle[2..].iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_ne_bytes([piece[0], piece[1], piece[2], piece[3]]);
    }
    // SAFETY: the handle has the length that its first word says, and outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            place.as_raw_fd(),
            handle.as_ptr(),
            libc::O_RDONLY,
        )
    };
    let raw = i32::try_from(result)
        .ok()
        .filter(|raw| *raw >= 0)
        .ok_or_else(std::io::Error::last_os_error)?;
    // SAFETY: the kernel has just made it, and nobody else has it.
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(raw) })
}

/// Receives one notification from a seccomp listener and answers it with an error; returns the
/// number of the call and the pid of the caller.
pub fn answer_with_error(listener: BorrowedFd, errno: i32) -> std::io::Result<(i32, u32)> {
    const RECEIVE: u64 = 0xc050_2100;
    const SEND: u64 = 0xc018_2101;
    let mut request = [0_u64; 10];
    // SAFETY: the buffer has the size of struct seccomp_notif (80 bytes) and is zeroed, as the
    // kernel asks.
    if unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE, request.as_mut_ptr()) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    let (id, pid, number) = (
        request[0],
        request[1] & 0xffff_ffff,
        request[2] & 0xffff_ffff,
    );
    // struct seccomp_notif_resp: id, val, error (negative) and flags.
    let mut response = [id, 0, u64::from((-errno).cast_unsigned())];
    // SAFETY: the buffer has the size of struct seccomp_notif_resp (24 bytes).
    if unsafe { libc::ioctl(listener.as_raw_fd(), SEND, response.as_mut_ptr()) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok((
        i32::try_from(number).unwrap_or(-1),
        u32::try_from(pid).unwrap_or(0),
    ))
}
