"""The part of the Kubernetes container runtime interface, runtime.v1, that the drills speak, over
gRPC.

Debian has gRPC for Python but neither crictl nor generated messages: the messages used here are
tables of field numbers, and protobuf's wire format is four functions.
"""

import os

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc

# message: {field: (number, kind)}; the kind is int, str, bytes or a message's name; a list of one
# kind is repeated; dict is map<string, string>.
MESSAGES = {
    "Int64": {"value": (1, int)},
    "Metadata": {"name": (1, str), "uid": (2, str), "namespace": (3, str), "attempt": (4, int)},
    "ContainerMetadata": {"name": (1, str), "attempt": (2, int)},
    "Dns": {"servers": (1, [str]), "searches": (2, [str]), "options": (3, [str])},
    "IdMapping": {"host_id": (1, int), "container_id": (2, int), "length": (3, int)},
    "UserNamespace": {"mode": (1, int), "uids": (2, ["IdMapping"]), "gids": (3, ["IdMapping"])},
    "Namespaces": {
        "network": (1, int),
        "pid": (2, int),
        "ipc": (3, int),
        "target_id": (4, str),
        "userns_options": (5, "UserNamespace"),
    },
    "Profile": {"profile_type": (1, int), "localhost_ref": (2, str)},
    "SandboxSecurity": {
        "namespace_options": (1, "Namespaces"),
        "run_as_user": (3, "Int64"),
        "readonly_rootfs": (4, int),
        "privileged": (6, int),
        "seccomp": (9, "Profile"),
    },
    "LinuxSandbox": {
        "cgroup_parent": (1, str),
        "security_context": (2, "SandboxSecurity"),
        "sysctls": (3, dict),
    },
    "PortMapping": {
        "protocol": (1, int),
        "container_port": (2, int),
        "host_port": (3, int),
        "host_ip": (4, str),
    },
    "SandboxConfig": {
        "metadata": (1, "Metadata"),
        "hostname": (2, str),
        "log_directory": (3, str),
        "dns_config": (4, "Dns"),
        "port_mappings": (5, ["PortMapping"]),
        "labels": (6, dict),
        "annotations": (7, dict),
        "linux": (8, "LinuxSandbox"),
    },
    "Image": {"image": (1, str)},
    "KeyValue": {"key": (1, str), "value": (2, str)},
    "Mount": {
        "container_path": (1, str),
        "host_path": (2, str),
        "readonly": (3, int),
        "propagation": (5, int),
    },
    "Device": {"container_path": (1, str), "host_path": (2, str), "permissions": (3, str)},
    "Resources": {
        "cpu_period": (1, int),
        "cpu_quota": (2, int),
        "cpu_shares": (3, int),
        "memory_limit_in_bytes": (4, int),
        "oom_score_adj": (5, int),
        "cpuset_cpus": (6, str),
        "cpuset_mems": (7, str),
    },
    "Capability": {"add_capabilities": (1, [str]), "drop_capabilities": (2, [str])},
    "Security": {
        "capabilities": (1, "Capability"),
        "privileged": (2, int),
        "namespace_options": (3, "Namespaces"),
        "run_as_user": (5, "Int64"),
        "run_as_username": (6, str),
        "readonly_rootfs": (7, int),
        "supplemental_groups": (8, [int]),
        "no_new_privs": (11, int),
        "run_as_group": (12, "Int64"),
        "masked_paths": (13, [str]),
        "readonly_paths": (14, [str]),
        "seccomp": (15, "Profile"),
    },
    "LinuxContainer": {"resources": (1, "Resources"), "security_context": (2, "Security")},
    "ContainerConfig": {
        "metadata": (1, "ContainerMetadata"),
        "image": (2, "Image"),
        "command": (3, [str]),
        "args": (4, [str]),
        "working_dir": (5, str),
        "envs": (6, ["KeyValue"]),
        "mounts": (7, ["Mount"]),
        "devices": (8, ["Device"]),
        "labels": (9, dict),
        "annotations": (10, dict),
        "log_path": (11, str),
        "stdin": (12, int),
        "stdin_once": (13, int),
        "tty": (14, int),
        "linux": (15, "LinuxContainer"),
    },
    "Ip": {"ip": (1, str)},
    "SandboxStatus": {
        "id": (1, str),
        "state": (3, int),
        "network": (5, "Ip"),
        "runtime_handler": (9, str),
    },
    "ContainerStatus": {
        "id": (1, str),
        "state": (3, int),
        "exit_code": (7, int),
        "reason": (10, str),
        "message": (11, str),
    },
    "Container": {"id": (1, str), "pod_sandbox_id": (2, str), "state": (6, int)},
    "Sandbox": {"id": (1, str), "state": (3, int)},
    "Condition": {"type": (1, str), "status": (2, int), "reason": (3, str), "message": (4, str)},
    "Conditions": {"conditions": (1, ["Condition"])},
    "CpuUsage": {"timestamp": (1, int), "usage_core_nano_seconds": (2, "Int64")},
    "MemoryUsage": {"timestamp": (1, int), "working_set_bytes": (2, "Int64")},
    "Attributes": {"id": (1, str)},
    "Stats": {
        "attributes": (1, "Attributes"),
        "cpu": (2, "CpuUsage"),
        "memory": (3, "MemoryUsage"),
    },
    "Streams": {
        "container_id": (1, str),
        "cmd": (2, [str]),
        "tty": (3, int),
        "stdin": (4, int),
        "stdout": (5, int),
        "stderr": (6, int),
    },
    "Attaching": {
        "container_id": (1, str),
        "stdin": (2, int),
        "tty": (3, int),
        "stdout": (4, int),
        "stderr": (5, int),
    },
}

