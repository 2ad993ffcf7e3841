//! An allocator that ends a child which allocates. Between clone and execve a child must not
//! allocate: another thread may have held the allocator's lock at the clone, and the child has no
//! thread that would unlock it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI32, Ordering};

/// The exit status of a child that allocated. A signal would not do: the first process of a pid
/// namespace ignores it.
pub const CAUGHT: i32 = 99;

const WORDS: &[u8] = b"trap: the cloned child used the allocator before execve\n";

/// The process that may allocate: the first one that does.
static OWNER: AtomicI32 = AtomicI32::new(0);

/// The system's allocator with the trap.
pub struct Trap;

fn check() {
    let pid = hull::sys::process::getpid();
    let owner = OWNER.load(Ordering::Relaxed);
    if owner == 0 {
        OWNER.store(pid, Ordering::Relaxed);
    } else if owner != pid {
        let _ = hull::sys::file::write(2, WORDS);
        hull::sys::process::exit(CAUGHT);
    }
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Trap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check();
        // SAFETY: the caller's promise about the layout is the same here.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        check();
        // SAFETY: the pointer came from `alloc` above, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        check();
        // SAFETY: as for `dealloc`; the caller's promise about the size is the same here.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
