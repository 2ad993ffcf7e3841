//! `update`: new limits for a container that is there, in the kernel and in its record, all of them
//! or none.

use super::{Container, Status};
use crate::cgroups::group::Group;
use crate::spec::config::{
    BlockIo, Cpu, HugepageLimit, InterfacePriority, Memory, Network, Pids, Rdma, Resources,
    ThrottleDevice, WeightDevice,
};
use crate::{Error, Result};
use std::collections::BTreeMap;

impl Container {
    /// Sets the limits that are given and leaves the others. Zeros and empty texts mean "not given"
    /// where they do in runc: engines send them for what they do not change. The record has the
    /// merged values afterwards.
    ///
    /// Device rules are replaced as a whole where they differ from the record's. Equal ones are
    /// left alone: Kubernetes sends the config's own with every update, and a plugin may have
    /// allowed a device since.
    ///
    /// # Errors
    /// `container not running`; it has no cgroup; a value that is no limit or that the kernel
    /// refuses: then all is as it was.
    pub fn update(&mut self, change: &Resources) -> Result<()> {
        let _lock = self.store.lock(&self.record.id)?;
        // As it is under the lock: another update may have come first.
        self.record = self.store.read(&self.record.id)?;
        match self.status() {
            Status::Created | Status::Running | Status::Paused => {}
            Status::Stopped => return Err(Error::new("container not running")),
            Status::Creating => {
                return Err(Error::new(
                    "cannot update a container that is still being created",
                ));
            }
        }
        let mut group = self.needed_group()?;
        let present = self
            .record
            .spec
            .config()
            .linux
            .as_ref()
            .and_then(|linux| linux.resources.clone())
            .unwrap_or_default();
        let change = complete(change, &present);
        let old = self.record.clone();
        self.record.spec = self.record.spec.with_resources(merged(present, &change));
        // First the record, which may find the disk full, and then the kernel: its refusal is
        // followed by the old record.
        self.record.write(&self.store)?;
        let updated = match &self.record.vm {
            Some(vm) => self.vm().update(vm, &mut group, &change, &old.spec),
            None => group.update(&change),
        };
        if let Err(error) = updated {
            let back = old.write(&self.store);
            self.record = old;
            return Err(match back {
                Ok(()) => error,
                Err(back) => Error::new(format!(
                    "{error}; the earlier record could not be put back: {back}"
                )),
            });
        }
        let made = Some(group.record());
        if made != self.record.cgroup {
            self.record.cgroup = made;
            self.record.write(&self.store)?;
        }
        warn_of_kernel_memory(&group, &change);
        crate::log::debug(|| {
            format!(
                "container {}: limits updated: {}",
                self.record.id,
                serde_json::to_string(&change).unwrap_or_default()
            )
        });
        Ok(())
    }
}

/// Linux 6.x takes v1's limit of kernel memory and forgets it (`memory.kmem.limit_in_bytes`,
/// mm/memcontrol-v1.c). runc warns of the option and ignores it on every kernel.
pub(super) fn warn_of_kernel_memory(group: &Group, change: &Resources) {
    let Some(asked) = change
        .memory
        .as_ref()
        .and_then(|memory| memory.kernel)
        .filter(|limit| *limit > 0)
    else {
        return;
    };
    let held = group
        .dir("memory")
        .and_then(|dir| std::fs::read_to_string(format!("{dir}/memory.kmem.limit_in_bytes")).ok());
    // The kernel counts in pages: what it holds may be a little less, and never more.
    if held
        .and_then(|text| text.trim().parse::<i64>().ok())
        .is_none_or(|held| held > asked)
    {
        crate::log::warn(
            "the limit of kernel memory (linux.resources.memory.kernel) is ignored by this kernel",
        );
    }
}

/// What is to be written: without what only repeats or means nothing, and with what a value must be
/// seen together with.
fn complete(change: &Resources, present: &Resources) -> Resources {
    let mut change = change.clone();
    change.pids = change
        .pids
        .filter(|pids| pids.limit.is_some_and(|limit| limit != 0));
    if change.devices == present.devices {
        change.devices.clear();
    }
    if let (Some(memory), Some(present)) = (&mut change.memory, &present.memory)
        && memory.swap.is_none_or(|swap| swap == 0)
        && memory.limit.is_some_and(|limit| limit > 0)
        && present.swap.is_some_and(|swap| swap > 0)
        && present.swap == present.limit
    {
        // A container without swap stays without it. v1 limits memory and swap together: it would
        // refuse a higher limit of memory, and a lower one would allow swap. v2 limits swap alone.
        memory.swap = memory.limit;
    }
    if let (Some(cpu), Some(present)) = (&mut change.cpu, &present.cpu)
        && cpu.idle.is_none()
        && present.idle == Some(1)
    {
        // An idle group has no weight on v2: the shares wait in the record.
        cpu.idle = present.idle;
    }
    change
}