# call: (request's fields, response's fields)
SANDBOX, CONTAINER = {"pod_sandbox_id": (1, str)}, {"container_id": (1, str)}
CALLS = {
    "Version": ({}, {"version": (1, str), "runtime_name": (2, str), "runtime_version": (3, str)}),
    "Status": ({}, {"status": (1, "Conditions")}),
    "RunPodSandbox": ({"config": (1, "SandboxConfig"), "runtime_handler": (2, str)}, SANDBOX),
    "StopPodSandbox": (SANDBOX, {}),
    "RemovePodSandbox": (SANDBOX, {}),
    "PodSandboxStatus": (
        {**SANDBOX, "verbose": (2, int)},
        {"status": (1, "SandboxStatus"), "info": (2, dict)},
    ),
    "ListPodSandbox": ({}, {"items": (1, ["Sandbox"])}),
    "CreateContainer": (
        {**SANDBOX, "config": (2, "ContainerConfig"), "sandbox_config": (3, "SandboxConfig")},
        CONTAINER,
    ),
    "StartContainer": (CONTAINER, {}),
    "StopContainer": ({**CONTAINER, "timeout": (2, int)}, {}),
    "RemoveContainer": (CONTAINER, {}),
    "ListContainers": ({}, {"containers": (1, ["Container"])}),
    "ContainerStatus": (
        {**CONTAINER, "verbose": (2, int)},
        {"status": (1, "ContainerStatus"), "info": (2, dict)},
    ),
    "UpdateContainerResources": ({**CONTAINER, "linux": (2, "Resources")}, {}),
    "ExecSync": (
        {**CONTAINER, "cmd": (2, [str]), "timeout": (3, int)},
        {"stdout": (1, bytes), "stderr": (2, bytes), "exit_code": (3, int)},
    ),
    "Exec": (MESSAGES["Streams"], {"url": (1, str)}),
    "Attach": (MESSAGES["Attaching"], {"url": (1, str)}),
    "PortForward": ({**SANDBOX, "port": (2, [int])}, {"url": (1, str)}),
    "ContainerStats": (CONTAINER, {"stats": (1, "Stats")}),
    "ListContainerStats": ({}, {"stats": (1, ["Stats"])}),
}


def varint(number):
    """A number in base 128, lowest part first; negative numbers as 64 bits of two's complement."""
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes(out) + bytes([number])


def encode(fields, message):
    """A message, a dictionary, in wire format."""
    out = b""
    for name, value in message.items():
        number, kind = fields[name]
        if kind is dict:
            entry = {"key": (1, str), "value": (2, str)}
            values, kind = [encode(entry, {"key": k, "value": v}) for k, v in value.items()], bytes
        elif isinstance(kind, list):
            values, kind = value, kind[0]
        else:
            values = [value]
        for one in values:
            if kind is int:
                out += varint(number << 3) + varint(int(one))
                continue
            data = (
                one
                if kind is bytes
                else one.encode()
                if kind is str
                else encode(MESSAGES[kind], one)
            )
            out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def pieces(data):
    """(field number, value) of a message in wire format; the value is a number or bytes."""
    at = 0

    def number():
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        tag = number()
        if tag & 7 == 0:
            yield tag >> 3, number()
            continue
        size = number() if tag & 7 == 2 else {1: 8, 5: 4}[tag & 7]
        yield tag >> 3, data[at : at + size]
        at += size


def decode(fields, data):
    """A message as a dictionary; absent fields have their default, unknown ones are left out."""

    def default(k):
        return (
            [] if isinstance(k, list) else {} if k is dict else k() if isinstance(k, type) else {}
        )

    out = {name: default(kind) for name, (_, kind) in fields.items()}
    names = {number: (name, kind) for name, (number, kind) in fields.items()}
    for number, value in pieces(data):
        if number not in names:
            continue
        name, kind = names[number]
        if kind is dict:
            entry = decode({"key": (1, str), "value": (2, str)}, value)
            out[name][entry["key"]] = entry["value"]
            continue
        one = kind[0] if isinstance(kind, list) else kind
        if one is str:
            value = value.decode(errors="replace")
        elif one is int:
            value = value - (1 << 64) if value >> 63 else value
        elif one is not bytes:
            value = decode(MESSAGES[one], value)
        out[name] = out[name] + [value] if isinstance(kind, list) else value
    return out


class Refused(Exception):
    """A call that the runtime service answered with an error; the text is its description."""


class Service:
    """The runtime service behind a socket: `service("Version")`, `service("StopContainer",
    container_id=…)`.
    """

    def __init__(self, socket, note):
        self.channel = grpc.insecure_channel(f"unix://{socket}")
        self.note = note

    def __call__(self, call, deadline=90, **request):
        asked, answered = CALLS[call]
        method = self.channel.unary_unary(f"/runtime.v1.RuntimeService/{call}")
        self.note(f"> {call} {request}")
        try:
            answer = decode(answered, method(encode(asked, request), timeout=deadline))
        except grpc.RpcError as error:
            self.note(f"  {error.code()}: {error.details()}")
            raise Refused(f"{error.code().name}: {error.details()}") from None
        self.note(f"  {str(answer)[:2000]}")
        return answer
