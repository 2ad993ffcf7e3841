//! A bundle of a test's own: a folder with a root filesystem and a configuration, an id, a state
//! directory and a cgroup.

use super::runtime::{Container, Output, Runtime};
use super::{cgroups, fixture, spec, users, wall};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// A bundle, and who drives the runtime on it.
pub struct Bundle {
    /// The bundle's folder; `rootfs` is below it.
    pub dir: PathBuf,
    /// The configuration, written to `config.json` by each call that reads it.
    pub spec: Value,
    /// The container's id.
    pub id: String,
    /// The runtime, with its state directory and the user that it runs as.
    pub runtime: Runtime,
    /// The absolute path of the container's cgroup in each hierarchy.
    pub cgroup: String,
}

impl Bundle {
    /// The default bundle, driven by root, with no user namespace.
    pub fn new() -> Self {
        let number = fixture::unique();
        let dir = fixture::new_dir("bundle");
        fixture::fill_rootfs(&dir.join("rootfs"));
        let mut cgroup = format!("/hull-test-{}-{number}", std::process::id());
        let mut config = spec::default_spec();
        config["linux"]["cgroupsPath"] = json!(cgroup);
        let mut runtime = Runtime::new(dir.join("state"));
        if wall::is_vm() {
            wall::share_cache(&runtime.state, None);
        }
        if cgroups::by_systemd() {
            runtime.global.push("--systemd-cgroup".into());
            config["linux"]["cgroupsPath"] = json!(format!(
                "system.slice:hull-test-{}:{number}",
                std::process::id()
            ));
            cgroup = format!("/system.slice{cgroup}.scope");
        }
        Self {
            spec: config,
            id: format!("t{}-{number}", std::process::id()),
            runtime,
            cgroup,
            dir,
        }
    }

    /// The default bundle with a program for `sh -c`.
    pub fn sh(script: &str) -> Self {
        let mut b = Self::new();
        b.args(&["/bin/sh", "-c", script]);
        b
    }

    /// A bundle whose process does nothing until it is killed.
    pub fn sleeper() -> Self {
        let mut b = Self::new();
        b.args(&["sleep", "1000"]);
        b
    }

    /// The default bundle with a new user namespace that maps ids 0.. to 200000...
    pub fn with_user_namespace() -> Self {
        let mut b = Self::new();
        b.add_user_namespace();
        b
    }

    /// Adds a new user namespace, and gives it the root filesystem.
    pub fn add_user_namespace(&mut self) {
        self.push("/linux/namespaces", json!({ "type": "user" }));
        self.map_ids();
    }

    /// Maps ids 0.. to 200000.. and gives the root filesystem to them.
    pub fn map_ids(&mut self) {
        let map = json!([{ "containerID": 0, "hostID": users::MAPPED, "size": 65536 }]);
        self.set("/linux/uidMappings", map.clone());
        self.set("/linux/gidMappings", map);
        fixture::give_to(&self.rootfs(), users::MAPPED, users::MAPPED);
    }

    /// The bundle that `runc spec --rootless` describes, driven by an ordinary user.
    pub fn of_ordinary_user() -> Self {
        let mut b = Self::new();
        spec::make_rootless(&mut b.spec, users::ORDINARY, users::ORDINARY);
        b.runtime.user = Some(users::ORDINARY);
        fixture::give_to(&b.dir, users::ORDINARY, users::ORDINARY);
        if wall::is_vm() {
            // A machine has no network of the host's.
            b.push("/linux/namespaces", json!({ "type": "network" }));
            wall::share_cache(&b.runtime.state, b.runtime.user);
        }
        b
    }

    /// The root filesystem.
    pub fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    /// Sets a value of the configuration by its path.
    pub fn set(&mut self, path: &str, value: Value) -> &mut Self {
        spec::set(&mut self.spec, path, value);
        self
    }

    /// Appends to a list of the configuration by its path.
    pub fn push(&mut self, path: &str, value: Value) -> &mut Self {
        spec::push(&mut self.spec, path, value);
        self
    }

    /// Removes a member of the configuration by its path.
    pub fn remove(&mut self, path: &str) -> &mut Self {
        spec::remove(&mut self.spec, path);
        self
    }

    /// Sets `process.args`.
    pub fn args(&mut self, args: &[&str]) -> &mut Self {
        self.set("/process/args", json!(args))
    }

    /// Adds a mount.
    pub fn mount(
        &mut self,
        destination: &str,
        kind: &str,
        source: &str,
        options: &[&str],
    ) -> &mut Self {
        self.push("/mounts", json!({ "destination": destination, "type": kind, "source": source, "options": options }))
    }

    /// Adds capabilities to the bounding, effective and permitted sets.
    pub fn add_caps(&mut self, caps: &[&str]) -> &mut Self {
        for set in ["bounding", "effective", "permitted"] {
            for cap in caps {
                self.push(&format!("/process/capabilities/{set}"), json!(cap));
            }
        }
        self
    }

    /// Makes the root filesystem writable.
    pub fn writable(&mut self) -> &mut Self {
        self.set("/root/readonly", json!(false))
    }

