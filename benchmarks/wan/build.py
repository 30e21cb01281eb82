"""Compiles the relay for this machine, when it is first needed.

With $CC, else cc, else the clang that compiles the BPF programs (tools/setup.sh installs it). Unlike those programs
it takes the host's headers and libraries: libc6-dev and linux-libc-dev, on which Debian's clang-N depends.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tools.build_ebpf import ROOT, find_clang

__all__ = ["SOURCE", "compile_relay", "relay_program"]

SOURCE = Path(__file__).with_name("relay.c")
BUILD = ROOT / "build"
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread")


def relay_program() -> Path:
    """The compiled relay, up to date. Raises CalledProcessError, after what the compiler said."""
    compiler = os.environ.get("CC") or shutil.which("cc") or find_clang("debug").path
    made_of = SOURCE.read_bytes() + repr((compiler, FLAGS)).encode()
    program = BUILD / f"wan-relay-{hashlib.sha256(made_of).hexdigest()[:16]}"
    if not program.exists():
        BUILD.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BUILD) as scratch:
            compile_relay(compiler, Path(scratch, "relay")).replace(program)
    return program


def compile_relay(compiler: str, program: Path) -> Path:
    """Compile it with that compiler; returns `program`."""
    subprocess.run([compiler, *FLAGS, str(SOURCE), "-o", str(program)], check=True)
    return program
