"""`python -m tools.stress [--seconds 60] [--seed N]`: exit 0 when the books balance, 1 when they do not."""

import argparse
import secrets
import signal
import sys

from tests.support.kernel_lock import kernel_lock
from tests.support.objects import built_objects
from tools.stress.run import stress


def main() -> int:
    """Run it, and say what was found."""
    parser = argparse.ArgumentParser(prog="python -m tools.stress", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long rules come and go (60)")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32), help="repeat a run's decisions")
    arguments = parser.parse_args()
    built_objects("throttle")
    print(f"{arguments.seconds:g} s with --seed {arguments.seed}", flush=True)
    # As Ctrl-C: what was made is taken away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with kernel_lock():
        result = stress(arguments.seconds, arguments.seed)
    for name, value in result.figures.items():
        print(f"  {name:28} {value:>14,}".replace(",", " "))
    for violation in result.violations:
        print(f"violated: {violation}")
    return 1 if result.violations else 0


if __name__ == "__main__":
    sys.exit(main())
