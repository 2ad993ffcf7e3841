//! What criu is asked at a restore: the command's options, external mounts, namespaces to join,
//! inherited descriptors, and what criu can be spared.

use super::criu::{self, Mounting};
use super::images::{self, Beside};
use super::inventory::{self, External};
use super::rpc::{self, CgroupMode};
use super::{Common, Directories, cgroups, has_own_network, targets};
use crate::compile::{Compiled, CreateOptions};
use crate::spec::Spec;
use crate::sys::file;
use crate::{Context, Error, Result};
use oci_spec::runtime::LinuxNamespaceType;
use std::path::Path;

/// What `restore` was asked.
#[derive(Default)]
pub struct RestoreOptions {
    /// What checkpoint is asked as well.
    pub common: Common,
    /// What create is asked: pid file, systemd, and the like.
    pub options: CreateOptions,
    /// `--lsm-profile`: kind and name.
    pub lsm_profile: Option<String>,
    /// `--lsm-mount-context`.
    pub lsm_mount_context: Option<String>,
    /// Another container beside the saved one.
    pub copy: bool,
    /// The root's changes come from the images too, wherever they were kept.
    pub whole: bool,
}

/// What a restore is made from.
pub(super) struct Images<'a> {
    /// What restore was asked.
    pub options: &'a RestoreOptions,
    /// hull's own part of the images.
    pub beside: &'a Beside,
    /// Where images, work files and log are.
    pub directories: &'a Directories,
    /// criu's program.
    pub program: &'a Path,
    /// Where the root is mounted for criu.
    pub root: &'a Path,
    /// Mounts for criu alone.
    pub mounts: &'a [Mounting],
    /// Mounts of the container that come from the host.
    pub externals: &'a [External],
}

/// What criu is asked: the command's options, external mounts, namespaces to join, inherited files.
pub(super) fn request(images: &Images, compiled: &Compiled) -> Result<rpc::Options> {
    let Images {
        options: asked,
        beside,
        directories,
        root,
        externals,
        ..
    } = images;
    let spec = &compiled.spec;
    let root = root.canonicalize().on("open", root.display())?;
    let mut options = rpc::Options {
        root: Some(root.to_string_lossy().into_owned()),
        evasive_devices: Some(true),
        rst_sibling: Some(true),
        lsm_profile: asked.lsm_profile.clone(),
        lsm_mount_context: asked.lsm_mount_context.clone(),
        ..asked
            .common
            .options(directories, &spec.config().annotations)
    };
    if asked.common.cgroups == Some(CgroupMode::Strict) {
        // All values, as with strict; that the cgroup is new is seen to.
        options.manage_cgroups_mode = Some(CgroupMode::Full as i32);
    }
    let rootfs = spec.rootfs();
    for external in *externals {
        let key = if external.key == inventory::NULL {
            external.key.clone()
        } else {
            targets::resolved(&rootfs, &external.target)
        };
        let source = external.source.to_str().ok_or_else(|| {
            Error::new(format!("path {} is not UTF-8", external.source.display()))
        })?;
        if !options.ext_mnt.iter().any(|known| known.key == key) {
            options.ext_mnt.push(rpc::ExternalMount {
                key,
                value: source.to_owned(),
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
            options.join_ns.push(rpc::JoinNamespace {
                kind: kind.to_owned(),
                file: known.path.clone(),
            });
        }
    }
    // Pipes are the caller's new ones; all else that the container had is in the images or the
    // container.
    for (number, name) in (0..).zip(images::descriptors(&asked.common.images)?) {
        if name.starts_with("pipe:") && !options.inherit_fd.iter().any(|known| known.key == name) {
            options.inherit_fd.push(rpc::InheritFd {
                key: name,
                descriptor: number,
            });
        }
    }
    for (stream, position) in &beside.read_at {
        // What is no file here has no place to go on at.
        let _ = file::seek_to(*stream, *position);
    }
    options
        .inherit_fd
        .extend(beside.files.iter().map(|(key, descriptor)| rpc::InheritFd {
            key: key.clone(),
            descriptor: *descriptor,
        }));
    Ok(options)
}

/// The descriptors that criu inherits, from [`criu::FIRST`] on.
pub(super) fn inherited(keys: &[&str]) -> Vec<rpc::InheritFd> {
    (criu::FIRST..)
        .zip(keys)
        .map(|(descriptor, key)| rpc::InheritFd {
            key: (*key).to_owned(),
            descriptor,
        })
        .collect()
}

/// Whether criu may leave the container's network namespace empty, as the images hold nothing of
/// it.
pub(super) fn is_without_network(images: &Images, compiled: &Compiled) -> bool {
    has_own_network(&compiled.spec) && !images::hold_network(&images.directories.images)
}

/// What criu can be spared.
pub(super) struct Spared {
    /// It can be told not to hold packets back, and no link could bring one.
    pub lock: bool,
    /// It is born in the container's cgroup.
    pub cgroups: bool,
}

/// What criu need not do, unless it was asked for: hold packets back where there is no link that
/// could options one, and move processes into the cgroup that they are born in.
pub(super) fn leave_out(options: &mut rpc::Options, images: &Images, spec: &Spec, spared: &Spared) {
    let common = &images.options.common;
    let images = &images.directories.images;
    if spared.lock && !super::hooks_may_wire(spec) && super::may_skip_lock(common, options) {
        options.network_lock = Some(rpc::NetworkLock::Skip as i32);
    }
    let own_namespace = spec.namespace(LinuxNamespaceType::Cgroup).is_some();
    if spared.cgroups
        && !own_namespace
        && common.cgroups.is_none()
        && options.config_file.is_none()
        && cgroups::is_flat(images)
    {
        options.manage_cgroups_mode = Some(CgroupMode::Ignore as i32);
    }
}

/// Every controller's cgroup of criu is the container's.
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
                controller: Some(controller.to_owned()),
                path: path.to_owned(),
            });
        }
    }
    Ok(roots)
}
