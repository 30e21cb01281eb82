"""What a page of results was measured on."""

import os
import platform
from collections.abc import Iterable
from pathlib import Path

__all__ = ["machine"]


def machine() -> str:
    """Processors, kernel and Python."""
    lines: Iterable[str] = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
    return f"{os.cpu_count()} CPUs, {model}, Linux {platform.release()}, Python {platform.python_version()}"
