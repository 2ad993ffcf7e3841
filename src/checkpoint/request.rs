//! The request by which CRIU restores a container: the command's options, external mounts,
//! namespaces to join, inherited file descriptors, and what CRIU need not do.

use super::external_mounts::{self, ExternalMount};
use super::images;
use super::manifest::Manifest;
use super::namespaces;
use super::options::{CommonOptions, Directories};
use super::proto::rpc::{self, CriuCgMode, CriuOpts};
use super::session::{self, CriuMount};
use super::{cgroups, targets};
use crate::compile::{Compiled, CreateOptions};
use crate::spec::Spec;
use crate::sys::file;
use crate::{Context, Error, Result};
use oci_spec::runtime::LinuxNamespaceType;
use std::path::Path;

/// The options of `hull restore`.
#[derive(Default)]
pub struct RestoreOptions {
    /// The options that checkpoint has as well.
    pub common: CommonOptions,
    /// The options that create has as well, such as the pid file and the systemd cgroup driver.
    pub options: CreateOptions,
    /// `--lsm-profile`: `TYPE:NAME`.
    pub lsm_profile: Option<String>,
    /// `--lsm-mount-context`.
    pub lsm_mount_context: Option<String>,
    /// The container is a copy: the dumped one may exist as well.
    pub copy: bool,
    /// The changes in the root are taken from the images even where their directory on the host
    /// still exists.
    pub whole: bool,
}

/// What a restore needs besides the compiled bundle.
pub(super) struct RestoreInput<'a> {
    /// The command's options.
    pub options: &'a RestoreOptions,
    /// hull's manifest among the images.
    pub manifest: &'a Manifest,
    /// The directories of images, work files and log.
    pub directories: &'a Directories,
    /// The CRIU program.
    pub program: &'a Path,
    /// Where the container's root is mounted for CRIU.
    pub root: &'a Path,
    /// The mounts in CRIU's mount namespace.
    pub mounts: &'a [CriuMount],
    /// The container's external mounts.
    pub externals: &'a [ExternalMount],
}

/// CRIU's options for a restore, without what depends on the CRIU process.
///
/// # Errors
/// `descriptors.json` cannot be read; the path of an external mount is not UTF-8.
pub(super) fn criu_opts(input: &RestoreInput, compiled: &Compiled) -> Result<CriuOpts> {
    let RestoreInput {
        options,
        manifest,
        directories,
        root,
        externals,
        ..
    } = input;
    let spec = &compiled.spec;
    let root = root.canonicalize().on("open", root.display())?;
    let mut opts = CriuOpts {
        root: Some(root.to_string_lossy().into_owned()),
        evasive_devices: Some(true),
        rst_sibling: Some(true),
        lsm_profile: options.lsm_profile.clone(),
        lsm_mount_context: options.lsm_mount_context.clone(),
        ..options
            .common
            .criu_opts(directories, &spec.config().annotations)
    };
    if options.common.cgroups == Some(CriuCgMode::Strict) {
        // CRIU would fail, as hull has created the cgroup. That it did not exist before was
        // checked.
        opts.manage_cgroups_mode = Some(CriuCgMode::Full as i32);
    }
    let rootfs = spec.rootfs();
    for external in *externals {
        let key = if external.key == external_mounts::MASKED_FILE_KEY {
            external.key.clone()
        } else {
            targets::resolved(&rootfs, &external.target)
        };
        let source = external.source.to_str().ok_or_else(|| {
            Error::new(format!("path {} is not UTF-8", external.source.display()))
        })?;
        if !opts.ext_mnt.iter().any(|known| known.key == key) {
            opts.ext_mnt.push(rpc::ExtMountMap {
                key,
                val: source.to_owned(),
            });
        }
    }
    for known in &compiled.facts.joined {
        let kind = match known.kind as i32 {
            libc::CLONE_NEWIPC => "ipc",
            libc::CLONE_NEWUTS => "uts",
            libc::CLONE_NEWNS => "mnt",
            libc::CLONE_NEWUSER => "user",
            _ => continue,
        };
        if known.owner != crate::facts::Owner::Own {
            opts.join_ns.push(rpc::JoinNamespace {
                ns: kind.to_owned(),
                ns_file: known.path.clone(),
            });
        }
    }
    // Pipes are replaced by the caller's. Whatever else the streams were is in the images.
    for (number, name) in (0..).zip(images::descriptors(&options.common.images)?) {
        if name.starts_with("pipe:") && !opts.inherit_fd.iter().any(|known| known.key == name) {
            opts.inherit_fd.push(rpc::InheritFd {
                key: name,
                fd: number,
            });
        }
    }
    for at in &manifest.offsets {
        // A stream of the caller that is not a file cannot seek.
        let _ = file::seek_to(at.stream, at.offset);
    }
    opts.inherit_fd
        .extend(manifest.files.iter().map(|file| rpc::InheritFd {
            key: file.key.clone(),
            fd: file.stream,
        }));
    Ok(opts)
}

/// The file descriptors that CRIU inherits, by their labels in the images: the numbers from
/// [`session::FIRST_INHERITED_FD`] on.
pub(super) fn inherited_fds(labels: &[&str]) -> Vec<rpc::InheritFd> {
    (session::FIRST_INHERITED_FD..)
        .zip(labels)
        .map(|(fd, label)| rpc::InheritFd {
            key: (*label).to_owned(),
            fd,
        })
        .collect()
}

/// Whether CRIU is to leave the container's network namespace empty because the images do not hold
/// it.
pub(super) fn is_without_network(input: &RestoreInput, compiled: &Compiled) -> bool {
    namespaces::has_own_network(&compiled.spec) && !images::hold_network(&input.directories.images)
}

/// What CRIU need not do, as far as hull has made sure of that.
pub(super) struct Unneeded {
    /// CRIU knows the option to lock no network, and the network namespace is empty.
    pub network_lock: bool,
    /// CRIU runs in the container's cgroup.
    pub cgroups: bool,
}

/// Tells CRIU what it need not do, unless the caller requested it: lock a network in which no link
/// can receive a packet, and move processes into the cgroup in which they are created.
pub(super) fn skip_unneeded(
    opts: &mut CriuOpts,
    input: &RestoreInput,
    spec: &Spec,
    unneeded: &Unneeded,
) {
    let common = &input.options.common;
    if unneeded.network_lock
        && !namespaces::hooks_may_add_links(spec)
        && common.may_skip_network_lock(opts)
    {
        opts.network_lock = Some(rpc::CriuNetworkLockMethod::Skip as i32);
    }
    let own_namespace = spec.namespace(LinuxNamespaceType::Cgroup).is_some();
    if unneeded.cgroups
        && !own_namespace
        && common.cgroups.is_none()
        && opts.config_file.is_none()
        && cgroups::is_flat(&input.directories.images)
    {
        opts.manage_cgroups_mode = Some(CriuCgMode::Ignore as i32);
    }
}

/// CRIU's own cgroups as the roots of the restored ones: CRIU runs in the container's cgroup.
///
/// # Errors
/// `/proc/PID/cgroup` cannot be read: CRIU has ended.
pub(super) fn cgroup_roots(pid: i32) -> Result<Vec<rpc::CgroupRoot>> {
    let path = format!("/proc/{pid}/cgroup");
    let text = std::fs::read_to_string(&path).on("read", &path)?;
    let mut roots = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        for controller in controllers.split(',') {
            roots.push(rpc::CgroupRoot {
                ctrl: Some(controller.to_owned()),
                path: path.to_owned(),
            });
        }
    }
    Ok(roots)
}
