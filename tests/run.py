"""All but the long ones: those of the kernel on this terminal, and beside them the others, whose output is shown after.

    python tests/run.py

The others measure nothing, and give way: with nice 10 they have a tenth of the processor that a kernel test wants,
and all of it while that waits. With 19 it would be a hundredth, and what they wait for would not come in time.
"""

import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
KERNEL, OTHERS = ("tests/kernel",), ("tests/unit", "tests/e2e")


def main() -> int:
    """The status of the kernel's tests; if those passed, the others'."""
    # Ctrl-C is for both of pytest, which have it from the terminal, too, and clean up; here they are waited for.
    signal.signal(signal.SIGINT, lambda *_: None)
    color = "--color=yes" if sys.stdout.isatty() else "--color=no"
    # One of the two may write the cache; and should we be killed, nobody waits for the others.
    beside = ("setpriv", "--pdeathsig", "TERM", "nice", "-n", "10")
    others = pytest(*OTHERS, "-p", "no:cacheprovider", color)
    with tempfile.TemporaryFile() as output:
        with subprocess.Popen(
            [*beside, *others], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        ) as running:
            status = subprocess.Popen(pytest(*KERNEL, "-m", "not long"), cwd=ROOT).wait()
        output.seek(0)
        print("+", shlex.join(others), flush=True)
        sys.stdout.buffer.write(output.read())
        sys.stdout.flush()
    return exit_status(status) or exit_status(running.returncode)


def pytest(*words: str) -> list[str]:
    return [sys.executable, "-m", "pytest", *words]


def exit_status(returncode: int) -> int:
    """As a shell tells it."""
    return returncode if returncode >= 0 else 128 - returncode


if __name__ == "__main__":
    sys.exit(main())
