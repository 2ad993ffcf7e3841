//! The virtio-fs filesystem: that of the crate virtiofsd, behind a filter that refuses what a guest
//! must not do.

use crate::{Context, Error, Result};
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use vhost::vhost_user::Listener;
use vhost_user_backend::VhostUserDaemon;
use virtiofsd::filesystem::{
    Context as Caller, Entry, Extensions, FileSystem, FsOptions, GetxattrReply, ListxattrReply,
    OpenOptions, SerializableFileSystem, SetattrValid, SetxattrFlags, ZeroCopyReader,
    ZeroCopyWriter,
};
use virtiofsd::fuse;
use virtiofsd::passthrough::{CachePolicy, Config, PassthroughFs};
use virtiofsd::soft_idmap::Id;
use virtiofsd::vhost_user::VhostUserFsBackendBuilder;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

/// Serves the process's root filesystem to one VM over vhost-user, until the VMM disconnects.
/// `descriptors` is `/proc/self/fd` and `mountinfo` is `/proc/self/mountinfo`, which the process
/// cannot open any more.
///
/// # Errors
/// The root cannot be opened; the device's queues or threads cannot be made; the VMM violates the
/// vhost-user protocol.
pub(super) fn serve(listener: UnixListener, descriptors: File, mountinfo: File) -> Result<()> {
    let failed = |what: &'static str| {
        move |error: &dyn std::fmt::Display| Error::new(format!("{what}: {error}"))
    };
    let limit =
        crate::sys::ids::hard_limit(libc::RLIMIT_NOFILE).on("get", "the limit of open files")?;
    let config = Config {
        entry_timeout: Duration::from_secs(1),
        attr_timeout: Duration::from_secs(1),
        cache_policy: CachePolicy::Auto,
        root_dir: "/".into(),
        xattr: true,
        readdirplus: true,
        proc_sfd_rawfd: Some(descriptors),
        proc_mountinfo_rawfd: Some(mountinfo),
        announce_submounts: true,
        clean_noatime: true,
        guest_fd_limit: limit.saturating_sub(64),
        ..Config::default()
    };
    let fs =
        Filtered(PassthroughFs::new(config).map_err(|error| failed("open the share")(&error))?);
    let backend = VhostUserFsBackendBuilder::default()
        .set_thread_pool_size(0)
        .build(fs)
        .map_err(|error| failed("create the share's device")(&error))?;
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let mut daemon = VhostUserDaemon::new("hull-share".into(), Arc::new(backend), memory)
        .map_err(|error| failed("create the share's device")(&error))?;
    daemon
        .start(&mut Listener::from(listener))
        .map_err(|error| failed("serve the share")(&error))?;
    daemon
        .wait()
        .map_err(|error| failed("serve the share")(&error))
}

/// The filesystem with the calls that it refuses.
struct Filtered(PassthroughFs);

/// The error of a call that is refused.
fn refused() -> io::Error {
    io::Error::from_raw_os_error(libc::EPERM)
}

/// Whether a file with this mode and owner would run as root or with root's group on the host.
/// Set-group-id without group execute marks mandatory locking and gives no rights.
fn gives_rights(mode: u32, uid: u32, gid: u32) -> bool {
    mode & libc::S_IFMT != libc::S_IFDIR
        && (mode & libc::S_ISUID != 0 && uid == 0
            || mode & (libc::S_ISGID | libc::S_IXGRP) == libc::S_ISGID | libc::S_IXGRP && gid == 0)
}

/// Calls that the filesystem gets unchanged.
macro_rules! through {
    ($(
        fn $name:ident $(<$generic:ident: $bound:path>)?
            (&self $(, $arg:ident: $ty:ty)* $(,)?) $(-> $ret:ty)?;
    )*) => { $(
        fn $name $(<$generic: $bound>)? (&self $(, $arg: $ty)*) $(-> $ret)? {
            self.0.$name($($arg),*)
        }
    )* };
}

type Inode = <PassthroughFs as FileSystem>::Inode;
type Handle = <PassthroughFs as FileSystem>::Handle;