/// The limits after an update.
pub(super) fn merged(mut present: Resources, change: &Resources) -> Resources {
    let Resources {
        devices,
        memory,
        cpu,
        pids,
        block_io,
        hugepage_limits,
        network,
        rdma,
        unified,
    } = change;
    if !devices.is_empty() {
        present.devices.clone_from(devices);
    }
    if let Some(change) = memory {
        merge_memory(present.memory.get_or_insert_default(), change);
    }
    if let Some(change) = cpu {
        merge_cpu(present.cpu.get_or_insert_default(), change);
    }
    if let Some(Pids { limit }) = pids {
        number(&mut present.pids.get_or_insert_default().limit, *limit);
    }
    if let Some(change) = block_io {
        merge_block_io(present.block_io.get_or_insert_default(), change);
    }
    by_key(
        &mut present.hugepage_limits,
        hugepage_limits,
        |HugepageLimit {
             page_size,
             limit: _,
         }| page_size.clone(),
    );
    if let Some(Network {
        class_id,
        priorities,
    }) = network
    {
        let present = present.network.get_or_insert_default();
        number(&mut present.class_id, *class_id);
        by_key(
            &mut present.priorities,
            priorities,
            |InterfacePriority { name, priority: _ }| name.clone(),
        );
    }
    merge_rdma(&mut present.rdma, rdma);
    present.unified.extend(unified.clone());
    present
}

fn merge_memory(present: &mut Memory, change: &Memory) {
    let Memory {
        limit,
        reservation,
        swap,
        kernel,
        kernel_tcp,
        swappiness,
        disable_oom_killer,
        use_hierarchy,
        check_before_update,
    } = change;
    number(&mut present.limit, *limit);
    number(&mut present.reservation, *reservation);
    number(&mut present.swap, *swap);
    if *limit == Some(-1) && swap.is_none_or(|swap| swap == 0) && present.swap.is_some() {
        // Unlimited memory is unlimited swap too, as runc has it.
        present.swap = Some(-1);
    }
    number(&mut present.kernel, *kernel);
    number(&mut present.kernel_tcp, *kernel_tcp);
    value(&mut present.swappiness, *swappiness);
    value(&mut present.disable_oom_killer, *disable_oom_killer);
    value(&mut present.use_hierarchy, *use_hierarchy);
    value(&mut present.check_before_update, *check_before_update);
}

fn merge_cpu(present: &mut Cpu, change: &Cpu) {
    let Cpu {
        shares,
        quota,
        burst,
        period,
        realtime_runtime,
        realtime_period,
        cpus,
        mems,
        idle,
    } = change;
    number(&mut present.shares, *shares);
    number(&mut present.quota, *quota);
    value(&mut present.burst, *burst);
    number(&mut present.period, *period);
    number(&mut present.realtime_runtime, *realtime_runtime);
    number(&mut present.realtime_period, *realtime_period);
    value(
        &mut present.cpus,
        cpus.clone().filter(|list| !list.is_empty()),
    );
    value(
        &mut present.mems,
        mems.clone().filter(|list| !list.is_empty()),
    );
    value(&mut present.idle, *idle);
}

fn merge_block_io(present: &mut BlockIo, change: &BlockIo) {
    let BlockIo {
        weight,
        leaf_weight,
        weight_device,
        throttle_read_bps_device,
        throttle_write_bps_device,
        throttle_read_iops_device,
        throttle_write_iops_device,
    } = change;
    number(&mut present.weight, *weight);
    number(&mut present.leaf_weight, *leaf_weight);
    for WeightDevice {
        major,
        minor,
        weight,
        leaf_weight,
    } in weight_device
    {
        let same = |device: &WeightDevice| (device.major, device.minor) == (*major, *minor);
        match present.weight_device.iter_mut().find(|device| same(device)) {
            Some(device) => {
                number(&mut device.weight, *weight);
                number(&mut device.leaf_weight, *leaf_weight);
            }
            None => present.weight_device.push(WeightDevice {
                major: *major,
                minor: *minor,
                weight: *weight,
                leaf_weight: *leaf_weight,
            }),
        }
    }
    let device = |ThrottleDevice {
                      major,
                      minor,
                      rate: _,
                  }: &ThrottleDevice| (*major, *minor);
    by_key(
        &mut present.throttle_read_bps_device,
        throttle_read_bps_device,
        device,
    );
    by_key(
        &mut present.throttle_write_bps_device,
        throttle_write_bps_device,
        device,
    );
    by_key(
        &mut present.throttle_read_iops_device,
        throttle_read_iops_device,
        device,
    );
    by_key(
        &mut present.throttle_write_iops_device,
        throttle_write_iops_device,
        device,
    );
}

