"""What a page of results was measured on."""

import os
import platform
import re
import time
from collections.abc import Iterable
from pathlib import Path

__all__ = ["machine", "wait_for_memory"]

MEMORY_PATIENCE_S = 180
"""Sockets that were closed with data keep it for so long at most (tcp_orphan_retries)."""


def machine() -> str:
    """Processors, kernel and Python."""
    lines: Iterable[str] = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
    return f"{os.cpu_count()} CPUs, {model}, Linux {platform.release()}, Python {platform.python_version()}"


def wait_for_memory() -> None:
    """Until TCP uses less memory than its low mark (net.ipv4.tcp_mem), which all namespaces share.

    Above the middle one memory is short, and is so until below the low one again: meanwhile the kernel enlarges no
    receive window (tcp_grow_window() of net/ipv4/tcp_input.c), and a network with a round trip is measured as slow as
    64 KiB a round trip are. Raises SystemExit after three minutes.
    """
    low_mark_pages = int(Path("/proc/sys/net/ipv4/tcp_mem").read_text(encoding="ascii").split()[0])
    deadline = time.monotonic() + MEMORY_PATIENCE_S
    while (used_pages := _tcp_memory_pages()) >= low_mark_pages:
        if time.monotonic() > deadline:
            raise SystemExit(f"TCP uses {used_pages} pages, more than tcp_mem's low mark: sockets of whom? See ss -tmp")
        time.sleep(1)


def _tcp_memory_pages() -> int:
    found = re.search(r"^TCP:.* mem (\d+)", Path("/proc/net/sockstat").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1])
