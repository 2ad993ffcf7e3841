//! What a container uses, in the form of `runc events --stats`, which engines read.
//!
//! hull does not use the structs of the crate cgroups-rs: their fields have other names, and its
//! readers support v1 or v2 but not both at once.

pub(super) mod reader;
pub(crate) mod types;
pub(crate) mod v1;
pub(crate) mod v2;

use super::group::Group;
use super::tree::Version;
use crate::Result;
use reader::has;
use types::Stats;

impl Group {
    /// What the kernel has counted for the container. The numbers of a controller that it does not
    /// have are zero.
    ///
    /// # Errors
    /// A file that exists cannot be read, or does not have the form of the kernel's documentation.
    pub fn stats(&self) -> Result<Stats> {
        let mut stats = Stats::default();
        let v1_counts_time = self
            .places
            .iter()
            .any(|p| p.version == Version::V1 && has(p, "cpuacct"));
        for place in &self.places {
            match place.version {
                Version::V1 => v1::add(place, &mut stats)?,
                Version::V2 => v2::add(place, v1_counts_time, &mut stats)?,
            }
        }
        Ok(stats)
    }
}
