//! hull's manifest: what it stores among CRIU's images besides them, in a file that runc ignores.

use super::images::{Checksum, files, write_private};
use super::stdio_files::{self, HostFile, StreamOffset};
use crate::container::Container;
use crate::net::saved::SavedNetworks;
use crate::spec::Spec;
use crate::state::PolicyOutcome;
use crate::step::layers::Layers;
use crate::store::Store;
use crate::{Context, Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The file's name.
const FILE: &str = "hull.json";

/// What hull knows of the dumped container. Images of another runtime have no manifest: then
/// everything is empty.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Manifest {
    /// The container's id.
    #[serde(default)]
    pub id: String,
    /// The container's directory in the store. Sources of some of its mounts are in it.
    #[serde(default)]
    pub directory: PathBuf,
    /// Those of stdin, stdout and stderr that were files of the host.
    #[serde(default)]
    pub files: Vec<HostFile>,
    /// The file offsets of those that were open for reading only.
    #[serde(default, rename = "read_at")]
    pub offsets: Vec<StreamOffset>,
    /// The config by which the container was created.
    pub spec: Option<Spec>,
    /// The layers of the root file system. The changes in each overlay are in a tar file among the
    /// images ([`super::images::layer`]).
    #[serde(default)]
    pub layers: Option<Layers>,
    /// What the policies of the steps decided. The mounts alone do not tell: a mount of the host
    /// looks like one of the container where both are of one file system.
    #[serde(default)]
    pub outcomes: Vec<PolicyOutcome>,
    /// The container's endpoints in hull's own networks.
    #[serde(default)]
    pub network: Option<SavedNetworks>,
    /// Whether hull kept the container's output for `hull logs`.
    #[serde(default)]
    pub logs: bool,
    /// The checksum of each image, by its file name.
    #[serde(default, rename = "sums")]
    pub checksums: BTreeMap<String, Checksum>,
}

impl Manifest {
    /// The manifest of a running container, without offsets and checksums.
    ///
    /// # Errors
    /// The records of the container's network cannot be read.
    pub(super) fn of(container: &Container, files: Vec<HostFile>) -> Result<Self> {
        let Container { record, .. } = container;
        let directory = container.directory();
        Ok(Self {
            id: record.id.clone(),
            files,
            offsets: Vec::new(),
            spec: Some(record.spec.clone()),
            layers: record.layers.clone(),
            outcomes: record.outcomes.clone(),
            network: SavedNetworks::of(&directory)?,
            logs: directory.join(crate::adhoc::keeper::LOG).exists(),
            directory,
            checksums: BTreeMap::new(),
        })
    }

    /// Removes the state of [`Self::files`] from the images ([`stdio_files::remove_state`]), and
    /// notes their offsets.
    ///
    /// # Errors
    /// The image of open files cannot be read or written.
    pub(super) fn remove_file_state(&mut self, directory: &Path) -> Result<()> {
        self.offsets = stdio_files::remove_state(directory, &self.files)?;
        Ok(())
    }

    /// Notes the checksum of each image. `known` returns those that were computed before.
    ///
    /// # Errors
    /// An image cannot be read.
    pub(super) fn add_checksums(
        &mut self,
        directory: &Path,
        known: &dyn Fn(&Path) -> Option<Checksum>,
    ) -> Result<()> {
        for path in files(directory)? {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if name != FILE && !name.ends_with(".log") {
                self.checksums.insert(
                    name.to_owned(),
                    known(&path).map_or_else(|| Checksum::of(&path), Ok)?,
                );
            }
        }
        Ok(())
    }

    /// Compares the images with their checksums.
    ///
    /// # Errors
    /// An image is missing, cut off or changed.
    pub(super) fn verify(&self, directory: &Path) -> Result<()> {
        for (name, saved) in &self.checksums {
            let path = directory.join(name);
            let now = match Checksum::of(&path) {
                Err(_) if !path.exists() => {
                    return Err(Error::new(format!(
                        "the image {} is missing",
                        path.display()
                    )));
                }
                other => other?,
            };
            if now.length != saved.length {
                return Err(Error::new(format!(
                    "the image {} is damaged: it has {} bytes and should have {}",
                    path.display(),
                    now.length,
                    saved.length
                )));
            }
            if now != *saved {
                return Err(Error::new(format!(
                    "the image {} is damaged: its checksum differs",
                    path.display()
                )));
            }
        }
        Ok(())
    }

