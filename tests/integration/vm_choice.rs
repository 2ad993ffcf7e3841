//! What chooses the second wall, and what it is made of.

use crate::support::fixture;
use crate::support::machine::{LIMIT, Machine};
use crate::support::runtime::{Container, finish, path, text};
use serde_json::json;
use std::os::unix::fs::symlink;

tests![the_name_hull_vm_chooses_the_wall];

fn the_name_hull_vm_chooses_the_wall() {
    only_hull!("the second wall");
    let mut machine = Machine::sh("uname -r; exec sleep 1000");
    let link = fixture::new_dir("bin").join("hull-vm");
    symlink(path(), &link).unwrap();
    machine.bundle.runtime.program = link;
    machine.bundle.write();
    let dir = machine.bundle.dir.display().to_string();
    let kernel = machine.kernel.display().to_string();
    // As an engine calls it: no option says anything of a machine but the kernel, which this machine has not.
    let make = |machine: &Machine, verb: &str| {
        finish(machine.bundle.runtime.command(&[verb, "--vm-kernel", &kernel, "--bundle", &dir, &machine.bundle.id]), LIMIT)
    };
    let container = Container::new(&machine.bundle);
    make(&machine, "create").success();
    assert_eq!(container.proc_file("comm").trim(), "hull-vm");
    container.start();
    let own = text("/proc/sys/kernel/osrelease");
    assert_ne!(container.exec(&["uname", "-r"]).success().stdout.trim(), own.trim(), "a kernel of its own");
    container.kill("KILL").success();
    container.wait_for("stopped");
    drop(container);

    machine.bundle.set("/annotations", json!({ "org.hull.wall": "kernel" }));
    machine.bundle.args(&["/bin/sh", "-c", "uname -r"]);
    machine.bundle.write();
    assert_eq!(make(&machine, "run").success().stdout, own, "the container's own word goes before the name");
}
