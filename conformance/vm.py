"""hull's VM backend as an engine would choose it: by the name hull-vm, without an option."""

import sys
from pathlib import Path

import execution

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/vm"))
import guest_kernel


def kernel():
    """The path of a kernel for guests."""
    try:
        return guest_kernel.prepare().packed
    except guest_kernel.Unavailable as error:
        sys.exit(f"conformance/run: no kernel for guests: {error}")


def runtime(hull, suite):
    """A Runtime that runs each container in a VM of its own."""
    directory = suite / "vm"
    cache = directory / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    link = directory / "hull-vm"
    link.unlink(missing_ok=True)
    link.symlink_to(hull)
    config = directory / "config.toml"
    config.write_text(f'[vm]\nkernel = "{kernel()}"\n', encoding="utf-8")
    environment = {
        "HULL_CONFIG": str(config),
        "HULL_SUITE_VM_CACHE": str(cache),
        "HULL_SUITE_PATIENCE": str(execution.PATIENCE),
    }
    return execution.Runtime("hull-vm", str(link), "hybrid", "vm", environment)
