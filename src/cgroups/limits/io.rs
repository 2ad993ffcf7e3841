//! `linux.resources.blockIO`: v1's `blkio`, v2's `io`.

use super::sink::Sink;
use crate::cgroups::tree::Version;
use crate::cgroups::values::Policy;
use crate::spec::config::{BlockIo, ThrottleDevice, WeightDevice};
use crate::{Error, Result};

impl Sink<'_> {
    /// Adds the block IO limits. A weight of zero is "not set"; a rate of zero removes the
    /// throttle.
    pub(super) fn block_io(&mut self, block_io: &BlockIo) -> Result<()> {
        let BlockIo {
            weight,
            leaf_weight,
            weight_device,
            throttle_read_bps_device,
            throttle_write_bps_device,
            throttle_read_iops_device,
            throttle_write_iops_device,
        } = block_io;
        if let Some(weight) = weight.filter(|w| *w != 0) {
            self.weight(weight)?;
        }
        if let Some(weight) = leaf_weight.filter(|w| *w != 0) {
            self.need_v1(
                "blkio",
                "io",
                "blockIO.leafWeight",
                "cgroup v2 has no leaf weights",
            )?;
            self.put("blkio", "blkio.leaf_weight", weight, "blockIO.leafWeight");
        }
        for (index, device) in weight_device.iter().enumerate() {
            self.weight_device(device, &format!("blockIO.weightDevice[{index}]"))?;
        }
        self.throttle(
            throttle_read_bps_device,
            "blkio.throttle.read_bps_device",
            "rbps",
            "blockIO.throttleReadBpsDevice",
        )?;
        self.throttle(
            throttle_write_bps_device,
            "blkio.throttle.write_bps_device",
            "wbps",
            "blockIO.throttleWriteBpsDevice",
        )?;
        self.throttle(
            throttle_read_iops_device,
            "blkio.throttle.read_iops_device",
            "riops",
            "blockIO.throttleReadIOPSDevice",
        )?;
        self.throttle(
            throttle_write_iops_device,
            "blkio.throttle.write_iops_device",
            "wiops",
            "blockIO.throttleWriteIOPSDevice",
        )
    }

    /// The scheduler BFQ has a file of its own, which takes the same numbers. On v1 the file
    /// without `bfq` in its name was CFQ's, which Linux 5.0 removed.
    fn weight(&mut self, weight: u16) -> Result<()> {
        const FROM: &str = "blockIO.weight";
        in_range(weight, FROM)?;
        match self.need_io(FROM)? {
            Version::V1 => {
                let policy = Policy::Else {
                    file: "blkio.bfq.weight".to_owned(),
                    value: weight.to_string(),
                };
                self.put_with("blkio", "blkio.weight", weight, FROM, policy);
            }
            Version::V2 => {
                let policy = Policy::Else {
                    file: "io.weight".to_owned(),
                    value: io_weight(weight).to_string(),
                };
                self.put_with("io", "io.bfq.weight", weight, FROM, policy);
            }
        }
        Ok(())
    }

    fn weight_device(&mut self, device: &WeightDevice, from: &str) -> Result<()> {
        let WeightDevice {
            major,
            minor,
            weight,
            leaf_weight,
        } = *device;
        if let Some(weight) = weight.filter(|w| *w != 0) {
            let from = format!("{from}.weight");
            in_range(weight, &from)?;
            let value = format!("{major}:{minor} {weight}");
            match self.need_io(&from)? {
                Version::V1 => {
                    let policy = Policy::Else {
                        file: "blkio.bfq.weight_device".to_owned(),
                        value: value.clone(),
                    };
                    self.put_with("blkio", "blkio.weight_device", value, &from, policy);
                }
                Version::V2 => {
                    let other = format!("{major}:{minor} {}", io_weight(weight));
                    let policy = Policy::Else {
                        file: "io.weight".to_owned(),
                        value: other,
                    };
                    self.put_with("io", "io.bfq.weight", value, &from, policy);
                }
            }
        }
        if let Some(weight) = leaf_weight.filter(|w| *w != 0) {
            let from = format!("{from}.leafWeight");
            self.need_v1("blkio", "io", &from, "cgroup v2 has no leaf weights")?;
            self.put(
                "blkio",
                "blkio.leaf_weight_device",
                format!("{major}:{minor} {weight}"),
                &from,
            );
        }
        Ok(())
    }

    fn throttle(
        &mut self,
        devices: &[ThrottleDevice],
        v1: &str,
        v2: &str,
        from: &str,
    ) -> Result<()> {
        for (index, device) in devices.iter().enumerate() {
            let ThrottleDevice { major, minor, rate } = *device;
            let from = format!("{from}[{index}]");
            match self.need_io(&from)? {
                Version::V1 => self.put("blkio", v1, format!("{major}:{minor} {rate}"), &from),
                Version::V2 => {
                    let rate = if rate == 0 {
                        "max".to_owned()
                    } else {
                        rate.to_string()
                    };
                    self.put(
                        "io",
                        "io.max",
                        format!("{major}:{minor} {v2}={rate}"),
                        &from,
                    );
                }
            }
        }
        Ok(())
    }

    fn need_io(&self, from: &str) -> Result<Version> {
        self.need("blkio", Some("io"), from)
    }
}

fn in_range(weight: u16, from: &str) -> Result<()> {
    if (10..=1000).contains(&weight) {
        return Ok(());
    }
    Err(Error::new(format!(
        "invalid weight {weight}: valid range is 10-1000 (linux.resources.{from})"
    )))
}

/// Converts a weight of 10 to 1000 to the 1 to 10000 of `io.weight` (runc's conversion).
pub(in crate::cgroups) fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight) - 10) * 9999 / 990
}
