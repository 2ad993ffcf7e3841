//! A bundle of a test's own: a directory with a root filesystem and a configuration, an id, a state
//! directory and a cgroup.

use super::runtime::{Container, Output, Runtime};
use super::{backend, cgroups, fixture, spec, users};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// A bundle, and the runtime that is called with it.
#[derive(Clone)]
pub struct Bundle {
    /// The bundle's directory; `rootfs` is below it.
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
    /// The default bundle, of root, without a user namespace.
    pub fn new() -> Self {
        let number = fixture::unique();
        let dir = fixture::new_dir("bundle");
        fixture::fill_rootfs(&dir.join("rootfs"));
        let mut cgroup = format!("/hull-test-{}-{number}", std::process::id());
        let mut config = spec::default_spec();
        config["linux"]["cgroupsPath"] = json!(cgroup);
        let mut runtime = Runtime::new(dir.join("state"));
        if backend::is_vm() {
            backend::share_cache(&runtime.state, None);
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

    /// A sleeper with values of `linux.resources`.
    pub fn limited(resources: &Value) -> Self {
        let mut b = Self::sleeper();
        for (name, value) in resources.as_object().unwrap() {
            b.set(&format!("/linux/resources/{name}"), value.clone());
        }
        b
    }

    /// The default bundle with a new user namespace that maps ids 0.. to 200000...
    pub fn with_user_namespace() -> Self {
        let mut b = Self::new();
        b.add_user_namespace();
        b
    }

    /// Adds a new user namespace, whose ids own the root filesystem.
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

    /// The bundle that `runc spec --rootless` describes, of an ordinary user.
    pub fn of_ordinary_user() -> Self {
        let mut b = Self::new();
        spec::make_rootless(&mut b.spec, users::ORDINARY, users::ORDINARY);
        b.runtime.user = Some(users::ORDINARY);
        fixture::give_to(&b.dir, users::ORDINARY, users::ORDINARY);
        if backend::is_vm() {
            // A VM cannot have the host's network.
            b.push("/linux/namespaces", json!({ "type": "network" }));
            backend::share_cache(&b.runtime.state, b.runtime.user);
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

    /// Leaves a namespace out, so that the container keeps the runtime's own.
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

    /// Runs a command of the runtime to its end, with this bundle's state directory.
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

    /// `create` with further flags; a guard where it succeeded, and its output.
    pub fn try_create(&self, flags: &[&str]) -> (Option<Container<'_>>, Output) {
        self.write();
        let mut args = vec!["create", "--bundle", self.dir.to_str().unwrap()];
        args.extend(flags);
        args.push(&self.id);
        let out = self.call(&args);
        ((out.status == 0).then(|| Container::new(self)), out)
    }

    /// `create` and `start`; returns when the program itself runs: `start` of some runtimes returns
    /// while the first process still is the runtime.
    #[track_caller]
    pub fn started(&self) -> Container<'_> {
        let c = self.create();
        if backend::is_vm() {
            c.start();
            // Before execve, the process in the guest is hull's copy of itself.
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
            // While one of several threads executes the program, there is no link for a moment.
            gone = if now.is_none() { gone + 1 } else { 0 };
            gone > 5 || (now.is_some() && now != before)
        });
        c
    }

    /// The cgroup's path in `/proc/self/cgroup` of the container: the tree of a guest has one
    /// container.
    pub fn cgroup_in_container(&self) -> &str {
        if backend::is_vm() {
            "/hull"
        } else {
            &self.cgroup
        }
    }

    /// The directory of the container's cgroup in the hierarchy of a controller, by its v1 name.
    pub fn cgroup_dir(&self, controller: &str) -> PathBuf {
        let root = cgroups::hierarchy(controller).map_or_else(
            || Path::new("/sys/fs/cgroup").join(controller),
            |(_, root)| root,
        );
        root.join(self.cgroup.trim_start_matches('/'))
    }

    /// Runs a script in the container, in the directory of its cgroup: in VM mode the cgroup is the
    /// guest's. The script starts no process, since the cgroup may allow no further one.
    fn in_own_cgroup(&self, script: &str) -> Output {
        let script = format!(
            "while IFS=: read -r number _ path; do [ \"$number\" != 0 ] || cd \
                \"/sys/fs/cgroup$path\"; done </proc/self/cgroup; {script}"
        );
        self.call(&["exec", &self.id, "sh", "-c", &script])
    }

    /// Whether the container's cgroup has a file.
    pub fn cgroup_has(&self, controller: &str, file: &str) -> bool {
        if backend::is_vm() {
            return self.in_own_cgroup(&format!("test -e {file}")).status == 0;
        }
        self.cgroup_dir(controller).join(file).exists()
    }

    /// One file of the container's cgroup.
    #[track_caller]
    pub fn cgroup_file(&self, controller: &str, file: &str) -> String {
        if backend::is_vm() {
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
