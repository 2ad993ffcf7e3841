//! The program of a throw-away guest that probes KVM, and the guest's memory: see
//! `vm::vmm::probe`.

use super::Sys;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use nix::errno::Errno;

// What an unmodified x86-64 kernel does in its first moments, in its order; after each part the
// program writes a byte to port 0x10. The program lies at 0x1000, its page tables at 0x2000, its
// interrupt table at 0x5000 and its stack below 0x8000.
core::arch::global_asm!(
    ".section .rodata.hull_kvm_probe, \"a\"",
    ".globl hull_kvm_probe, hull_kvm_probe_handler, hull_kvm_probe_end",
    ".code16",
    "hull_kvm_probe:",
    "mov $1, %al",
    "outb %al, $0x10",
    // CR0.PE.
    "lgdt (4f - hull_kvm_probe + 0x1000)",
    "mov $0x11, %eax",
    "mov %eax, %cr0",
    "ljmp $8, $(2f - hull_kvm_probe + 0x1000)",
    ".code32",
    "2: mov $0x10, %ax",
    "mov %ax, %ds",
    "mov %ax, %es",
    "mov %ax, %ss",
    "mov $0x8000, %esp",
    "mov $2, %al",
    "outb %al, $0x10",
    // CR4.PAE, OSFXSR, OSXMMEXCPT; EFER.LME; CR0.PG.
    "mov $0x620, %eax",
    "mov %eax, %cr4",
    "mov $0x2000, %eax",
    "mov %eax, %cr3",
    "mov $0xc0000080, %ecx",
    "rdmsr",
    "or $0x100, %eax",
    "wrmsr",
    "mov $0x80000033, %eax",
    "mov %eax, %cr0",
    "ljmp $0x18, $(3f - hull_kvm_probe + 0x1000)",
    ".code64",
    "3: mov $3, %al",
    "outb %al, $0x10",
    "lidt (5f - hull_kvm_probe + 0x1000)",
    "xor %eax, %eax",
    "cpuid",
    "mov $4, %al",
    "outb %al, $0x10",
    "int3",
    "mov $5, %al",
    "outb %al, $0x10",
    "pxor %xmm0, %xmm0",
    "movd %xmm0, %eax",
    "mov $6, %al",
    "outb %al, $0x10",
    // GS.BASE.
    "mov $0xc0000101, %ecx",
    "rdmsr",
    "wrmsr",
    "swapgs",
    "mov $7, %al",
    "outb %al, $0x10",
    "hlt",
    "hull_kvm_probe_handler: iretq",
    ".balign 8",
    "6: .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff, 0x00af9a000000ffff",
    "4: .word 31",
    ".long 6b - hull_kvm_probe + 0x1000",
    "5: .word 63",
    ".quad 0x5000",
    "hull_kvm_probe_end:",
    ".text",
    options(att_syntax)
);

unsafe extern "C" {
    static hull_kvm_probe: u8;
    static hull_kvm_probe_handler: u8;
    static hull_kvm_probe_end: u8;
}

/// The guest-physical address of the program's first instruction.
pub const ENTRY: u64 = 0x1000;
/// The byte that the program writes last, before it halts.
pub const LAST: u8 = 7;

const SIZE: usize = 0x10000;

/// A guest's memory, from guest-physical address 0 on; unmapped when dropped, which must be after
/// the VM itself.
pub struct Memory {
    address: *mut libc::c_void,
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, of this size, and no reference into it exists.
        unsafe { libc::munmap(self.address, SIZE) };
    }
}

/// Gives a VM its memory, with the program in it.
///
/// # Errors
/// mmap(2) fails: ENOMEM. The ioctl KVM_SET_USER_MEMORY_REGION fails.
pub fn load(vm: &VmFd) -> Sys<Memory> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            SIZE,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    let memory = Memory { address };
    // SAFETY: the mapping is SIZE bytes long, zeroed, writable and nobody else's; the VM does not
    // have it yet.
    fill(unsafe { std::slice::from_raw_parts_mut(address.cast::<u8>(), SIZE) });
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: SIZE as u64,
        userspace_addr: address as u64,
    };
    // SAFETY: the region is the mapping, which the caller keeps as long as the VM.
    unsafe { vm.set_user_memory_region(region) }.map_err(|error| Errno::from_raw(error.errno()))?;
    Ok(memory)
}

fn fill(memory: &mut [u8]) {
    let (first, handler, end) = (
        &raw const hull_kvm_probe,
        &raw const hull_kvm_probe_handler,
        &raw const hull_kvm_probe_end,
    );
    // SAFETY: the three are labels of one read-only section, in this order; the bytes between them
    // are its content.
    let (program, handler) = unsafe {
        (
            std::slice::from_raw_parts(first, end.offset_from(first) as usize),
            handler.offset_from(first) as u64,
        )
    };
    let entry = ENTRY as usize;
    memory[entry..entry + program.len()].copy_from_slice(program);
    let mut word = |at: usize, value: u64| memory[at..at + 8].copy_from_slice(&value.to_le_bytes());
    // One large page at address 0: present, writable, and at the last level large.
    word(0x2000, 0x3000 | 3);
    word(0x3000, 0x4000 | 3);
    word(0x4000, 0x83);
    // The gate of vector 3: selector 0x18, present, an interrupt gate.
    word(
        0x5000 + 3 * 16,
        (ENTRY + handler) | 0x18 << 16 | 0x8e00 << 32,
    );
}
