//! The program's entry, in place of the standard library's. That one prepares for threads and for
//! reporting stack overflows with 17 system calls, and hull starts twice (`cli::own_binary`). What
//! hull needs of it is done here.

use super::call;

/// Makes the C `main` of a function that returns the exit status.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        /// The C library calls this; the standard library reads the arguments in an initialiser of
        /// its own.
        // SAFETY: it is the only symbol of its name in the program, and has the type that the C
        // library expects.
        #[cfg(not(test))]
        #[unsafe(no_mangle)]
        pub extern "C" fn main() -> i32 {
            std::process::exit(i32::from($main()))
        }
    };
}

/// What must hold before hull opens or writes anything: descriptors 0, 1 and 2 are open, so that no
/// file of hull's own becomes stdin, stdout or stderr; and SIGPIPE is ignored, so that a reader
/// that closes its end is an error (EPIPE) and does not end hull.
pub fn prepare() {
    let mut stdio = [0, 1, 2].map(|fd| libc::pollfd {
        fd,
        events: 0,
        revents: 0,
    });
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: three entries, a timeout, no signal mask.
    let _ = unsafe {
        call!(
            libc::SYS_ppoll,
            stdio.as_mut_ptr(),
            3,
            &raw mut now,
            std::ptr::null::<u8>(),
            8
        )
    };
    for _ in stdio
        .iter()
        .filter(|entry| entry.revents & libc::POLLNVAL != 0)
    {
        // The lowest free number is the one that is closed. SAFETY: NUL-terminated.
        let _ = unsafe {
            call!(
                libc::SYS_openat,
                libc::AT_FDCWD,
                c"/dev/null".as_ptr(),
                libc::O_RDWR,
                0
            )
        };
    }
    super::process::ignore_broken_pipes();
}

/// Lets the heap grow by a mebibyte at once: each growth is a system call, and memory that is not
/// touched costs nothing.
pub fn spare_the_heap() {
    // SAFETY: the C library's own settings.
    unsafe { libc::mallopt(libc::M_TOP_PAD, 1 << 20) };
}
