"""The command line as a user meets it: as a process, where nobody else's limits are.

All commands keep their pins in the /sys/fs/bpf that pid 1 sees, and tests must neither see the limits of
whoever owns this machine nor leave any there. No option or variable moves that place: a hidden one would be
a second way to be tested and kept safe. So the surroundings are moved instead: a command of a test runs in a
mount namespace of its own where the test's bpffs lies on /sys/fs/bpf, and where a symlink on an empty
filesystem over /proc/1 says that pid 1's root directory is this one.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.forked import Ended, Forker
from tests.support.patience import patient

__all__ = ["Answer", "Command"]

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-c", "from chadthrottle.__main__ import program; program()"]
LINES = 24
COLUMNS = 80


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command answered."""

    status: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        """The one line of JSON on standard output."""
        (line,) = self.out.splitlines()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def require_one_screen(self) -> None:
        """What it said fits a terminal of 80 columns and 24 lines, but for paths and lines to copy."""
        assert "Traceback" not in self.err
        for text in self.out, self.err:
            lines = text.splitlines()
            assert len(lines) <= LINES, text
            for line in lines:
                assert len(line) <= COLUMNS or line.startswith(("sudo ", "  ")) or " " not in line, line


@dataclass(frozen=True, slots=True)
class Command:
    """`chadthrottle` with its pins in `bpffs`."""

    bpffs: Path
    forker: Forker | None = None

    def line(self, *words: str, setup: str = "", wrapper: tuple[str, ...] = ()) -> list[str]:
        """The words to execute. `setup` is shell code to run in the mount namespace before, `wrapper` what
        then runs the command.
        """
        script = f'{self._surroundings(setup)}; exec "$@"'
        inside = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
        return [*inside, *wrapper, *PROGRAM, *words]

    def __call__(
        self,
        *words: object,
        setup: str = "",
        wrapper: tuple[str, ...] = (),
        stdin: str | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> Answer:
        """Run it to its end."""
        done = subprocess.run(
            self.line(*map(str, words), setup=setup, wrapper=wrapper),
            cwd=ROOT, env=environment(variables), input=stdin, capture_output=True, text=True, check=False,
            timeout=patient(30),
        )  # fmt: skip
        return Answer(done.returncode, done.stdout, done.stderr)

    def forked(self, *words: object, setup: str = "", variables: Mapping[str, str] | None = None) -> Answer:
        """As a child of a process that has imported all: 0.4 s less. What `setup` does to its own shell is lost."""
        ended, out, err = self.forked_until(patient(30), *words, setup=setup, variables=variables)
        assert ended.status >= 0, (ended, out, err)
        return Answer(ended.status, out, err)

    def forked_until(
        self, after_s: float, *words: object, setup: str = "", variables: Mapping[str, str] | None = None
    ) -> tuple[Ended, str, str]:
        """It is killed when so much time has passed."""
        assert self.forker is not None
        return self.forker(
            list(map(str, words)),
            script=self._surroundings(setup), variables=environment(variables), after_s=after_s,
        )  # fmt: skip

    def _surroundings(self, setup: str) -> str:
        return (
            f"set -e; mount --bind {shlex.quote(str(self.bpffs))} /sys/fs/bpf; "
            "mount -t tmpfs -o mode=755 ct-test-proc1 /proc/1; ln -s / /proc/1/root; "
            f"{setup or ':'}"
        )


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's, without what would change a command."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CHADTHROTTLE_", "SUDO_"))}
    return {**kept, "PYTHONPATH": str(ROOT), **(variables or {})}
