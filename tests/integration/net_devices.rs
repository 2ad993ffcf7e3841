//! `linux.netDevices`: network devices of the host move into the container with their addresses,
//! and back to the host at its end.

use crate::support::network::{ip, own_network};
use crate::support::{Bundle, leaks};
use serde_json::json;

tests![
    a_device_moves_in_renamed_with_its_addresses_and_comes_back,
    a_device_moves_into_a_joined_namespace,
    a_missing_device_is_refused_and_nothing_is_left,
    a_taken_name_is_refused_and_the_device_is_restored,
    a_device_comes_back_after_the_container_died_by_itself,
    devices_need_a_network_namespace,
];

fn host_device() {
    own_network();
    ip("link add hostdev0 type veth peer name other0");
    ip("addr add 192.0.2.7/24 dev hostdev0");
    ip("addr add 2001:db8::7/64 dev hostdev0 nodad");
    ip("link set hostdev0 up");
    ip("link set other0 up");
}

fn assert_back() {
    let shown = ip("addr show dev hostdev0");
    assert_has!(shown, "192.0.2.7/24");
    assert_has!(shown, "2001:db8::7/64");
    assert_has!(shown, ",UP");
}

fn moves(bundle: &mut Bundle, name: &str) {
    bundle.set("/linux/netDevices", json!({ "hostdev0": { "name": name } }));
}

fn a_device_moves_in_renamed_with_its_addresses_and_comes_back() {
    only_hull!("runc 1.1 of Debian has no netDevices");
    host_device();
    let mut b = Bundle::sleeper();
    moves(&mut b, "eth7");
    let c = b.started();
    let shown = c
        .exec(&["ip", "addr", "show", "dev", "eth7"])
        .success()
        .stdout;
    assert_has!(shown, "192.0.2.7/24");
    assert_has!(shown, "2001:db8::7/64");
    assert_has!(shown, ",UP");
    assert!(
        !ip("-br link").contains("hostdev0"),
        "the device is still on the host"
    );
    drop(c);
    assert_back();
}

fn a_device_moves_into_a_joined_namespace() {
    only_hull!("runc 1.1 of Debian has no netDevices");
    host_device();
    let holder = crate::support::users::Holder::new(&["--net"]);
    let mut b = Bundle::sleeper();
    b.join("network", holder.path("net"));
    moves(&mut b, "eth7");
    let c = b.started();
    assert_has!(
        c.exec(&["ip", "addr", "show", "dev", "eth7"])
            .success()
            .stdout,
        "192.0.2.7/24"
    );
    assert!(
        !ip("-br link").contains("hostdev0"),
        "the device is still on the host"
    );
    drop(c);
    assert_back();
}

fn a_missing_device_is_refused_and_nothing_is_left() {
    only_hull!("runc 1.1 of Debian has no netDevices");
    own_network();
    let mut b = Bundle::sleeper();
    moves(&mut b, "eth7");
    let (container, out) = b.try_create(&[]);
    assert!(container.is_none());
    assert_has!(
        out.failure(),
        "move network device hostdev0: no such network device"
    );
    assert_eq!(b.call(&["list", "-q"]).success().stdout, "");
}

fn a_taken_name_is_refused_and_the_device_is_restored() {
    only_hull!("runc 1.1 of Debian has no netDevices");
    host_device();
    let mut b = Bundle::sleeper();
    moves(&mut b, "lo");
    let (_container, out) = b.try_create(&[]);
    assert_has!(
        out.failure(),
        "move network device hostdev0 into the container as lo: file exists"
    );
    assert_back();
}

fn a_device_comes_back_after_the_container_died_by_itself() {
    only_hull!("runc 1.1 of Debian has no netDevices");
    host_device();
    let mut b = Bundle::sh("exit 0");
    moves(&mut b, "eth7");
    let c = b.create();
    c.start();
    c.wait_for("stopped");
    drop(c);
    assert_back();
    // `run` deletes the container itself.
    b.run().success();
    assert_back();
    leaks::reap_orphans();
}

fn devices_need_a_network_namespace() {
    only_hull!("runc 1.1 of Debian has no netDevices");
    host_device();
    let mut b = Bundle::sleeper();
    b.without_namespace("network");
    moves(&mut b, "eth7");
    let (_container, out) = b.try_create(&[]);
    assert_has!(out.failure(), "netdevices");
    assert_back();
}
