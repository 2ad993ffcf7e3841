use super::fake::{request, resources, v1, v2};
use super::kernel::may_write;
use crate::cgroups::group::Group;
use crate::cgroups::plan::{Plan, plan};
use crate::cgroups::request::Driver;
use crate::cgroups::systemd::bus::Bus;
use crate::cgroups::systemd::client::socket;
use crate::cgroups::systemd::text::parse_value;
use crate::cgroups::systemd::value::{Property, Value};
use crate::cgroups::tree::Tree;
use crate::spec::config::Resources;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn planned(
    path: Option<&str>,
    user: bool,
    resources: Option<&Resources>,
    tree: &Tree,
) -> crate::Result<Plan> {
    let mut r = request(path, resources);
    r.driver = Driver::Systemd { user };
    plan(&r, tree)
}

fn property(plan: &Plan, name: &str) -> Option<Value> {
    plan.unit
        .as_ref()?
        .properties
        .iter()
        .find(|p| p.name == name)
        .map(|p| p.value.clone())
}

#[test]
fn names_and_paths() {
    let of = |path, user, tree: &Tree| {
        let p = planned(path, user, None, tree).unwrap();
        let unit = p.unit.clone().unwrap();
        (unit.slice, unit.name, p.places.last().unwrap().dir.clone())
    };
    let expect =
        |slice: &str, name: &str, dir: &str| (slice.to_owned(), name.to_owned(), dir.to_owned());
    assert_eq!(
        of(None, false, &v2()),
        expect(
            "system.slice",
            "hull-ctr.scope",
            "/sys/fs/cgroup/system.slice/hull-ctr.scope"
        )
    );
    assert_eq!(
        of(Some("a-b.slice:docker:x1"), false, &v2()),
        expect(
            "a-b.slice",
            "docker-x1.scope",
            "/sys/fs/cgroup/a.slice/a-b.slice/docker-x1.scope"
        )
    );
    assert_eq!(
        of(Some("::x"), false, &v1()),
        expect(
            "system.slice",
            "x.scope",
            "/sys/fs/cgroup/systemd/system.slice/x.scope"
        )
    );
    assert_eq!(
        of(Some("-.slice:p:x"), false, &v2()).2,
        "/sys/fs/cgroup/p-x.scope"
    );
    assert_eq!(
        of(Some("s.slice:p:t-u.slice"), false, &v2()),
        expect("s.slice", "t-u.slice", "/sys/fs/cgroup/t.slice/t-u.slice")
    );
    let mut tree = v2();
    tree.uid = 1000;
    assert_eq!(
        of(None, true, &tree).2,
        "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/user.slice/hull-ctr.scope"
    );
    for (path, words) in [
        ("/x", "slice:prefix:name"),
        ("a:b", "slice:prefix:name"),
        ("a:b:c", "invalid slice name: a"),
        ("a--b.slice:b:c", "invalid slice name"),
        (":p:a/b", "not a unit's name"),
    ] {
        let error = planned(Some(path), false, None, &v2())
            .unwrap_err()
            .to_string();
        assert!(error.contains(words), "{path}: {error}");
    }
    assert!(
        planned(None, true, None, &v1())
            .unwrap_err()
            .to_string()
            .contains("cannot use rootless systemd cgroups manager on cgroup v1")
    );
}

#[test]
fn limits_become_properties_on_v2() {
    let r = resources(
        r#"{"memory":{"limit":1000,"swap":3000,"reservation":-1},
            "cpu":{"shares":1024,"quota":15000,"period":40000,"cpus":"0-2,9"},
        "pids":{"limit":-1},"unified":{"memory.high":"77","memory.oom.group":"1","pids.max":"5"}}"#,
    );
    let p = planned(None, false, Some(&r), &v2()).unwrap();
    for (name, value) in [
        ("MemoryMax", 1000),
        ("MemorySwapMax", 2000),
        ("MemoryLow", u64::MAX),
        ("MemoryHigh", 77),
        ("CPUWeight", 100),
        ("TasksMax", 5),
        ("CPUQuotaPeriodUSec", 40_000),
        ("CPUQuotaPerSecUSec", 380_000),
    ] {
        assert_eq!(property(&p, name), Some(Value::U64(value)), "{name}");
    }
    assert_eq!(
        property(&p, "AllowedCPUs"),
        Some(Value::Array(
            "y".into(),
            vec![Value::Byte(0b111), Value::Byte(0b10)]
        ))
    );
    assert_eq!(property(&p, "OOMPolicy"), Some(Value::Str("kill".into())));
    assert_eq!(property(&p, "IOAccounting"), Some(Value::Bool(true)));
    assert_eq!(property(&p, "Delegate"), Some(Value::Bool(true)));
    // The files are written in any case.
    assert!(
        p.writes
            .iter()
            .any(|w| w.file == "cpu.max" && w.value == "15000 40000")
    );
    let idle = planned(
        None,
        false,
        Some(&resources(r#"{"cpu":{"idle":1,"shares":5}}"#)),
        &v2(),
    )
    .unwrap();
    assert_eq!(property(&idle, "CPUWeight"), Some(Value::U64(0)));
}

#[test]
fn limits_become_properties_on_v1() {
    let r = resources(
        r#"{"memory":{"limit":1000},"cpu":{"shares":512,"quota":-1,"period":50000},
            "blockIO":{"weight":100}}"#,
    );
    let p = planned(None, false, Some(&r), &v1()).unwrap();
    for (name, value) in [
        ("MemoryLimit", 1000),
        ("CPUShares", 512),
        ("BlockIOWeight", 100),
        ("CPUQuotaPerSecUSec", u64::MAX),
    ] {
        assert_eq!(property(&p, name), Some(Value::U64(value)), "{name}");
    }
    assert_eq!(property(&p, "BlockIOAccounting"), Some(Value::Bool(true)));
}

