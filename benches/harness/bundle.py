"""Bundles: a busybox root filesystem and the default spec of runc, without a terminal."""

import copy
import json
import os
import shutil
import subprocess

from .host import BenchError

DIRECTORIES = ("bin", "dev", "etc", "proc", "sys", "tmp", "root", "var")
APPLETS = ("sh", "true", "cat", "sleep", "ls")


def make_rootfs(path, busybox, programs=()):
    """Fills `path` with busybox and the given programs (copied to /bin by their own names)."""
    for name in DIRECTORIES:
        os.makedirs(os.path.join(path, name), exist_ok=True)
    shutil.copy(busybox, os.path.join(path, "bin/busybox"))
    for name in APPLETS:
        os.symlink("busybox", os.path.join(path, "bin", name))
    for program in programs:
        shutil.copy(program, os.path.join(path, "bin", os.path.basename(program)))
    return path


def compile_c(source, directory):
    """Compiles one of the benches' own programs, apart from hull's build; returns the static
    binary's path.
    """
    path = os.path.join(directory, os.path.basename(source).removesuffix(".c"))
    done = subprocess.run(
        ["cc", "-O2", "-static", "-o", path, source], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise BenchError(f"compile {source}: {done.stderr.strip()}")
    return path


def default_spec(runc, directory):
    """What `runc spec` writes, without a terminal and with a cgroup namespace.

    On a v1 host runc leaves the cgroup namespace out, and on v2 it has it; the other runtimes'
    defaults always do.
    """
    done = subprocess.run(
        [runc, "spec", "--bundle", directory], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise BenchError(f"runc spec: {done.stderr.strip()}")
    path = os.path.join(directory, "config.json")
    with open(path, encoding="utf-8") as text:
        spec = json.load(text)
    os.remove(path)
    spec["process"]["terminal"] = False
    namespaces = spec["linux"]["namespaces"]
    if not any(entry["type"] == "cgroup" for entry in namespaces):
        namespaces.append({"type": "cgroup"})
    return spec


def write_bundle(directory, spec, rootfs, cgroup, args, change=None):
    """Writes `directory`/config.json: the spec with its root, cgroup and program; `change` may
    alter the rest. Returns `directory`.
    """
    os.makedirs(directory, exist_ok=True)
    config = copy.deepcopy(spec)
    config["root"]["path"] = rootfs
    config["process"]["args"] = list(args)
    config["linux"]["cgroupsPath"] = cgroup
    if change:
        change(config)
    with open(os.path.join(directory, "config.json"), "w", encoding="utf-8") as text:
        json.dump(config, text, indent=1)
    return directory