    /// Writes the manifest among the images.
    ///
    /// # Errors
    /// The file cannot be written: the disk is full, say.
    pub(super) fn write(&self, directory: &Path) -> Result<()> {
        let text = serde_json::to_vec(self)
            .map_err(|error| Error::new(format!("write {FILE}: {error}")))?;
        write_private(&directory.join(FILE), &text)
    }

    /// Reads the manifest among the images; an empty one where there is none.
    ///
    /// # Errors
    /// The file cannot be read, or is not a manifest.
    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(FILE);
        match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(Error::io("read", path.display(), &error)),
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| Error::new(format!("read {}: {error}", path.display()))),
        }
    }

    /// The config for a container that is restored with the id `id`: host name, cgroup and mount
    /// sources that contain the old id or the old directory get the new one.
    ///
    /// # Errors
    /// The images have no manifest; the resulting config is not valid.
    pub fn spec_for(&self, store: &Store, id: &str) -> Result<Spec> {
        let spec = self.spec.as_ref().ok_or_else(|| {
            Error::new("the images hold no config: give the bundle with --bundle")
        })?;
        let directory =
            std::path::absolute(store.directory(id)).on("find", store.root().display())?;
        let mut config = spec.config().clone();
        for mount in &mut config.mounts {
            let below = mount.source.as_deref().and_then(|source| {
                Path::new(source)
                    .strip_prefix(&self.directory)
                    .ok()
                    .map(|rest| directory.join(rest))
            });
            if let Some(source) = below {
                mount.source = Some(source.to_string_lossy().into_owned());
            }
        }
        if id != self.id {
            if config.hostname.as_deref() == Some(&self.id) {
                config.hostname = Some(id.to_owned());
            }
            let path = config
                .linux
                .as_mut()
                .and_then(|linux| linux.cgroups_path.as_mut());
            if let Some(path) = path {
                *path = other_cgroup(path, &self.id, id);
            }
        }
        let bundle = if spec.bundle() == self.directory {
            directory
        } else {
            spec.bundle().to_owned()
        };
        Spec::check(config, bundle)
    }
}

/// A cgroups path of its own for a container with another id: two containers cannot have one
/// cgroup. The new id replaces the old one at the path's end, or is appended.
fn other_cgroup(path: &str, old: &str, new: &str) -> String {
    match path.strip_suffix(old) {
        Some(front) if front.is_empty() || front.ends_with(['/', ':', '-']) => {
            format!("{front}{new}")
        }
        _ => format!("{}-{new}", path.trim_end_matches('/')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_a_cgroup_of_its_own() {
        assert_eq!(other_cgroup("/hull/a", "a", "b"), "/hull/b");
        assert_eq!(
            other_cgroup("system.slice:hull:a", "a", "b"),
            "system.slice:hull:b"
        );
        assert_eq!(other_cgroup("/fixed", "a", "b"), "/fixed-b");
        assert_eq!(other_cgroup("/data", "a", "b"), "/data-b");
    }

    /// Images are restored by other versions of hull.
    #[test]
    fn the_names_in_the_file_stay() {
        let text = concat!(
            r#"{"id":"a","directory":"/d","files":[["file[1:2]",1]],"read_at":[[0,7]],"#,
            r#""spec":null,"layers":null,"outcomes":[],"network":null,"logs":true,"#,
            r#""sums":{"core-1.img":[3,9],"pages-1.img":[70000000,null]}}"#
        );
        let manifest: Manifest = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&manifest).unwrap(), text);
        let pages = Checksum {
            length: 70_000_000,
            crc32: None,
        };
        assert_eq!(manifest.checksums["pages-1.img"], pages);
    }
}
