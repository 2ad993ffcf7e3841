//! One page of memory that hull shares with its child: the child reports by plain stores, which no
//! seccomp filter can stop.

use nix::errno::Errno;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, Ordering};

/// Layout of the page. All fields start as zero.
#[repr(C)]
pub struct Report {
    /// Index of the step being executed.
    pub step: AtomicU32,
    /// The error number of the failed step, or 0.
    pub errno: AtomicI32,
    /// What within the step failed: a `step::report::Detail`.
    pub detail: AtomicU32,
    /// Becomes 1 when the filter is loaded and the child has made the last system call that the
    /// filter could stop.
    pub filtered: AtomicU32,
    /// The seccomp listener's descriptor in the child, plus 1; 0 while there is none.
    pub listener: AtomicI32,
    /// Becomes 1 when the parent has its own descriptor of the listener.
    pub taken: AtomicU32,
    /// The id of the container's process as the parent sees it, where an intermediate process
    /// cloned it.
    pub pid: AtomicI32,
    /// How many entries of `outcome` are filled.
    pub outcomes: AtomicU32,
    /// `step << 8 | outcome` for each step whose policy had to decide.
    pub outcome: [AtomicU32; 240],
    /// How many bytes of `said` are filled.
    pub said_length: AtomicU32,
    /// What a failed hook wrote to its stdout and stderr, the beginning of it.
    pub said: [AtomicU8; SAID],
}

/// The most that is kept of a failed hook's output, in bytes.
pub const SAID: usize = 1024;

/// The mapping; unmapped when dropped.
pub struct Page {
    report: *const Report,
}

impl Page {
    const SIZE: usize = 4096;

    /// A new page of zeros, which a cloned child shares.
    ///
    /// # Errors
    /// mmap(2) fails: ENOMEM.
    pub fn new() -> Result<Self, Errno> {
        Self::map(-1, libc::MAP_SHARED | libc::MAP_ANONYMOUS)
    }

    /// The page of a memory file (memfd) of at least one page, for a process that was not cloned.
    ///
    /// # Errors
    /// mmap(2) fails: EBADF, EACCES, ENOMEM.
    pub fn from_file(fd: i32) -> Result<Self, Errno> {
        Self::map(fd, libc::MAP_SHARED)
    }

    fn map(fd: i32, flags: i32) -> Result<Self, Errno> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                Self::SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                fd,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        Ok(Self {
            report: address.cast(),
        })
    }

    /// The page's fields.
    pub fn report(&self) -> &Report {
        // SAFETY: the mapping is page-aligned, larger than the structure, and lives as long as
        // `self`; every field is atomic, and any bit pattern is valid.
        unsafe { &*self.report }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made in `map`, and no reference outlives `self`.
        unsafe { libc::munmap(self.report.cast_mut().cast(), Self::SIZE) };
    }
}

impl Report {
    /// Records what a failed hook said; bytes beyond [`SAID`] are left out.
    pub fn say(&self, text: &[u8]) {
        for (place, byte) in self.said.iter().zip(text) {
            place.store(*byte, Ordering::Relaxed);
        }
        let length = text.len().min(SAID) as u32;
        self.said_length.store(length, Ordering::Release);
    }

    /// What a failed hook said.
    pub fn said(&self) -> Vec<u8> {
        let length = self.said_length.load(Ordering::Acquire) as usize;
        let bytes = self.said.iter().take(length);
        bytes.map(|byte| byte.load(Ordering::Relaxed)).collect()
    }

    /// Records what a step's policy decided. What does not fit into the table is not recorded.
    pub fn note(&self, step: u32, outcome: u8) {
        let index = self.outcomes.load(Ordering::Relaxed) as usize;
        if let Some(place) = self.outcome.get(index) {
            place.store((step << 8) | u32::from(outcome), Ordering::Relaxed);
            self.outcomes.store(index as u32 + 1, Ordering::Release);
        }
    }
}
