//! Mounts, binds, masks, device nodes and symbolic links. Each target is opened first and then used
//! by its descriptor.

use crate::rootfs::child::copyup;
use crate::step::child::{ChildState, StepResult};
use crate::step::container::{Create, Protection, Refused, StepRef, slot};
use crate::step::report::{Detail, Fault, Outcome};
use crate::sys::file::{self, RESOLVE_IN_ROOT};
use crate::sys::mount::{
    self, AT_RECURSIVE, ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY, MountAttr,
    OPEN_TREE_CLONE,
};
use crate::sys::resolve::{PathBuffer, lookup};
use nix::errno::Errno;
use std::ffi::CStr;

const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// What the kernel locks on a mount that a user namespace gets from outside (mount_namespaces(7)).
const LOCKED: u64 = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC;

fn is_directory(descriptor: i32) -> Result<bool, Errno> {
    Ok(file::fstat(descriptor)?.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

impl ChildState<'_> {
    /// Mounts a file system. The child changes to the target directory and mounts on `.`, so that
    /// mount(2) resolves no path.
    pub fn mount(&mut self, step: StepRef) -> StepResult {
        let StepRef::Mount {
            target,
            fstype,
            source,
            flags,
            data,
            propagation,
            create,
            refused,
            follow,
            copy_up,
        } = step
        else {
            return Err(Errno::EINVAL.into());
        };
        let mut buffer = PathBuffer::new();
        let data = if fstype == c"tmpfs" {
            self.with_mode(target, data, follow, &mut buffer)?
        } else {
            data
        };
        let plain =
            create == Create::Directory && refused == Refused::Fail && propagation == 0 && !copy_up;
        if plain
            && let Some(name) = self
                .new_name(target)
                .map_err(|errno| Fault::with(errno, Detail::Target))?
        {
            return Ok(mount_new(source, name, fstype, flags, data)?);
        }
        let place = self.target(target, create, true, follow)?;
        self.enter(place)
            .map_err(|errno| Fault::with(errno, Detail::Target))?;
        let flags_now = if copy_up {
            flags & !libc::MS_RDONLY
        } else {
            flags
        };
        match mount_new(source, c".", fstype, flags_now, data) {
            Ok(()) => {}
            Err(Errno::EPERM) if refused == Refused::BindHost => {
                return self.bind_host(target, source, place, flags);
            }
            Err(Errno::EPERM | Errno::ENODEV | Errno::EACCES) if refused == Refused::Skip => {
                self.report.note(self.step, Outcome::Skipped as u8);
                return Ok(());
            }
            Err(errno) => return Err(errno.into()),
        }
        if fstype == c"tmpfs" && !copy_up {
            self.mounted_empty(target)
        } else {
            self.mounted(target)
        }
        if !copy_up && propagation == 0 {
            self.sweep(place);
            return Ok(());
        }
        let mounted = self.target(target, Create::No, true, follow)?;
        if copy_up {
            copyup::copy_tree(place, mounted)
                .map_err(|errno| Fault::with(errno, Detail::CopyUp))?;
        }
        let set = if copy_up && flags & libc::MS_RDONLY != 0 {
            ATTR_RDONLY
        } else {
            0
        };
        Ok(mount::mount_setattr(
            mounted,
            0,
            &MountAttr {
                set,
                propagation,
                ..MountAttr::default()
            },
        )?)
    }

    /// The options of a tmpfs: without `mode=` it gets the mode of the directory that it covers, as
    /// in runc.
    fn with_mode<'d>(
        &self,
        target: &CStr,
        data: &'d CStr,
        follow: bool,
        buffer: &'d mut PathBuffer,
    ) -> Result<&'d CStr, Errno> {
        if data.to_bytes().windows(5).any(|part| part == b"mode=") {
            return Ok(data);
        }
        let Ok(stat) = lookup(self.root, target, 0, follow).and_then(file::fstat) else {
            return Ok(data);
        };
        let digits = [9, 6, 3, 0].map(|shift| b'0' + (stat.st_mode >> shift & 7) as u8);
        let comma: &[u8] = if data.is_empty() { b"" } else { b"," };
        buffer.join(&[data.to_bytes(), comma, b"mode=", &digits])
    }

    /// Binds the host's sysfs, procfs or cgroup2, which a process in a user namespace may not mount
    /// without a network, PID or cgroup namespace of its own.
    fn bind_host(&mut self, path: &CStr, source: &CStr, place: i32, flags: u64) -> StepResult {
        let host = if source.to_bytes().first() == Some(&b'/') {
            source
        } else {
            path
        };
        let tree = mount::open_tree(libc::AT_FDCWD, host, OPEN_TREE_CLONE | AT_RECURSIVE)?;
        mount::move_mount(tree, place)?;
        self.mounted(path);
        let mut set = 0;
        for (old, new) in [
            (libc::MS_RDONLY, ATTR_RDONLY),
            (libc::MS_NOSUID, ATTR_NOSUID),
            (libc::MS_NODEV, ATTR_NODEV),
            (libc::MS_NOEXEC, ATTR_NOEXEC),
        ] {
            set |= if flags & old != 0 { new } else { 0 };
        }
        mount::mount_setattr(
            tree,
            AT_RECURSIVE,
            &MountAttr {
                set,
                ..MountAttr::default()
            },
        )?;
        self.report.note(self.step, Outcome::BoundHost as u8);
        Ok(())
    }

    pub(crate) fn bind(&mut self, step: StepRef) -> StepResult {
        let StepRef::Bind {
            target,
            slot: index,
            source,
            recursive,
            create,
            in_proc,
            link,
            set,
            clear,
            implied,
            locked,
            rset,
            rclear,
            propagation,
        } = step
        else {
            return Err(Errno::EINVAL.into());
        };
        let tree = match index {
            slot::NONE => copy(libc::AT_FDCWD, source, recursive, link)?,
            slot::IN_ROOT => {
                let resolve = RESOLVE_IN_ROOT;
                let flags = if link { libc::O_NOFOLLOW } else { 0 };
                let held = file::openat2(self.root, source, libc::O_PATH | flags, 0, resolve)
                    .map_err(|errno| Fault::with(errno, Detail::Source))?;
                copy(held, c"", recursive, false)?
            }
            _ => self.slot(index)?,
        };
        if link && file::fstat(tree)?.st_mode & libc::S_IFMT == libc::S_IFLNK {
            return self.copy_link(tree, target);
        }
        let place = self.target(target, create, is_directory(tree)?, true)?;
        if is_directory(tree)? != is_directory(place)? {
            return Err(Fault::with(Errno::ENOTDIR, Detail::Target));
        }
        if !in_proc && file::filesystem(place)? == PROC_SUPER_MAGIC {
            return Err(Fault::with(Errno::EPERM, Detail::InsideProc));
        }
        let attributes = |errno| Fault::with(errno, Detail::Attributes);
        let (clear, rclear) = if locked && (clear | rclear) & LOCKED != 0 {
            // `ST_*` and `MOUNT_ATTR_*` of these four are the same bits.
            let held = file::mount_flags(tree)? & LOCKED;
            if (clear | rclear) & held & ATTR_RDONLY != 0 {
                return Err(attributes(Errno::EPERM));
            }
            // What mounts below hold is not looked at, so that nothing of them is cleared.
            (clear & !held, rclear & !LOCKED)
        } else {
            (clear, rclear)
        };
        if rset | rclear != 0 {
            mount::mount_setattr(
                tree,
                AT_RECURSIVE,
                &MountAttr {
                    set: rset,
                    clear: rclear,
                    ..MountAttr::default()
                },
            )
            .map_err(attributes)?;
        }
        bind_attributes(tree, set, clear, implied).map_err(attributes)?;
        // The plan marks a recursive propagation (`rprivate`) by MS_REC.
        let kind = propagation & !libc::MS_REC;
        if kind != 0 {
            let deep = if propagation & libc::MS_REC != 0 {
                AT_RECURSIVE
            } else {
                0
            };
            let attr = MountAttr {
                propagation: kind,
                ..MountAttr::default()
            };
            mount::mount_setattr(tree, deep, &attr).map_err(attributes)?;
        }
        mount::move_mount(tree, place)?;
        self.mounted(target);
        if target == c"/" {
            // The new mount covers the root; what comes after is below it.
            self.root = tree;
        }
        self.sweep(tree.max(place));
        Ok(())
    }

    /// Makes a detached copy of a tree of the host for later binds.
    pub(crate) fn copy(
        &mut self,
        index: u32,
        source: &CStr,
        recursive: bool,
        link: bool,
    ) -> StepResult {
        let tree = copy(libc::AT_FDCWD, source, recursive, link)?;
        let place = index.checked_sub(slot::FIRST_COPY);
        let place = place.and_then(|at| self.buffers.copies.get_mut(at as usize));
        *place.ok_or(Errno::EINVAL)? = tree;
        Ok(())
    }

    /// Unmounts what a path of the host shows, or covers it where the kernel has locked the mount.
    pub(crate) fn uncover(path: &CStr) -> StepResult {
        match mount::umount(path, libc::MNT_DETACH) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(Errno::EINVAL | Errno::EPERM) => Ok(mount::mount(
                c"tmpfs",
                path,
                c"tmpfs",
                libc::MS_RDONLY,
                c"nr_blocks=1",
            )?),
            Err(errno) => Err(errno.into()),
        }
    }

    fn copy_link(&mut self, link: i32, target: &CStr) -> StepResult {
        let mut text = [0_u8; libc::PATH_MAX as usize];
        let length = file::readlinkat(link, c"", &mut text[..libc::PATH_MAX as usize - 1])?;
        text[length] = 0;
        let text = CStr::from_bytes_until_nul(&text).map_err(|_| Errno::EINVAL)?;
        self.symlink(target, text)
    }

    pub(crate) fn attributes(&mut self, step: StepRef) -> StepResult {
        let StepRef::Attributes {
            target,
            set,
            clear,
            recursive,
            propagation,
            missing,
        } = step
        else {
            return Err(Errno::EINVAL.into());
        };
        // A cached directory was opened after the last mount on it, so it is that mount.
        let held = if target == c"/" {
            Some(self.root)
        } else {
            self.parent.get(target.to_bytes())
        };
        let place = match held.map_or_else(|| lookup(self.root, target, 0, true), Ok) {
            Err(Errno::ENOENT) if missing => {
                self.report.note(self.step, Outcome::Skipped as u8);
                return Ok(());
            }
            other => other?,
        };
        let deep = if recursive { AT_RECURSIVE } else { 0 };
        Ok(mount::mount_setattr(
            place,
            deep,
            &MountAttr {
                set,
                clear,
                propagation,
                userns_fd: 0,
            },
        )?)
    }

    pub(crate) fn protect(&mut self, target: &CStr, how: Protection) -> StepResult {
        let place = match lookup(self.root, target, 0, true) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => {
                self.report.note(self.step, Outcome::Skipped as u8);
                return Ok(());
            }
            other => other?,
        };
        match how {
            Protection::ReadOnly => {
                let tree = mount::open_tree(place, c"", OPEN_TREE_CLONE | AT_RECURSIVE)?;
                let set = MountAttr {
                    set: ATTR_RDONLY,
                    ..MountAttr::default()
                };
                mount::mount_setattr(tree, AT_RECURSIVE, &set)?;
                Ok(mount::move_mount(tree, place)?)
            }
            Protection::Mask if is_directory(place)? => {
                self.report.note(self.step, Outcome::MaskedDirectory as u8);
                self.mask_directory(target, place)
            }
            Protection::Mask => {
                self.report.note(self.step, Outcome::MaskedFile as u8);
                let tree = mount::open_tree(self.null_device()?, c"", OPEN_TREE_CLONE)?;
                Ok(mount::move_mount(tree, place)?)
            }
        }
    }

    /// Masks a directory. All masked directories share one empty read-only tmpfs, because making a
    /// superblock for each would take longer than all other steps.
    fn mask_directory(&mut self, target: &CStr, place: i32) -> StepResult {
        if self.empty >= 0 {
            let tree = mount::open_tree(self.empty, c"", OPEN_TREE_CLONE)?;
            return Ok(mount::move_mount(tree, place)?);
        }
        self.enter(place)?;
        mount::mount(
            c"tmpfs",
            c".",
            c"tmpfs",
            libc::MS_RDONLY,
            c"nr_blocks=1,nr_inodes=1",
        )?;
        // The tmpfs now covers the directory, so its path leads to it. It stays open: later masks
        // are copies of this mount.
        self.empty = lookup(self.root, target, 0, true)?;
        Ok(())
    }

    /// Opens the container's `/dev/null` and checks that it is the null device: an image may have a
    /// symbolic link there (CVE-2025-31133).
    fn null_device(&mut self) -> Result<i32, Fault> {
        if self.null < 0 {
            let null = lookup(self.root, c"/dev/null", libc::O_NOFOLLOW, true)?;
            let stat = file::fstat(null)?;
            if stat.st_mode & libc::S_IFMT != libc::S_IFCHR || stat.st_rdev != libc::makedev(1, 3) {
                return Err(Fault::with(Errno::ENODEV, Detail::NotNull));
            }
            self.null = null;
        }
        Ok(self.null)
    }

    pub(crate) fn node(&mut self, step: StepRef) -> StepResult {
        let StepRef::Node {
            path,
            mode,
            device,
            uid,
            gid,
            bind,
        } = step
        else {
            return Err(Errno::EINVAL.into());
        };
        let (directory, name) = self.parent_of(path)?;
        if bind {
            return self.bind_node(path, directory, name);
        }
        match file::mknodat(directory, name, mode, device) {
            Ok(()) => {}
            Err(Errno::EPERM) => return self.bind_node(path, directory, name),
            Err(Errno::EEXIST) => match existing_node(directory, name, mode, device)? {
                Existing::Same => return Ok(()),
                Existing::Empty => return self.bind_node(path, directory, name),
            },
            Err(errno) => return Err(errno.into()),
        }
        if uid != 0 || gid != 0 {
            file::fchownat(directory, name, uid, gid)?;
        }
        Ok(())
    }

    /// Binds the host's device onto an empty file, because a process in a user namespace may not
    /// call mknod(2) for devices.
    fn bind_node(&self, path: &CStr, directory: i32, name: &CStr) -> StepResult {
        let source = |errno| Fault::with(errno, Detail::Source);
        let tree = mount::open_tree(libc::AT_FDCWD, path, OPEN_TREE_CLONE).map_err(source)?;
        match file::mknodat(directory, name, libc::S_IFREG | 0o666, 0) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        let place = file::openat(directory, name, libc::O_PATH | libc::O_NOFOLLOW, 0)?;
        mount::move_mount(tree, place)?;
        self.report.note(self.step, Outcome::BoundHost as u8);
        Ok(())
    }

    pub(crate) fn symlink(&mut self, path: &CStr, target: &CStr) -> StepResult {
        let (directory, name) = self.parent_of(path)?;
        match file::symlinkat(target, directory, name) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Binds the terminal's peer on `/dev/console`, by its descriptor.
    pub fn mount_console(&mut self, peer: i32) -> StepResult {
        let place = self.target(c"/dev/console", Create::LikeSource, false, false)?;
        let tree = mount::open_tree(peer, c"", OPEN_TREE_CLONE)?;
        Ok(mount::move_mount(tree, place)?)
    }
}

