//! What a container uses, in the shape of `runc events --stats`: the names are runc's, engines read
//! them.
//!
//! The structs of the crate cgroups-rs are not used: they have other names, and its readers know v1
//! or v2 but not both at once.

pub(super) mod reader;
pub mod types;
pub mod v1;
pub mod v2;

use super::group::Group;
use super::tree::Version;
use crate::Result;
use reader::has;
use types::Stats;

impl Group {
    /// What the kernel has counted. Controllers that are not there leave zeros.
    ///
    /// # Errors
    /// A file that is there cannot be read, or has something else in it than the kernel's
    /// documentation says.
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
