"""hull behind its second wall, as an engine would call it: by the name hull-vm, without an option."""

import pathlib
import subprocess
import sys

import execution

HERE = pathlib.Path(__file__).resolve().parent


def kernel():
    """Debian's kernel with its modules, unpacked by the script that the test machines use too."""
    prepare = HERE.parent / "tests/vm/prepare"
    made = subprocess.run([prepare], stdout=subprocess.PIPE, text=True, check=False)
    for word in made.stdout.split():
        name, _, folder = word.partition("=")
        if name == "kernel":
            return next(pathlib.Path(folder, "boot").glob("vmlinuz-*"))
    sys.exit("conformance/run: there is no kernel for machines")


def runtime(hull, suite):
    """A Runtime whose containers get a machine each."""
    folder = suite / "machines"
    kept = folder / "kept"
    kept.mkdir(parents=True, exist_ok=True)
    link = folder / "hull-vm"
    link.unlink(missing_ok=True)
    link.symlink_to(hull)
    config = folder / "config.toml"
    config.write_text(f'[vm]\nkernel = "{kernel()}"\n', encoding="utf-8")
    environment = {
        "HULL_CONFIG": str(config),
        "HULL_SUITE_MACHINES": str(kept),
        "HULL_SUITE_PATIENCE": str(execution.PATIENCE),
    }
    return execution.Runtime("hull-vm", str(link), "hybrid", "vm", environment)
