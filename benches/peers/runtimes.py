"""What is measured: how each peer is asked to run, create, start, delete and exec."""

import os

from harness import bundle

TRUE = "/bin/true"


class Bench:
    """What all peers of one run of the bench share."""

    def __init__(self, scratch, spec, rootfs, cgroup):
        self.scratch, self.spec, self.rootfs, self.cgroup = scratch, spec, rootfs, cgroup


class Host:
    """No container at all: the cost of starting and reaping the same program, in every other row
    too.
    """

    name, without_v2, mounts_comparable = "process", False, False

    def __init__(self, bench):
        self.argv = [os.path.join(bench.rootfs, "bin/busybox"), "true"]

    def run_steps(self):
        """Just the program."""
        return [["run", *self.argv]]


class Floor:
    """The kernel's part alone (floor/floor.c), without or with cgroups."""

    without_v2, mounts_comparable = False, True

    def __init__(self, bench, path, cgroups=False):
        self.name = "floor+cgroups" if cgroups else "floor"
        self.path, self.rootfs = path, bench.rootfs
        self.how = ["run-cgroups", f"{bench.cgroup[1:]}-floor"] if cgroups else ["run"]

    def command(self, *program):
        """The command line for a program."""
        return [self.path, *self.how, self.rootfs, *program]

    def run_steps(self):
        """One container."""
        return [["run", *self.command(TRUE)]]

    def mounts_steps(self):
        """A container that prints its mounts."""
        return [["run", *self.command("/bin/cat", "/proc/self/mountinfo")]]

    def exec_steps(self, pid):
        """A program in the namespaces of a running process."""
        return [["run", self.path, "exec", str(pid), TRUE]]


class Oci:
    """A runtime with runc's command line."""

    mounts_comparable = True

    def __init__(self, bench, name, path, without_v2=False):
        self.name, self.path, self.without_v2 = name, path, without_v2
        self.root = bench.scratch.directory("state", name)
        self.pid_file = os.path.join(self.root, "..", f"{name}.pid")
        self.held = f"hull-bench-{os.getpid()}-{name}-held"
        self.serial = 0
        self.bundles = {}
        for role, args in (
            ("true", [TRUE]),
            ("mounts", ["/bin/cat", "/proc/self/mountinfo"]),
            ("held", ["/bin/sleep", "100000"]),
        ):
            self.bundles[role] = bundle.write_bundle(
                bench.scratch.directory("bundles", name, role),
                bench.spec,
                bench.rootfs,
                f"{bench.cgroup}/{name}-{role}",
                args,
            )

    def _call(self, verb, *words):
        return ["run", self.path, "--root", self.root, verb, *words]

    def _next_id(self):
        self.serial += 1
        return f"hull-bench-{os.getpid()}-{self.name}-{self.serial}"

    def run_steps(self):
        """`run` of /bin/true, from the process's start to its end."""
        return [self._call("run", "--bundle", self.bundles["true"], self._next_id())]

    def mounts_steps(self):
        """A container that prints its mounts."""
        return [self._call("run", "--bundle", self.bundles["mounts"], self._next_id())]

    def life_steps(self):
        """create, start, the program's own end, delete."""
        name = self._next_id()
        return [
            self._call(
                "create", "--bundle", self.bundles["true"], "--pid-file", self.pid_file, name
            ),
            self._call("start", name),
            ["wait", self.pid_file],
            self._call("delete", name),
        ]

    def hold_steps(self):
        """Starts the container in which `exec` runs."""
        return [
            self._call(
                "create", "--bundle", self.bundles["held"], "--pid-file", self.pid_file, self.held
            ),
            self._call("start", self.held),
        ]

    def held_pid(self):
        """The first process of the held container, as the host numbers it."""
        with open(self.pid_file, encoding="ascii") as text:
            return int(text.read())

    def exec_steps(self, _pid):
        """`exec` of /bin/true in the held container."""
        return [self._call("exec", self.held, TRUE)]

    def drop_steps(self, name=None):
        """Removes the held container."""
        return [self._call("delete", "--force", name or self.held)]


class Bubblewrap:
    """bwrap with the options that come nearest to the default spec; it has no create, no exec and
    no cgroups.

    Its own /proc covers what the spec's read-only paths cover; a fresh sysfs it cannot mount, so
    the host's is bound.
    """

    name, without_v2, mounts_comparable = "bubblewrap", False, True

    def __init__(self, bench, path):
        spec = bench.spec
        self.head = [
            path,
            "--unshare-pid",
            "--unshare-net",
            "--unshare-ipc",
            "--unshare-uts",
            "--unshare-cgroup",
            "--hostname",
            "bench",
            "--as-pid-1",
            "--die-with-parent",
            "--clearenv",
            "--setenv",
            "PATH",
            "/usr/bin:/bin",
            "--cap-drop",
            "ALL",
            "--ro-bind",
            bench.rootfs,
            "/",
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "--mqueue",
            "/dev/mqueue",
            "--ro-bind",
            "/sys",
            "/sys",
        ]
        for masked in spec["linux"]["maskedPaths"]:
            if os.path.isdir(masked):
                self.head += ["--tmpfs", masked, "--remount-ro", masked]
            elif os.path.exists(masked):
                self.head += ["--ro-bind", "/dev/null", masked]

    def run_steps(self):
        """One sandbox."""
        return [["run", *self.head, "--", TRUE]]

    def mounts_steps(self):
        """A sandbox that prints its mounts."""
        return [["run", *self.head, "--", "/bin/cat", "/proc/self/mountinfo"]]


class Nsenter:
    """util-linux's nsenter into the floor's container: the least that a program can do to enter by
    namespaces.
    """

    name, without_v2, mounts_comparable = "nsenter", False, False

    def __init__(self, path):
        self.path = path

    def exec_steps(self, pid):
        """A program in all namespaces of a running process."""
        return [
            [
                "run",
                self.path,
                "--target",
                str(pid),
                "--mount",
                "--uts",
                "--ipc",
                "--net",
                "--pid",
                "--cgroup",
                "--",
                TRUE,
            ]
        ]