/// Mounts a file system. A devpts whose group the user namespace does not map is mounted without
/// it.
fn mount_new(
    source: &CStr,
    place: &CStr,
    fstype: &CStr,
    flags: u64,
    data: &CStr,
) -> Result<(), Errno> {
    match mount::mount(source, place, fstype, flags, data) {
        Err(Errno::EINVAL) if fstype == c"devpts" => {
            let mut buffer = PathBuffer::new();
            let data = without_group(data, &mut buffer)?;
            mount::mount(source, place, fstype, flags, data)
        }
        done => done,
    }
}

/// The options of a devpts without `gid=`.
fn without_group<'b>(data: &CStr, buffer: &'b mut PathBuffer) -> Result<&'b CStr, Errno> {
    let bytes = data.to_bytes();
    let start = bytes.windows(4).position(|part| part == b"gid=");
    let start = start
        .filter(|at| *at == 0 || bytes[at - 1] == b',')
        .ok_or(Errno::EINVAL)?;
    let end = bytes[start..].iter().position(|byte| *byte == b',');
    let rest = end.map_or(&b""[..], |end| &bytes[start + end + 1..]);
    buffer.join(&[&bytes[..start], rest])
}

/// Makes a detached copy of the mount tree at a path.
fn copy(directory: i32, path: &CStr, recursive: bool, link: bool) -> Result<i32, Fault> {
    let nofollow = libc::AT_SYMLINK_NOFOLLOW as u32;
    let flags = OPEN_TREE_CLONE
        | if recursive { AT_RECURSIVE } else { 0 }
        | if link { nofollow } else { 0 };
    mount::open_tree(directory, path, flags).map_err(|errno| Fault::with(errno, Detail::Source))
}

