//! bpf(2): the programs of type `BPF_PROG_TYPE_CGROUP_DEVICE`, which decide on device rules.

use nix::errno::Errno;
use std::ffi::c_long;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

const PROG_LOAD: c_long = 5;
const PROG_ATTACH: c_long = 8;
const PROG_DETACH: c_long = 9;
const PROG_GET_FD_BY_ID: c_long = 13;
const OBJ_GET_INFO_BY_FD: c_long = 15;
const PROG_QUERY: c_long = 16;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const F_ALLOW_MULTI: u32 = 2;
const F_REPLACE: u32 = 4;

/// The name of a program, as the kernel keeps it (`BPF_OBJ_NAME_LEN`).
pub type Name = [u8; 16];

// Each is the beginning of `union bpf_attr` for its command: the kernel takes a shorter structure
// and reads the rest as zero.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: Name,
}

#[repr(C)]
#[derive(Default)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

#[repr(C)]
#[derive(Default)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
}

#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct InfoByFd {
    fd: u32,
    info_len: u32,
    info: u64,
}

/// The beginning of `struct bpf_prog_info`, up to the name.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_prog_len: u32,
    xlated_prog_len: u32,
    jited_prog_insns: u64,
    xlated_prog_insns: u64,
    load_time: u64,
    created_by_uid: u32,
    nr_map_ids: u32,
    map_ids: u64,
    name: Name,
}

/// One command. `attr` must be the structure of that command.
fn bpf<T>(command: c_long, attr: &mut T) -> nix::Result<c_long> {
    // SAFETY: `attr` is a live, initialised structure whose size is given; the addresses within it
    // are of buffers that the callers below hold during the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    };
    Errno::result(result)
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

fn new_fd(result: c_long) -> OwnedFd {
    // SAFETY: the kernel has just returned this fd; nobody else has it. bpf(2) makes fds
    // close-on-exec.
    unsafe { OwnedFd::from_raw_fd(result as RawFd) }
}

/// Loads a program for device rules; the instructions are `struct bpf_insn` as 64-bit words.
///
/// # Errors
/// EPERM without CAP_BPF (or CAP_SYS_ADMIN) in the first user namespace; EINVAL or EACCES from the
/// verifier.
pub fn load_device_program(instructions: &[u64], name: Name) -> nix::Result<OwnedFd> {
    let mut attr = Load {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        prog_name: name,
        ..Load::default()
    };
    bpf(PROG_LOAD, &mut attr).map(new_fd)
}

/// Attaches a device program to a cgroup, besides those that it has (`BPF_F_ALLOW_MULTI`), or in
/// the place of one of them in one step (`BPF_F_REPLACE`, since Linux 5.6).
///
/// # Errors
/// bpf(2) fails: EPERM without CAP_BPF and CAP_NET_ADMIN; EINVAL on a kernel without
/// `BPF_F_REPLACE`; ENOENT, the program to be replaced is not attached.
pub fn attach_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replace: Option<BorrowedFd<'_>>,
) -> nix::Result<()> {
    let mut attr = Attach {
        target_fd: raw(cgroup),
        attach_bpf_fd: raw(program),
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: F_ALLOW_MULTI | if replace.is_some() { F_REPLACE } else { 0 },
        replace_bpf_fd: replace.map_or(0, raw),
    };
    bpf(PROG_ATTACH, &mut attr).map(drop)
}

/// Detaches a device program from a cgroup.
///
/// # Errors
/// bpf(2) fails: ENOENT, the program is not attached; EPERM.
pub fn detach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> nix::Result<()> {
    let mut attr = Attach {
        target_fd: raw(cgroup),
        attach_bpf_fd: raw(program),
        attach_type: ATTACH_CGROUP_DEVICE,
        ..Attach::default()
    };
    bpf(PROG_DETACH, &mut attr).map(drop)
}

/// The device programs that are attached to this cgroup itself, with their names.
///
/// # Errors
/// bpf(2) fails: EPERM without CAP_NET_ADMIN (or CAP_SYS_ADMIN, for the programs' descriptors).
pub fn device_programs(cgroup: BorrowedFd<'_>) -> nix::Result<Vec<(OwnedFd, Name)>> {
    let mut ids = [0u32; 64]; // BPF_CGROUP_MAX_PROGS
    let mut attr = Query {
        target_fd: raw(cgroup),
        attach_type: ATTACH_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: ids.len() as u32,
        ..Query::default()
    };
    bpf(PROG_QUERY, &mut attr)?;
    let mut programs = Vec::new();
    for id in &ids[..(attr.prog_cnt as usize).min(ids.len())] {
        let program = match bpf(
            PROG_GET_FD_BY_ID,
            &mut ById {
                id: *id,
                ..ById::default()
            },
        ) {
            Ok(result) => new_fd(result),
            Err(Errno::ENOENT) => continue, // detached and unloaded meanwhile
            Err(errno) => return Err(errno),
        };
        let mut info = ProgramInfo::default();
        let mut attr = InfoByFd {
            fd: program.as_raw_fd() as u32,
            info_len: size_of::<ProgramInfo>() as u32,
            info: std::ptr::from_mut(&mut info) as u64,
        };
        bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
        programs.push((program, info.name));
    }
    Ok(programs)
}