impl FileSystem for Filtered {
    type Inode = Inode;
    type Handle = Handle;
    type DirIter = <PassthroughFs as FileSystem>::DirIter;

    through! {
        fn init(&self, capable: FsOptions) -> io::Result<FsOptions>;
        fn destroy(&self);
        fn lookup(&self, ctx: Caller, parent: Inode, name: &CStr) -> io::Result<Entry>;
        fn forget(&self, ctx: Caller, inode: Inode, count: u64);
        fn batch_forget(&self, ctx: Caller, requests: Vec<(Inode, u64)>);
        fn getattr(
            &self, ctx: Caller, inode: Inode, handle: Option<Handle>,
        ) -> io::Result<(fuse::Attr, Duration)>;
        fn readlink(&self, ctx: Caller, inode: Inode) -> io::Result<Vec<u8>>;
        fn symlink(
            &self, ctx: Caller, target: &CStr, parent: Inode, name: &CStr, extensions: Extensions,
        ) -> io::Result<Entry>;
        fn mkdir(
            &self, ctx: Caller, parent: Inode, name: &CStr, mode: u32, umask: u32,
            extensions: Extensions,
        ) -> io::Result<Entry>;
        fn unlink(&self, ctx: Caller, parent: Inode, name: &CStr) -> io::Result<()>;
        fn rmdir(&self, ctx: Caller, parent: Inode, name: &CStr) -> io::Result<()>;
        fn rename(
            &self, ctx: Caller, old: Inode, old_name: &CStr, new: Inode, new_name: &CStr,
            flags: u32,
        ) -> io::Result<()>;
        fn link(&self, ctx: Caller, inode: Inode, parent: Inode, name: &CStr) -> io::Result<Entry>;
        fn open(
            &self, ctx: Caller, inode: Inode, kill_priv: bool, flags: u32,
        ) -> io::Result<(Option<Handle>, OpenOptions)>;
        fn read<W: ZeroCopyWriter>(
            &self, ctx: Caller, inode: Inode, handle: Handle, to: W, size: u32, offset: u64,
            owner: Option<u64>, flags: u32,
        ) -> io::Result<usize>;
        fn write<R: ZeroCopyReader>(
            &self, ctx: Caller, inode: Inode, handle: Handle, from: R, size: u32, offset: u64,
            owner: Option<u64>, delayed: bool, kill_priv: bool, flags: u32,
        ) -> io::Result<usize>;
        fn flush(&self, ctx: Caller, inode: Inode, handle: Handle, owner: u64) -> io::Result<()>;
        fn fsync(
            &self, ctx: Caller, inode: Inode, data_only: bool, handle: Handle,
        ) -> io::Result<()>;
        fn fallocate(
            &self, ctx: Caller, inode: Inode, handle: Handle, mode: u32, offset: u64, length: u64,
        ) -> io::Result<()>;
        fn release(
            &self, ctx: Caller, inode: Inode, flags: u32, handle: Handle, flush: bool,
            unlock: bool, owner: Option<u64>,
        ) -> io::Result<()>;
        fn statfs(&self, ctx: Caller, inode: Inode) -> io::Result<libc::statvfs64>;
        fn getxattr(
            &self, ctx: Caller, inode: Inode, name: &CStr, size: u32,
        ) -> io::Result<GetxattrReply>;
        fn listxattr(&self, ctx: Caller, inode: Inode, size: u32) -> io::Result<ListxattrReply>;
        fn removexattr(&self, ctx: Caller, inode: Inode, name: &CStr) -> io::Result<()>;
        fn opendir(
            &self, ctx: Caller, inode: Inode, flags: u32,
        ) -> io::Result<(Option<Handle>, OpenOptions)>;
        fn readdir(
            &self, ctx: Caller, inode: Inode, handle: Handle, size: u32, offset: u64,
        ) -> io::Result<Self::DirIter>;
        fn fsyncdir(
            &self, ctx: Caller, inode: Inode, data_only: bool, handle: Handle,
        ) -> io::Result<()>;
        fn releasedir(
            &self, ctx: Caller, inode: Inode, flags: u32, handle: Handle,
        ) -> io::Result<()>;
        fn access(&self, ctx: Caller, inode: Inode, mask: u32) -> io::Result<()>;
        fn lseek(
            &self, ctx: Caller, inode: Inode, handle: Handle, offset: u64, whence: u32,
        ) -> io::Result<u64>;
        fn copyfilerange(
            &self, ctx: Caller, from: Inode, from_handle: Handle, from_offset: u64, to: Inode,
            to_handle: Handle, to_offset: u64, length: u64, flags: u64,
        ) -> io::Result<usize>;
        fn syncfs(&self, ctx: Caller, inode: Inode) -> io::Result<()>;
    }