/// Sets the attributes of a bind mount. Where the kernel has locked one of those that are only
/// implied (mount_namespaces(7)), all of them stay as they are.
fn bind_attributes(tree: i32, set: u64, clear: u64, implied: u64) -> Result<(), Errno> {
    if set | clear | implied == 0 {
        return Ok(());
    }
    let attr = |clear| MountAttr {
        set,
        clear,
        ..MountAttr::default()
    };
    match mount::mount_setattr(tree, 0, &attr(clear | implied)) {
        Err(Errno::EPERM) if implied != 0 && set | clear == 0 => Ok(()),
        Err(Errno::EPERM) if implied != 0 => mount::mount_setattr(tree, 0, &attr(clear)),
        other => other,
    }
}

/// The file that already has the name of a device node.
enum Existing {
    /// The node that the step asks for.
    Same,
    /// An empty file, which an earlier container on the same root file system made for a bind.
    Empty,
}

/// Checks that an existing file is the node that the step asks for, or an empty file.
fn existing_node(directory: i32, name: &CStr, mode: u32, device: u64) -> Result<Existing, Fault> {
    let existing = file::openat(directory, name, libc::O_PATH | libc::O_NOFOLLOW, 0)?;
    let stat = file::fstat(existing)?;
    let kind = stat.st_mode & libc::S_IFMT;
    if kind == mode & libc::S_IFMT && (stat.st_rdev == device || kind == libc::S_IFIFO) {
        Ok(Existing::Same)
    } else if kind == libc::S_IFREG && stat.st_size == 0 && mode & libc::S_IFMT != libc::S_IFREG {
        Ok(Existing::Empty)
    } else {
        Err(Errno::EEXIST.into())
    }
}