#[test]
fn device_rules_become_a_strict_list_or_none() {
    let of = |json: &str| {
        let r = resources(json);
        let mut wish = request(None, Some(&r));
        (wish.driver, wish.device_rules) = (Driver::Systemd { user: false }, true);
        let p = plan(&wish, &v2()).unwrap();
        (
            property(&p, "DevicePolicy").unwrap(),
            property(&p, "DeviceAllow").unwrap(),
        )
    };
    let (policy, Value::Pairs(list)) = of(r#"{"devices":[{"allow":false}]}"#) else {
        panic!("no list")
    };
    assert_eq!(policy, Value::Str("strict".into()));
    for (path, access) in [
        ("/dev/char/1:3", "rwm"),
        ("char-136", "rwm"),
        ("char-*", "m"),
        ("block-*", "m"),
    ] {
        assert!(
            list.contains(&(path.to_owned(), access.to_owned())),
            "{list:?}"
        );
    }
    let auto = (Value::Str("auto".into()), Value::Pairs(Vec::new()));
    assert_eq!(of(r#"{"devices":[{"allow":true}]}"#), auto);
    // A minor number of every major cannot be expressed.
    assert_eq!(
        of(r#"{"devices":[{"allow":true,"type":"c","minor":5,"access":"r"}]}"#),
        auto
    );
}

#[test]
fn annotations_are_properties() {
    let of = |key: &str, value: &str| {
        let annotations = BTreeMap::from([
            (format!("org.systemd.property.{key}"), value.to_owned()),
            ("other".to_owned(), "x".to_owned()),
        ]);
        let mut r = request(None, None);
        (r.driver, r.annotations) = (Driver::Systemd { user: false }, &annotations);
        let p = plan(&r, &v2());
        p.map(|p| p.unit.unwrap().properties.pop().unwrap())
    };
    assert_eq!(
        of("TimeoutStopSec", "uint64 5").unwrap(),
        Property::new("TimeoutStopUSec", Value::U64(5_000_000))
    );
    assert_eq!(
        of("CollectMode", "'inactive-or-failed'").unwrap(),
        Property::new("CollectMode", Value::Str("inactive-or-failed".into()))
    );
    for (key, value, words) in [
        ("Ab", "1", "too short"),
        ("A1b", "1", "non-alphabetic"),
        ("Abc", "x", "value parse error"),
        ("StopSec", "'a'", "not a number of seconds"),
    ] {
        let error = of(key, value).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn gvariants_text_form() {
    for (text, value) in [
        ("true", Value::Bool(true)),
        ("5", Value::I32(5)),
        ("-5", Value::I32(-5)),
        ("uint64 5", Value::U64(5)),
        ("@t 5", Value::U64(5)),
        ("byte 0x1f", Value::Byte(31)),
        ("1.5", Value::F64(1.5)),
        (r"'it\'s'", Value::Str("it's".into())),
        ("\"a b\"", Value::Str("a b".into())),
        (
            "['a', 'b']",
            Value::Array(
                "s".into(),
                vec![Value::Str("a".into()), Value::Str("b".into())],
            ),
        ),
        ("@as []", Value::Array("s".into(), vec![])),
        (
            "@at [1,2]",
            Value::Array("t".into(), vec![Value::U64(1), Value::U64(2)]),
        ),
        ("objectpath '/a'", Value::Path("/a".into())),
    ] {
        assert_eq!(parse_value(text).unwrap(), value, "{text}");
    }
    for text in [
        "", "[", "[]", "'a", "1 2", "byte 256", "['a', 1]", "uint64", "nonsense", "@", "[1 2]",
    ] {
        assert!(parse_value(text).is_err(), "{text}");
    }
}

#[test]
fn addresses() {
    assert_eq!(
        socket("unix:path=/run/bus,guid=ab").as_deref(),
        Some("/run/bus")
    );
    assert_eq!(
        socket("tcp:host=x;unix:abstract=/tmp/y").as_deref(),
        Some("@/tmp/y")
    );
    assert_eq!(socket("unixexec:path=x"), None);
}

/// A program that is killed at the end of the test.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < end, "{what}: not within 60 s");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_real_bus_takes_what_is_sent() {
    if !Path::new("/usr/bin/dbus-daemon").exists() {
        eprintln!("skipped: dbus-daemon is not installed");
        return;
    }
    let path = std::env::temp_dir().join(format!("hull-test-bus-{}", std::process::id()));
    let address = format!("--address=unix:path={}", path.display());
    let _daemon = Running(
        Command::new("dbus-daemon")
            .args(["--session", "--nofork", &address])
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    until("the bus", || path.exists());
    let mut bus = Bus::connect(path.to_str().unwrap(), false).unwrap();
    let dbus = "org.freedesktop.DBus";
    let answer = bus
        .call(
            dbus,
            "/org/freedesktop/DBus",
            dbus,
            "GetNameOwner",
            Some(&dbus),
        )
        .ok()
        .unwrap();
    assert_eq!(answer.body::<String>().unwrap(), dbus);
    let refused = bus.call(
        dbus,
        "/org/freedesktop/DBus",
        dbus,
        "GetNameOwner",
        Some(&"no.such.name"),
    );
    assert!(
        crate::Error::from(refused.err().unwrap())
            .to_string()
            .contains("no.such.name")
    );
    let names = bus
        .call(
            dbus,
            "/org/freedesktop/DBus",
            dbus,
            "ListNames",
            None::<&()>,
        )
        .ok()
        .unwrap();
    assert!(names.body::<Vec<String>>().unwrap().len() >= 2);
    let _ = std::fs::remove_file(path);
}

/// Starts a systemd for the test: PID 1 of a PID namespace, in cgroups of its own, with a unit that
/// does nothing.
const BOOT: &str = r#"
set -e
for dir in $DIRS; do
    mkdir "$dir"
    case $dir in */cpuset/*)
        cat /sys/fs/cgroup/cpuset/cpuset.cpus > "$dir/cpuset.cpus"
        cat /sys/fs/cgroup/cpuset/cpuset.mems > "$dir/cpuset.mems";;
    esac
    echo $$ > "$dir/cgroup.procs"
done
exec unshare --mount --pid --cgroup --fork --kill-child --mount-proc --propagation private sh -ec '
    mount -t tmpfs tmpfs /run
    mkdir -p /run/systemd/system
    mount -t tmpfs tmpfs /sys/fs/cgroup
    for dir in $DIRS; do
        name=${dir#/sys/fs/cgroup/}; name=${name%%/*}; mkdir /sys/fs/cgroup/$name
        case $name in
            unified) mount -t cgroup2 cgroup2 /sys/fs/cgroup/$name;;
            systemd) mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/$name;;
            *) mount -t cgroup -o $name cgroup /sys/fs/cgroup/$name;;
        esac
    done
    printf "[Unit]\nDefaultDependencies=no\n" > /run/systemd/system/nothing.target
    exec env -i container=other PATH="$PATH" /lib/systemd/systemd --system \
        --unit=nothing.target --log-target=null --show-status=no
'
"#;

#[test]
fn a_real_systemd_makes_limits_updates_and_removes() {
    let tree = super::here();
    let as_here = tree
        .hierarchies
        .iter()
        .all(|h| h.root == "/" && h.mount_point.starts_with("/sys/fs/cgroup/"));
    if !Path::new("/lib/systemd/systemd").exists()
        || Path::new("/run/systemd/private").exists()
        || !as_here
        || !may_write()
    {
        eprintln!(
            "skipped: needs the program systemd, not running, root, and v1 hierarchies below \
                /sys/fs/cgroup"
        );
        return;
    }
    let _root = super::kernel::RootControl::keep();
    let name = super::kernel::Name::new();
    let dirs: Vec<String> = tree
        .hierarchies
        .iter()
        .map(|h| format!("{}{}", h.mount_point, name.0))
        .collect();
    let boot = Command::new("sh")
        .args(["-c", BOOT])
        .env("DIRS", dirs.join(" "))
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let boot = Running(boot);
    let children = format!("/proc/{0}/task/{0}/children", boot.0.id());
    let first = || {
        std::fs::read_to_string(&children)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    until("systemd", || {
        Path::new(&format!("/proc/{}/root/run/systemd/private", first())).exists()
    });
    let test = std::env::current_exe().unwrap();
    let inside = Command::new("nsenter")
        .args(["--target", &first(), "--mount", "--pid", "--cgroup", "--"])
        .arg(test)
        .args(["--exact", "cgroups::tests::systemd::inside", "--nocapture"])
        .env("HULL_TEST_SYSTEMD", "1")
        .output()
        .unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&inside.stdout),
        String::from_utf8_lossy(&inside.stderr)
    );
    assert!(
        inside.status.success() && said.contains("all seen"),
        "{said}"
    );
}

fn show(unit: &str, name: &str) -> String {
    let output = Command::new("systemctl")
        .args(["show", "--value", "--property", name, unit])
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The second half of the test above, which runs it in that systemd's namespaces.
#[test]
fn inside() {
    if std::env::var_os("HULL_TEST_SYSTEMD").is_none() {
        eprintln!("skipped: is a part of a_real_systemd_makes_limits_updates_and_removes");
        return;
    }
    let tree = super::here();
    let r = resources(
        r#"{"memory":{"limit":67108864},"pids":{"limit":33},
            "cpu":{"shares":512,"quota":20000,"period":50000,"cpus":"0"}}"#,
    );
    let mut wish = request(Some("machine-x.slice:hull:t"), Some(&r));
    (wish.driver, wish.device_rules) = (Driver::Systemd { user: false }, true);
    let plan = plan(&wish, &tree).unwrap();
    let mut program = Running(Command::new("sleep").arg("100").spawn().unwrap());
    let pid = Pid::from_raw(program.0.id() as i32);
    let mut group = Group::start(&plan, pid).unwrap();
    group.apply(&plan).unwrap();
    group.commit();
    // The connection has started no thread.
    assert_eq!(
        std::fs::read_dir("/proc/self/task").unwrap().count(),
        2,
        "the harness' own two threads"
    );
    let unit = "hull-t.scope";
    let properties = [
        "Slice",
        "MemoryLimit",
        "TasksMax",
        "CPUShares",
        "CPUQuotaPerSecUSec",
        "AllowedCPUs",
        "DevicePolicy",
        "Delegate",
    ]
    .map(|p| show(unit, p));
    assert_eq!(
        properties,
        [
            "machine-x.slice",
            "67108864",
            "33",
            "512",
            "400ms",
            "0",
            "strict",
            "yes"
        ]
    );
    let own = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(
        own.lines()
            .all(|line| line.ends_with("/machine.slice/machine-x.slice/hull-t.scope")),
        "{own}"
    );
    assert!(
        group
            .dirs()
            .all(|dir| dir.ends_with("/machine.slice/machine-x.slice/hull-t.scope"))
    );
    let mut group = Group::open(&group.record());
    group
        .update(&resources(
            r#"{"memory":{"limit":33554432},"pids":{"limit":44}}"#,
        ))
        .unwrap();
    assert_eq!(
        ["MemoryLimit", "TasksMax"].map(|p| show(unit, p)),
        ["33554432", "44"]
    );
    // systemd writes the values again when it is reloaded: they are hull's.
    assert!(
        Command::new("systemctl")
            .arg("daemon-reload")
            .status()
            .unwrap()
            .success()
    );
    for (controller, file, value) in [
        ("memory", "memory.limit_in_bytes", "33554432"),
        ("pids", "pids.max", "44"),
        ("cpu", "cpu.cfs_quota_us", "20000"),
    ] {
        assert_eq!(
            super::kernel::value(&group, controller, file),
            value,
            "{file}"
        );
    }
    assert!(!super::kernel::value(&group, "devices", "devices.list").contains("a *:*"));
    group.freeze().unwrap();
    group.kill(Signal::SIGKILL).unwrap();
    program.0.wait().unwrap();
    group.remove().unwrap();
    assert_eq!(show(unit, "LoadState"), "not-found");
    assert!(group.dirs().all(|dir| !Path::new(dir).exists()));
    // A start without commit leaves nothing, and the name can be used again.
    let program = Running(Command::new("sleep").arg("100").spawn().unwrap());
    let pid = Pid::from_raw(program.0.id() as i32);
    drop(Group::start(&plan, pid).unwrap());
    until("the unit's end", || show(unit, "LoadState") == "not-found");
    eprintln!("all seen");
}