    /// Refuses device nodes, which on the host would be nodes of the host's devices.
    fn mknod(
        &self,
        ctx: Caller,
        parent: Inode,
        name: &CStr,
        mode: u32,
        device: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        let kind = mode & libc::S_IFMT;
        if matches!(kind, libc::S_IFCHR | libc::S_IFBLK)
            || gives_rights(mode, ctx.uid.into_inner(), ctx.gid.into_inner())
        {
            return Err(refused());
        }
        self.0
            .mknod(ctx, parent, name, mode, device, umask, extensions)
    }

    fn create(
        &self,
        ctx: Caller,
        parent: Inode,
        name: &CStr,
        mode: u32,
        kill_priv: bool,
        flags: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<(Entry, Option<Handle>, OpenOptions)> {
        if gives_rights(mode, ctx.uid.into_inner(), ctx.gid.into_inner()) {
            return Err(refused());
        }
        self.0
            .create(ctx, parent, name, mode, kill_priv, flags, umask, extensions)
    }

    fn setattr(
        &self,
        ctx: Caller,
        inode: Inode,
        attr: fuse::SetattrIn,
        handle: Option<Handle>,
        valid: SetattrValid,
    ) -> io::Result<(fuse::Attr, Duration)> {
        if valid.contains(SetattrValid::MODE) && attr.mode & (libc::S_ISUID | libc::S_ISGID) != 0 {
            let (now, _) = self.0.getattr(ctx, inode, None)?;
            let uid = if valid.contains(SetattrValid::UID) {
                attr.uid.into_inner()
            } else {
                now.uid.into_inner()
            };
            let gid = if valid.contains(SetattrValid::GID) {
                attr.gid.into_inner()
            } else {
                now.gid.into_inner()
            };
            if gives_rights(now.mode & libc::S_IFMT | attr.mode & 0o7777, uid, gid) {
                return Err(refused());
            }
        }
        self.0.setattr(ctx, inode, attr, handle, valid)
    }

    /// Refuses the namespace `security`: `security.capability` gives rights as a set-user-id bit
    /// does, and the other attributes are labels of the host's security modules.
    fn setxattr(
        &self,
        ctx: Caller,
        inode: Inode,
        name: &CStr,
        value: &[u8],
        flags: u32,
        extra: SetxattrFlags,
    ) -> io::Result<()> {
        if name.to_bytes().starts_with(b"security.") {
            return Err(refused());
        }
        self.0.setxattr(ctx, inode, name, value, flags, extra)
    }
}

impl SerializableFileSystem for Filtered {
    through! {
        fn prepare_serialization(&self, cancel: Arc<AtomicBool>);
        fn serialize(&self, to: File) -> io::Result<()>;
        fn deserialize_and_apply(&self, from: File) -> io::Result<()>;
    }
}

#[cfg(test)]
mod tests {
    use super::gives_rights;

    #[test]
    fn only_files_that_run_as_root_give_rights() {
        let file = libc::S_IFREG;
        assert!(gives_rights(file | 0o4755, 0, 5));
        assert!(!gives_rights(file | 0o4755, 1000, 0));
        assert!(gives_rights(file | 0o2755, 1000, 0));
        assert!(!gives_rights(file | 0o2745, 1000, 0), "mandatory locking");
        assert!(!gives_rights(libc::S_IFDIR | 0o6755, 0, 0));
        assert!(!gives_rights(file | 0o755, 0, 0));
    }
}
