"""The first files of the guest, as a cpio archive."""

import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.vm.errors import VmError, find
from tools.vm.kernels import Kernel

INIT = Path(__file__).with_name("init.sh")
FINISH = Path(__file__).with_name("finish.sh")


def pack(kernel: Kernel, script: str, archive: Path) -> None:
    """Write the archive for a kernel and the shell script that the guest runs. Raises VmError."""
    busybox = find("busybox")
    with tempfile.TemporaryDirectory(prefix="chadthrottle-vm-") as scratch:
        root = Path(scratch)
        (root / "bin").mkdir()
        shutil.copy(busybox, root / "bin" / "busybox")
        shutil.copy(INIT, root / "init")
        shutil.copy(FINISH, root / "finish")
        (root / "init").chmod(0o755)
        (root / "command").write_text(script, encoding="utf-8")
        for part in ("boot", "lib"):
            shutil.copytree(kernel.directory / part, root / part, ignore=shutil.ignore_patterns("vmlinuz-*"))
        names = "".join(f"{path.relative_to(root)}\n" for path in sorted(root.rglob("*")))
        with archive.open("wb") as output:
            command = [busybox, "cpio", "-o", "-H", "newc", "-R", "0:0"]
            packed = subprocess.run(
                command, cwd=root, input=names.encode(), stdout=output, stderr=subprocess.PIPE, check=False
            )
    if packed.returncode:
        raise VmError(f"{shlex.join(command)} failed: {packed.stderr.decode(errors='replace').strip()}")


def script(command: Sequence[str], directory: Path, environment: Mapping[str, str]) -> str:
    """A shell script that runs the command there, with these variables and no others."""
    words = ("/usr/bin/env", "-i", *(f"{name}={value}" for name, value in environment.items()), *command)
    return f"cd {shlex.quote(str(directory))} && exec {shlex.join(words)}\n"