    /// Leaves a namespace out, so that the runtime's own is kept.
    pub fn without_namespace(&mut self, kind: &str) -> &mut Self {
        self.spec["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .retain(|n| n["type"] != kind);
        self
    }

    /// Joins a namespace by its path instead of making one.
    pub fn join(&mut self, kind: &str, path: impl AsRef<Path>) -> &mut Self {
        self.without_namespace(kind);
        self.push(
            "/linux/namespaces",
            json!({ "type": kind, "path": path.as_ref() }),
        )
    }

    /// Writes `config.json`.
    pub fn write(&self) {
        fs::write(
            self.dir.join("config.json"),
            serde_json::to_vec_pretty(&self.spec).unwrap(),
        )
        .unwrap();
    }

    /// A command of the runtime about this bundle's state directory, ended.
    pub fn call(&self, args: &[&str]) -> Output {
        self.runtime.call(args)
    }

    /// `run` in the foreground, to its end.
    pub fn run(&self) -> Output {
        self.run_with(&[])
    }

    /// `run` with further flags.
    pub fn run_with(&self, flags: &[&str]) -> Output {
        self.write();
        let mut args = vec!["run", "--bundle", self.dir.to_str().unwrap()];
        args.extend(flags);
        args.push(&self.id);
        self.call(&args)
    }

    /// Runs a script in the container and gives its output; anything but status 0 fails the test.
    pub fn output_of(&mut self, script: &str) -> String {
        self.args(&["/bin/sh", "-c", script]);
        self.run().success().stdout.trim_end().to_owned()
    }

    /// `create`, which must succeed.
    pub fn create(&self) -> Container<'_> {
        let (container, out) = self.try_create(&[]);
        out.success();
        container.expect("created")
    }

    /// `create` with further flags; a guard where it succeeded, and what it said.
    pub fn try_create(&self, flags: &[&str]) -> (Option<Container<'_>>, Output) {
        self.write();
        let mut args = vec!["create", "--bundle", self.dir.to_str().unwrap()];
        args.extend(flags);
        args.push(&self.id);
        let out = self.call(&args);
        ((out.status == 0).then(|| Container::new(self)), out)
    }

    /// `create` and `start`, to where the program itself runs: `start` may return while the first
    /// process is still the runtime's.
    #[track_caller]
    pub fn started(&self) -> Container<'_> {
        let c = self.create();
        if wall::is_vm() {
            c.start();
            // Before it is the program, the guest's process is hull's copy of itself.
            super::until("the program's start", || {
                c.call(&["ps"])
                    .success()
                    .stdout
                    .lines()
                    .skip(1)
                    .all(|line| !line.ends_with("/init"))
            });
            return c;
        }
        let exe = format!("/proc/{}/exe", c.pid());
        let before = fs::read_link(&exe).ok();
        let mut gone = 0;
        c.start();
        super::until("the program's start", || {
            let now = fs::read_link(&exe).ok();
            // While one of several threads replaces the program, there is none for a moment.
            gone = if now.is_none() { gone + 1 } else { 0 };
            gone > 5 || (now.is_some() && now != before)
        });
        c
    }

    /// The cgroup's path as the container's own kernel has it: a guest's tree has one container.
    pub fn cgroup_inside(&self) -> &str {
        if wall::is_vm() { "/hull" } else { &self.cgroup }
    }

    /// The container's cgroup folder in the hierarchy of a controller, by its v1 name.
    pub fn cgroup_dir(&self, controller: &str) -> PathBuf {
        let root = cgroups::hierarchy(controller).map_or_else(
            || Path::new("/sys/fs/cgroup").join(controller),
            |(_, root)| root,
        );
        root.join(self.cgroup.trim_start_matches('/'))
    }

    /// A look at the container's cgroup from within: the second wall's is the guest's. Who looks is
    /// in it too, and is left out; it makes no process, as there may be room for none.
    fn in_own_cgroup(&self, script: &str) -> Output {
        let script = format!(
            "while IFS=: read -r number _ path; do [ \"$number\" != 0 ] || cd \
                \"/sys/fs/cgroup$path\"; done </proc/self/cgroup; {script}"
        );
        self.call(&["exec", &self.id, "sh", "-c", &script])
    }

    /// Whether the container's cgroup has a file.
    pub fn cgroup_has(&self, controller: &str, file: &str) -> bool {
        if wall::is_vm() {
            return self.in_own_cgroup(&format!("test -e {file}")).status == 0;
        }
        self.cgroup_dir(controller).join(file).exists()
    }

    /// One file of the container's cgroup.
    #[track_caller]
    pub fn cgroup_file(&self, controller: &str, file: &str) -> String {
        if wall::is_vm() {
            let script = format!(
                "while read -r line; do [ \"$line\" = $$ ] || echo \"$line\"; done < {file}"
            );
            return self
                .in_own_cgroup(&script)
                .success()
                .stdout
                .trim()
                .to_owned();
        }
        let path = self.cgroup_dir(controller).join(file);
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        text.trim().to_owned()
    }

    /// One file of the container's cgroup that the two interfaces name differently.
    #[track_caller]
    pub fn cgroup_value(&self, controller: &str, v1: &str, v2: &str) -> String {
        self.cgroup_file(controller, cgroups::by_version(controller, v1, v2))
    }
}
