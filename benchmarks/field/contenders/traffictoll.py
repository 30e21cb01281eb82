"""TrafficToll: a daemon that looks for a program's ports once a second and gives them HTB classes."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.accuracy.cells import Cell
from benchmarks.field.contenders.contender import Contender, ipv4_only
from benchmarks.field.contenders.htb import add_ifb
from benchmarks.field.place import BUILD, Place, Unavailable, run
from chadthrottle.model import Direction

__all__ = ["TRAFFICTOLL", "install"]

VENV = BUILD / "traffictoll"
PYTHON = VENV / "bin" / "python"
TT = VENV / "bin" / "tt"
PATIENCE_S, QUIET_S, ENDING_S = 15.0, 0.4, 5.0

# By what the program was told: to match its "pid", as the manual has it, fails in 1.5.0 (TypeError).
CONFIG = """\
processes:
  limited:
    {direction}: {rate}bit
    recursive: true
    match:
      - cmdline: '.*/{cgroup}[^0-9]'
"""


def install() -> None:
    """Into a virtual environment of its own. Raises CalledProcessError."""
    subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    pip = (str(PYTHON), "-m", "pip", "--quiet", "--disable-pip-version-check", "install")
    subprocess.run([*pip, "traffictoll"], check=True)


def _version() -> str:
    if not TT.exists():
        raise Unavailable("not installed (PyPI package traffictoll)")
    ask = "import importlib.metadata; print(importlib.metadata.version('traffictoll'))"
    return subprocess.run([str(PYTHON), "-c", ask], capture_output=True, text=True, check=True).stdout.strip()


@contextmanager
def _limit(place: Place, cell: Cell, _: int) -> Iterator[None]:
    add_ifb(place.near)  # which it would load a module for
    config, log = place.scratch / "tt.yaml", place.scratch / "tt.log"
    direction = "upload" if cell.direction is Direction.UP else "download"
    config.write_text(
        CONFIG.format(direction=direction, rate=cell.rate * 8, cgroup=place.limited.name), encoding="utf-8"
    )
    command = place.near.command(str(TT), place.near.device, str(config))
    with log.open("wb") as output:
        daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        (place.others / "cgroup.procs").write_text(str(daemon.pid), encoding="ascii")
        _wait_until_limited(place, daemon, log)
        yield
    finally:
        daemon.terminate()
        try:
            daemon.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def _wait_until_limited(place: Place, daemon: "subprocess.Popen[bytes]", log: Path) -> None:
    """Until it has found the program, and has made a filter for each of its ports."""
    deadline = time.monotonic() + PATIENCE_S
    filters, since = "", time.monotonic()
    while time.monotonic() < deadline:
        text = log.read_text(encoding="utf-8", errors="replace")
        if daemon.poll() is not None:
            errors = [line for line in text.splitlines() if "Error" in line] or ["no word why"]
            raise Unavailable(f"`tt` ended: {errors[-1].strip()}")
        if "Shaping traffic for" in text:
            now = _filters(place)
            if now != filters:
                filters, since = now, time.monotonic()
            elif time.monotonic() - since > QUIET_S:
                return
        time.sleep(0.05)
    raise Unavailable(f"`tt` did not find the program within {PATIENCE_S:g} s")


def _filters(place: Place) -> str:
    return "".join(run(place.near, "tc", "filter", "show", "dev", each) for each in (place.near.device, "ifb0"))


TRAFFICTOLL = Contender(
    "traffictoll",
    "TrafficToll",
    "`tt DEVICE CONFIG`, which has to go on running: it looks for the program's local ports once a second, and gives "
    "each a filter to an HTB class (behind an IFB device for downloads). IPv4 only.",
    _version,
    _limit,
    cannot=ipv4_only,
)