fn merge_rdma(present: &mut BTreeMap<String, Rdma>, change: &BTreeMap<String, Rdma>) {
    for (
        device,
        Rdma {
            hca_handles,
            hca_objects,
        },
    ) in change
    {
        let present = present.entry(device.clone()).or_default();
        value(&mut present.hca_handles, *hca_handles);
        value(&mut present.hca_objects, *hca_objects);
    }
}

/// A number that is "not given" when zero.
fn number<T: Copy + Default + PartialEq>(present: &mut Option<T>, change: Option<T>) {
    value(present, change.filter(|number| *number != T::default()));
}

fn value<T>(present: &mut Option<T>, change: Option<T>) {
    if change.is_some() {
        *present = change;
    }
}

/// Replaces the entries of a list that speak of the same thing, and adds the others.
fn by_key<T: Clone, K: PartialEq>(present: &mut Vec<T>, change: &[T], key: impl Fn(&T) -> K) {
    for new in change {
        match present.iter_mut().find(|old| key(old) == key(new)) {
            Some(old) => *old = new.clone(),
            None => present.push(new.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(json: &str) -> Resources {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn what_is_given_replaces_and_the_rest_stays() {
        let present = resources(
            r#"{"memory":{"limit":100,"swap":200,"swappiness":5},"cpu":{"shares":512,
                "quota":5000,"cpus":"0"},"pids":{"limit":7},
                "blockIO":{"weight":300,"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1},
                {"major":8,"minor":16,"rate":2}]},
                "hugepageLimits":[{"pageSize":"2MB","limit":9}],"unified":{"a.b":"1","a.c":"2"}}"#,
        );
        // Docker's way: zeros for all that is not asked.
        let change = resources(
            r#"{"memory":{"limit":150,"swap":0,"kernel":0,"reservation":0,"swappiness":0},
                "cpu":{"shares":0,"period":1000,"cpus":"","mems":"0"},
                "pids":{"limit":0},"blockIO":{"weight":0,"throttleReadBpsDevice":[{"major":8,
                "minor":16,"rate":5}]},
                "hugepageLimits":[{"pageSize":"2MB","limit":0},{"pageSize":"1GB","limit":3}],
                "unified":{"a.c":"3"}}"#,
        );
        let expected = resources(
            r#"{"memory":{"limit":150,"swap":200,"swappiness":0},"cpu":{"shares":512,
                "quota":5000,"period":1000,"cpus":"0","mems":"0"},"pids":{"limit":7},
                "blockIO":{"weight":300,"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1},
                {"major":8,"minor":16,"rate":5}]},
                "hugepageLimits":[{"pageSize":"2MB","limit":0},{"pageSize":"1GB","limit":3}],
                "unified":{"a.b":"1","a.c":"3"}}"#,
        );
        let change = complete(&change, &present);
        assert_eq!(
            change.pids, None,
            "a limit of 0 would be written as no limit"
        );
        assert_eq!(merged(present, &change), expected);
    }

    #[test]
    fn unlimited_memory_lifts_the_limit_of_swap() {
        let present = resources(r#"{"memory":{"limit":100,"swap":200}}"#);
        let after = merged(present, &resources(r#"{"memory":{"limit":-1}}"#));
        assert_eq!(after, resources(r#"{"memory":{"limit":-1,"swap":-1}}"#));
    }

    #[test]
    fn repeated_device_rules_are_no_change() {
        let present = resources(r#"{"devices":[{"allow":false,"access":"rwm"}]}"#);
        assert!(complete(&present, &present).devices.is_empty());
        let other = resources(r#"{"devices":[{"allow":true,"access":"rwm"}]}"#);
        assert_eq!(complete(&other, &present).devices, other.devices);
    }

    #[test]
    fn new_shares_of_an_idle_container_know_that_it_is_idle() {
        let present = resources(r#"{"cpu":{"idle":1}}"#);
        assert_eq!(
            complete(&resources(r#"{"cpu":{"shares":100}}"#), &present)
                .cpu
                .unwrap()
                .idle,
            Some(1)
        );
        assert_eq!(
            complete(&resources(r#"{"cpu":{"shares":100,"idle":0}}"#), &present)
                .cpu
                .unwrap()
                .idle,
            Some(0)
        );
    }
}
