//! The four cases of user namespaces: none, a new one, one that is joined, and that of an ordinary
//! user. A program must see the same as under runc in each.

use crate::support::backend::is_vm;
use crate::support::users::{self, Holder};
use crate::support::{Bundle, compare, leaks};
use serde_json::json;

tests![
    root_without_user_namespace_sees_what_runc_shows,
    new_user_namespace_shows_what_runc_shows,
    joined_user_namespace_shows_what_runc_shows,
    ordinary_user_sees_what_runc_shows,
    new_user_namespace_maps_ids,
    joined_user_namespace_is_the_one_named,
    ordinary_user_is_root_in_the_container,
    ordinary_user_execs_into_the_container,
    ordinary_user_without_mappings_is_root_in_the_container,
    crun_config_for_ordinary_users_runs,
    root_without_mappings_is_an_error,
    namespaces_are_owned_by_the_new_user_namespace,
];

fn root_without_user_namespace_sees_what_runc_shows() {
    compare::with_runc(&mut Bundle::new());
}

fn new_user_namespace_shows_what_runc_shows() {
    compare::with_runc(&mut Bundle::with_user_namespace());
}

fn joined_user_namespace_shows_what_runc_shows() {
    let holder = Holder::with_user_namespace(&[]);
    let mut b = Bundle::new();
    b.join("user", holder.path("user")).map_ids();
    compare::with_runc(&mut b);
}

fn ordinary_user_sees_what_runc_shows() {
    compare::with_runc(&mut Bundle::of_ordinary_user());
}

fn new_user_namespace_maps_ids() {
    let mut b = Bundle::with_user_namespace();
    b.args(&["sleep", "1000"])
        .set("/process/user", json!({ "uid": 7, "gid": 8 }));
    let c = b.started();
    // In VM mode the status file is that of the container.
    let (uid, gid) = if is_vm() {
        ("7", "8")
    } else {
        ("200007", "200008")
    };
    assert_eq!(c.status_line("Uid").split_whitespace().next(), Some(uid));
    assert_eq!(c.status_line("Gid").split_whitespace().next(), Some(gid));
    assert_eq!(c.exec(&["id", "-u"]).success().stdout.trim(), "7");
    let map = c.exec(&["cat", "/proc/self/uid_map"]).success().stdout;
    assert_eq!(
        map.split_whitespace().collect::<Vec<_>>(),
        ["0", "200000", "65536"]
    );
}

fn joined_user_namespace_is_the_one_named() {
    let holder = Holder::with_user_namespace(&[]);
    let mut b = Bundle::sleeper();
    b.join("user", holder.path("user")).map_ids();
    let c = b.started();
    let joined = std::fs::read_link(format!("/proc/{}/ns/user", c.pid())).unwrap();
    assert_eq!(joined.display().to_string(), holder.identity("user"));
    let exec = c.exec(&["readlink", "/proc/self/ns/user"]).success().stdout;
    assert_eq!(exec.trim(), holder.identity("user"));
}

fn ordinary_user_is_root_in_the_container() {
    let mut b = Bundle::of_ordinary_user();
    assert_eq!(
        b.output_of("id -u; cat /proc/self/setgroups; echo $$"),
        "0\ndeny\n1"
    );
}

fn ordinary_user_execs_into_the_container() {
    let mut b = Bundle::of_ordinary_user();
    b.args(&["sleep", "1000"]);
    let c = b.started();
    assert_eq!(
        c.status_line("Uid").split_whitespace().next(),
        Some(users::ORDINARY.to_string().as_str())
    );
    assert_eq!(c.exec(&["id", "-u"]).success().stdout.trim(), "0");
    assert_eq!(c.exec(&["hostname"]).success().stdout.trim(), "box");
}

/// A namespace that was made before the user namespace would belong to the host: the container's
/// root could not set the host name in it.
fn namespaces_are_owned_by_the_new_user_namespace() {
    let mut b = Bundle::with_user_namespace();
    b.add_caps(&["CAP_SYS_ADMIN", "CAP_NET_ADMIN"]);
    assert_eq!(
        b.output_of(
            "hostname other && hostname && ip link set lo up && cat /sys/class/net/lo/carrier"
        ),
        "other\n1"
    );
}

/// As crun does it: the user's own id is root, and there are no others where the host grants none.
fn ordinary_user_without_mappings_is_root_in_the_container() {
    only_hull!("runc wants mappings");
    let mut b = Bundle::of_ordinary_user();
    b.remove("/linux/uidMappings").remove("/linux/gidMappings");
    let map = b.output_of("id -u; cat /proc/self/uid_map");
    assert_eq!(
        map.split_whitespace().collect::<Vec<_>>(),
        ["0", "0", &users::ORDINARY.to_string(), "1"]
    );
}

fn crun_config_for_ordinary_users_runs() {
    only_hull!("runc wants mappings");
    let dir = crate::support::fixture::new_dir("crun");
    if !leaks::succeeds(
        std::process::Command::new("crun")
            .args(["spec", "--rootless"])
            .current_dir(&dir),
    ) {
        skip!("crun is not installed, which writes the config");
    }
    let mut b = Bundle::of_ordinary_user();
    b.spec = serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
    assert!(
        b.spec["linux"]["uidMappings"].is_null(),
        "crun wrote mappings"
    );
    b.set("/process/terminal", json!(false));
    assert_eq!(b.output_of("id -u; hostname"), "0\ncrun");
}

fn root_without_mappings_is_an_error() {
    let mut b = Bundle::with_user_namespace();
    b.remove("/linux/uidMappings").remove("/linux/gidMappings");
    assert_has!(b.run().failure(), "user namespaces enabled, but no");
}
