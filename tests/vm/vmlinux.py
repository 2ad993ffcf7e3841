#!/usr/bin/env python3
"""tests/vm/vmlinux.py BZIMAGE OUTPUT: extracts the ELF image of the kernel from a bzImage.

An emulated kernel needs seconds to unpack itself; QEMU starts an ELF image directly (PVH). The boot
header says where the packed payload lies: `setup_sects`, `payload_offset` and `payload_length` of
the kernel's Documentation/arch/x86/boot.rst.
"""

import struct
import subprocess
import sys

SECTOR = 512
UNPACKERS = {
    b"\x02\x21\x4c\x18": ["lz4", "-dc"],
    b"\xfd7zX": ["xz", "-dc", "--single-stream"],
    b"\x28\xb5\x2f\xfd": ["zstd", "-dc"],
    b"\x1f\x8b": ["gzip", "-dc"],
}


def main():
    image, output = sys.argv[1:]
    with open(image, "rb") as file:
        data = file.read()
    if data[0x202:0x206] != b"HdrS":
        sys.exit(f"{image}: not a bzImage")
    sectors = data[0x1F1] or 4
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = (sectors + 1) * SECTOR + offset
    payload = data[start : start + length]
    command = next((c for magic, c in UNPACKERS.items() if payload.startswith(magic)), None)
    if command is None:
        sys.exit(f"{image}: packed in an unknown way ({payload[:4].hex()})")
    # The unpacked length follows the stream: the unpackers complain of it after they have written
    # everything.
    result = subprocess.run(
        command, input=payload, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
    )
    if not result.stdout.startswith(b"\x7fELF"):
        sys.exit(f"{image}: it holds no ELF image")
    with open(output, "wb") as file:
        file.write(result.stdout)


main()
