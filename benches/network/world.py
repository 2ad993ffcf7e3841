"""Network namespaces of a bench's own: one in which hull runs, `external` behind a link, and those
of hull's containers.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, ".."))
from harness import bundle, host

HULL = os.path.join(HERE, "../../target/x86_64-unknown-linux-gnu/release/hull")
HOST, EXTERNAL = "198.51.100.1", "198.51.100.2"


def enter():
    """Starts the program again in network and mount namespaces of its own; a signal ends it by an
    exception, so that it cleans up.
    """
    if os.environ.get("HULL_BENCH_NETWORK") != str(os.getpid()):
        os.environ["HULL_BENCH_NETWORK"] = str(os.getpid())
        os.execvp(
            "unshare",
            ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, *sys.argv],
        )
    host.end_on_signals()
    shell("mkdir -p /run/netns; mount -t tmpfs tmpfs /run/netns; ip link set lo up")


def shell(line):
    """A line of shell, which must succeed."""
    return subprocess.run(line, shell=True, check=True, stdout=subprocess.PIPE, text=True).stdout


def load():
    """The host's load, for the reader of the figures."""
    return f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"


class World:
    """Use in a `with`: nothing is left afterwards."""

    def __init__(self, hull):
        self.hull = os.path.realpath(hull)
        self.scratch = tempfile.mkdtemp(prefix="hull-bench-network-")
        if not os.path.exists(self.hull):
            raise SystemExit("hull is not built: cargo build --release, or name it with --hull")
        self.root, self.ids = os.path.join(self.scratch, "state"), []
        self.rootfs = os.path.join(self.scratch, "rootfs")

    def __enter__(self):
        bundle.make_rootfs(self.rootfs, host.find_program("busybox"))
        shell(
            "ip netns add external; ip link add up0 type veth peer name out0 netns external; "
            f"ip addr add {HOST}/24 dev up0; ip link set up0 up; "
            f"ip -n external addr add {EXTERNAL}/24 dev out0; ip -n external link set out0 up; "
            f"ip -n external link set lo up; ip route add default via {EXTERNAL}"
        )
        return self

    def __exit__(self, *_):
        for name in self.ids:
            subprocess.run([self.hull, "--root", self.root, "delete", "--force", name], check=False)
        shutil.rmtree(self.scratch, ignore_errors=True)

    def start(self, name, flags=(), args=("sleep", "1000"), resources=None):
        """Starts a container; returns its process id and its IPv4 address."""
        directory = os.path.join(self.scratch, name)
        os.makedirs(directory, exist_ok=True)
        self._configure(directory, name, args, resources or {})
        self.ids.append(name)
        command = [self.hull, "--root", self.root, "run", "-d", "-b", directory]
        with open(os.path.join(self.scratch, "said"), "w+", encoding="utf8") as said:
            done = subprocess.run(
                [*command, "--network", "default", *flags, name],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
            said.seek(0)
            if done.returncode:
                raise SystemExit(f"hull run {name}: {said.read()}")
        return self.pid(name), self.address(name)

    def _configure(self, directory, name, args, resources):
        """Writes or changes the config of a container."""
        path = os.path.join(directory, "config.json")
        if not os.path.exists(path):
            subprocess.run([self.hull, "spec"], cwd=directory, check=True)
        with open(path, encoding="utf8") as file:
            spec = json.load(file)
        spec["process"].update(terminal=False, args=list(args))
        spec["root"]["path"] = self.rootfs
        spec["linux"]["cgroupsPath"] = f"/hull-bench-network-{os.getpid()}-{name}"
        spec["linux"]["resources"] = {**spec["linux"].get("resources", {}), **resources}
        with open(path, "w", encoding="utf8") as file:
            json.dump(spec, file)

    def call(self, *args):
        """A command of hull's."""
        return subprocess.run(
            [self.hull, "--root", self.root, *args], check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    def pid(self, name):
        """A container's first process."""
        return json.loads(self.call("state", name))["pid"]

    def address(self, name):
        """A container's IPv4 address."""
        found = json.loads(self.call("network", "inspect", "default"))["containers"]
        return next(one for one in found if one["id"] == name)["addresses"][0].split("/")[0]

    def end(self, *names):
        """Removes containers."""
        for name in names:
            self.call("delete", "--force", name)
            self.ids.remove(name)
