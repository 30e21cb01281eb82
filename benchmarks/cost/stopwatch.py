"""Times commands, one after the other: JSON on stdin, JSON on stdout.

    {"rounds": N, "cases": [{"name": …, "before": [[word, …], …], "command": [word, …]}, …]}

A process of its own, so that it can stand in the mount namespace in which the commands see private pins, and entering
that is not timed.
"""

import json
import subprocess
import sys
import time
from typing import Any


def main() -> None:
    """All cases in turn, `rounds` times after one that is not counted; milliseconds by name."""
    wanted: dict[str, Any] = json.load(sys.stdin)
    found: dict[str, list[float]] = {case["name"]: [] for case in wanted["cases"]}
    for number in range(wanted["rounds"] + 1):
        for case in wanted["cases"]:
            for words in case["before"]:
                _run(words)
            started = time.perf_counter()
            _run(case["command"])
            if number:
                found[case["name"]].append((time.perf_counter() - started) * 1e3)
    print(json.dumps(found))


def _run(words: list[str]) -> None:
    subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    main()
