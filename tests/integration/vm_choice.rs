//! The choice of the VM backend and of its engine: by the program's name, the file of defaults, an
//! annotation, and KVM where it works.

use crate::support::backend::{ANNOTATION, NAMESPACES};
use crate::support::runtime::{Container, Output, finish, path, text};
use crate::support::vm::{BOOT_ID, LIMIT, Vm};
use crate::support::{Bundle, fixture};
use serde_json::json;
use std::os::unix::fs::symlink;

tests![
    the_name_hull_vm_chooses_the_backend,
    a_wrong_file_of_defaults_is_an_error,
    kvm_is_used_where_it_can_run_a_kernel,
];

/// Runs a command on the VM's bundle that has no flag of the VM backend.
fn plain(vm: &Vm, verb: &str) -> Output {
    vm.bundle.write();
    let dir = vm.bundle.dir.display().to_string();
    let args = [verb, "--bundle", &dir, &vm.bundle.id];
    finish(vm.bundle.runtime.command(&args), LIMIT)
}

/// As an engine calls it: no option chooses the backend. The file of defaults has the kernel and
/// the size of the memory.
fn the_name_hull_vm_chooses_the_backend() {
    only_hull!("the VM backend");
    let mut vm = Vm::sh("exec sleep 1000");
    let link = fixture::new_dir("bin").join("hull-vm");
    symlink(path(), &link).unwrap();
    vm.bundle.runtime.program = link;
    vm.bundle.runtime.set_defaults(&format!(
        "[vm]\nkernel = {:?}\nmemory = \"300m\"\nengine = \"qemu\"\n",
        vm.kernel
    ));
    let container = Container::new(&vm.bundle);
    plain(&vm, "create").success();
    assert_eq!(container.proc_file("comm").trim(), "hull-vm");
    container.start();
    let hosts = text(BOOT_ID);
    let script = "cat /proc/sys/kernel/random/boot_id; sed -n 's/MemTotal: *\\([0-9]*\\).*/\\1/p' \
        /proc/meminfo";
    let seen = container.exec(&["sh", "-c", script]).success().stdout;
    let (boot, memory) = seen.trim().split_once('\n').unwrap();
    assert_ne!(
        boot,
        hosts.trim(),
        "the container runs on the host's kernel"
    );
    assert!(
        (150 << 10..300 << 10).contains(&memory.parse::<u64>().unwrap()),
        "{memory} KiB"
    );
    container.kill("KILL").success();
    container.wait_for("stopped");
    drop(container);

    vm.bundle
        .set("/annotations", json!({ ANNOTATION: NAMESPACES }));
    vm.bundle.args(&["/bin/cat", BOOT_ID]);
    assert_ne!(
        plain(&vm, "run").success().stdout,
        hosts,
        "the annotation of the container takes its VM away"
    );
    vm.bundle.runtime.set_defaults(&format!(
        "annotations = [{ANNOTATION:?}]\n[vm]\nkernel = {:?}\n",
        vm.kernel
    ));
    assert_eq!(
        plain(&vm, "run").success().stdout,
        hosts,
        "the annotation that the administrator allows overrides the name"
    );
}

fn a_wrong_file_of_defaults_is_an_error() {
    only_hull!("the file of defaults");
    let mut bundle = Bundle::sh("echo here");
    bundle.write();
    let dir = bundle.dir.display().to_string();
    bundle
        .runtime
        .set_defaults("[vm]\nmemory = \"1g\"\nmemroy = \"1g\"\n");
    let args = ["run", "--vm", "--bundle", &dir, &bundle.id];
    assert_has!(
        bundle.call(&args).failure(),
        "config.toml: line 3: unknown field `memroy`"
    );
    // hull reads the file for a VM only.
    let without = ["run", "--bundle", &dir, &bundle.id];
    assert_eq!(bundle.call(&without).success().stdout, "here\n");
    let missing = [&["--config", "/nonexistent/file"], &args[..]].concat();
    assert_has!(bundle.call(&missing).failure(), "/nonexistent/file");
}

/// `kvm` runs the guest, or its error says why the host's device cannot; `auto` runs it too, or
/// emulates it and has the same reason in the log. `HULL_TEST_KVM` is set where KVM must work.
fn kvm_is_used_where_it_can_run_a_kernel() {
    only_hull!("the VM backend");
    let mut vm = Vm::sh("echo here");
    let logs = fixture::new_dir("logs");
    let mut run = |engine: &str| {
        let log = logs.join(engine).display().to_string();
        vm.bundle.runtime.global = vec!["--log".into(), log];
        vm.run_with(&["--vm-engine", engine])
    };
    let by_kvm = run("kvm");
    if std::env::var_os("HULL_TEST_KVM").is_some() || by_kvm.status == 0 {
        assert_eq!(by_kvm.status, 0, "{}", by_kvm.stderr);
        assert_eq!(by_kvm.stdout, "here\n");
    } else {
        assert_has!(by_kvm.stderr, "/dev/kvm");
    }
    assert_eq!(run("auto").success().stdout, "here\n");
    let log = text(logs.join("auto"));
    let emulated = log.matches("the VM is emulated, which is slow");
    assert_eq!(emulated.count(), usize::from(by_kvm.status != 0), "{log}");
    assert_eq!(log.contains("/dev/kvm"), by_kvm.status != 0, "{log}");
}
