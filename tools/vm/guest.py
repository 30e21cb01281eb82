"""One run of qemu: boot, pass the command's output on, find out how it ended."""

import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.build_ebpf import ROOT
from tools.vm import initramfs
from tools.vm.errors import VmError, find
from tools.vm.kernels import Kernel

STATUS = re.compile(r"^guest: status (\d+)$", re.MULTILINE)  # init.sh
CONSOLE_LINES = 25

# panic=-1: a guest that dies ends the run at once (with -no-reboot) and not at the time limit.
COMMAND_LINE = "console=ttyS0 quiet panic=-1 rdinit=/init"


def run(kernel: Kernel, command: Sequence[str], environment: Mapping[str, str], seconds: float) -> int:
    """Run a command in the source root as root on that kernel; its output comes on ours. Its exit status.

    Raises VmError when the guest does not start, dies, or is not done after `seconds`.
    """
    qemu = find("qemu-system-x86_64")
    with tempfile.TemporaryDirectory(prefix="chadthrottle-vm-") as scratch:
        archive, console = Path(scratch, "initramfs"), Path(scratch, "console")
        initramfs.pack(kernel, initramfs.script(command, ROOT, environment), archive)
        console.touch()
        status, expired = _watch([qemu, *options(kernel, archive, console)], seconds)
        log = console.read_text(encoding="utf-8", errors="replace").replace("\r", "")
    if expired:
        raise VmError(f"Linux {kernel.release} was not done after {seconds:g} s and was stopped. {_end(log)}")
    found = STATUS.findall(log)
    if status or not found:
        raise VmError(f"Linux {kernel.release} did not get to the command's end. {_end(log)}")
    return int(found[-1])


def options(kernel: Kernel, archive: Path, console: Path) -> list[str]:
    """qemu's arguments. Nothing of the host but its files, read-only: no network, no screen, no disk.

    No KVM either: inside somebody's virtual machine a guest of ours may hang in it without a word. One processor:
    with two, emulated, a guest dies now and then at code that its kernel is patching.
    """
    return [
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", "q35", "-accel", "tcg", "-smp", "1", "-m", "2G"),
        *("-kernel", str(kernel.image), "-initrd", str(archive), "-append", COMMAND_LINE),
        *("-serial", f"file:{console}", "-serial", "stdio"),
        *("-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"),
        *("-device", "virtio-9p-pci,fsdev=host,mount_tag=host"),
    ]


def _watch(command: Sequence[str], seconds: float) -> tuple[int, bool]:
    """Run it and pass its output on. Its exit status, and whether its time was over."""
    expired = threading.Event()
    # Not our own standard output: qemu makes it non-blocking, and then everybody's prints can fail.
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None

        def stop() -> None:
            expired.set()
            process.kill()

        timer = threading.Timer(seconds, stop)
        timer.start()
        try:
            while part := os.read(process.stdout.fileno(), 1 << 16):
                sys.stdout.buffer.write(part)
                sys.stdout.buffer.flush()
            status = process.wait()
        finally:
            timer.cancel()
            process.kill()  # Ctrl-C; does nothing to one that has ended
    return status, expired.is_set()


def _end(log: str) -> str:
    lines = log.strip().splitlines()[-CONSOLE_LINES:]
    return "The end of its console:\n" + "\n".join(f"  {line}" for line in lines) if lines else "Its console is empty."
