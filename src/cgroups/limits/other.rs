//! The smaller parts of `linux.resources`: pids, huge pages, network classes, RDMA, and v2's files
//! by their names.

use super::sink::Sink;
use crate::cgroups::tree::Version;
use crate::cgroups::values::Policy;
use crate::spec::config::{HugepageLimit, InterfacePriority, Network, Pids, Rdma};
use crate::{Error, Result};
use std::collections::BTreeMap;

impl Sink<'_> {
    /// Adds the limit of tasks: less than 0 is unlimited, and needs no cgroup; 0 is a limit like
    /// others (runtime-spec 1.3, "a value of `-1` indicates unlimited"; runc since 1.4).
    pub(super) fn pids(&mut self, pids: &Pids) -> Result<()> {
        match pids.limit {
            None => {}
            Some(limit) if limit >= 0 => {
                self.need("pids", Some("pids"), "pids.limit")?;
                self.put("pids", "pids.max", limit.to_string(), "pids.limit");
            }
            Some(_) if self.need("pids", Some("pids"), "pids.limit").is_err() => {}
            Some(_) => self.put("pids", "pids.max", "max".to_owned(), "pids.limit"),
        }
        Ok(())
    }

    /// Limits the pages in use and, since Linux 5.7, those that are reserved: with only the first
    /// limit mmap(2) succeeds beyond it, and the program is killed by SIGBUS when it touches the
    /// page.
    pub(super) fn hugepages(&mut self, limits: &[HugepageLimit]) -> Result<()> {
        for (index, HugepageLimit { page_size, limit }) in limits.iter().enumerate() {
            let from = format!("hugepageLimits[{index}]");
            if page_size.is_empty() || page_size.contains(['/', '.']) {
                return Err(Error::new(format!(
                    "invalid page size \"{page_size}\" (linux.resources.{from})"
                )));
            }
            let end = match self.need("hugetlb", Some("hugetlb"), &from)? {
                Version::V1 => "limit_in_bytes",
                Version::V2 => "max",
            };
            self.put(
                "hugetlb",
                &format!("hugetlb.{page_size}.{end}"),
                limit,
                &from,
            );
            self.put_with(
                "hugetlb",
                &format!("hugetlb.{page_size}.rsvd.{end}"),
                limit,
                &from,
                Policy::IfPresent,
            );
        }
        Ok(())
    }

    /// Adds the class and priorities of packets, which only v1 has.
    pub(super) fn network(&mut self, network: &Network) -> Result<()> {
        let Network {
            class_id,
            priorities,
        } = network;
        if let Some(class) = class_id.filter(|c| *c != 0) {
            self.need("net_cls", None, "network.classID")?;
            self.put("net_cls", "net_cls.classid", class, "network.classID");
        }
        for (index, InterfacePriority { name, priority }) in priorities.iter().enumerate() {
            let from = format!("network.priorities[{index}]");
            self.need("net_prio", None, &from)?;
            self.put(
                "net_prio",
                "net_prio.ifpriomap",
                format!("{name} {priority}"),
                &from,
            );
        }
        Ok(())
    }

    /// Adds the limits of RDMA devices.
    pub(super) fn rdma(&mut self, devices: &BTreeMap<String, Rdma>) -> Result<()> {
        for (
            device,
            Rdma {
                hca_handles,
                hca_objects,
            },
        ) in devices
        {
            let from = format!("rdma[{device}]");
            let pairs = [("hca_handle", hca_handles), ("hca_object", hca_objects)];
            let set: Vec<String> = pairs
                .iter()
                .filter_map(|(key, v)| v.map(|v| format!("{key}={v}")))
                .collect();
            if set.is_empty() {
                return Err(Error::new(format!(
                    "neither hcaHandles nor hcaObjects is given (linux.resources.{from})"
                )));
            }
            self.need("rdma", Some("rdma"), &from)?;
            self.put(
                "rdma",
                "rdma.max",
                format!("{device} {}", set.join(" ")),
                &from,
            );
        }
        Ok(())
    }

    /// Adds values for v2's files by their names. They come after all other values, which they
    /// override.
    pub(super) fn unified(&mut self, files: &BTreeMap<String, String>) -> Result<()> {
        for (file, value) in files {
            let error = |why: String| Err(Error::new(format!("unified resource \"{file}\" {why}")));
            if file.contains('/') {
                return error("must be a file name (no slashes)".to_owned());
            }
            let Some((controller, _)) = file
                .split_once('.')
                .filter(|(c, p)| !c.is_empty() && !p.is_empty())
            else {
                return error("must be in the form CONTROLLER.PARAMETER".to_owned());
            };
            // `cgroup.procs` would move processes of the host in, `cgroup.kill` end the container.
            if controller == "cgroup" && !file.starts_with("cgroup.max.") {
                return error(
                    "is not a limit: of the files cgroup.* only cgroup.max.* can be set".to_owned(),
                );
            }
            let v2 = |name: &str| {
                self.places.iter().any(|p| {
                    p.version == Version::V2
                        && (name == "cgroup" || p.controllers.iter().any(|c| c == name))
                })
            };
            if !v2(controller) {
                let why = match self
                    .places
                    .iter()
                    .any(|p| p.controllers.iter().any(|c| c == controller))
                {
                    true => "is on a cgroup v1 hierarchy",
                    false => "not available",
                };
                return error(format!("can't be set: controller \"{controller}\" {why}"));
            }
            let from = format!("unified[{file}]");
            self.put(controller, file, value.trim(), &from);
        }
        Ok(())
    }
}
