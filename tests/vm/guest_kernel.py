"""The kernel that test VMs boot, for harnesses whose containers run in VMs."""

import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

PREPARE = Path(__file__).resolve().parent / "prepare"


class Unavailable(Exception):
    """The kernel cannot be had here; the text says why."""


@dataclass(frozen=True)
class GuestKernel:
    """An unpacked Debian kernel package: its directory, with the modules, and its ELF image."""

    directory: Path
    image: Path

    @property
    def packed(self):
        """The kernel as the package has it, a bzImage."""
        return next((self.directory / "boot").glob("vmlinuz-*"))


def prepare():
    """Has tests/vm/prepare unpack the kernel, where that is not done, and returns it."""
    done = subprocess.run([PREPARE], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unavailable(done.stderr.strip())
    variables = dict(word.split("=", 1) for word in shlex.split(done.stdout))
    return GuestKernel(Path(variables["kernel"]), Path(variables["image"]))
