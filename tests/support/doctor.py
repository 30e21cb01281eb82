"""`chadthrottle doctor` in surroundings that a test has spoiled: which cause does it name?

spoiled = diagnose(chadthrottle, pid, setup="umount -l /sys/fs/bpf")
spoiled.names_only("CT-CGROUP-03", "EROFS", "/sys/fs/bpf")
"""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.support.command import Command
from tests.support.patience import FACTOR
from tests.support.readable import readable_package

__all__ = ["TOO_SLOW", "Diagnosis", "causes", "diagnose", "sleeping", "without_root"]

NOBODY = 65534

# An emulated processor does not always carry the 32 Mbit/s that are asked for, and doctor rightly says so.
TOO_SLOW = ("CT-ENF-04", "CT-ENF-05") if FACTOR > 1 else ()


def causes(report: Mapping[str, Any]) -> list[str]:
    """The ids of the findings that say that something is wrong, and not because of another finding."""
    wrong = ("warning", "failed")
    found = [each["id"] for each in report["findings"] if each["status"] in wrong and not each["because"]]
    return [each for each in found if each not in TOO_SLOW]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A report of doctor's, and the exit status it came with."""

    status: int
    report: dict[str, Any]

    @property
    def causes(self) -> list[str]:
        return causes(self.report)

    def __getitem__(self, check_id: str) -> dict[str, Any]:
        return next(each for each in self.report["findings"] if each["id"] == check_id)

    def state(self, check_id: str) -> str:
        """One of ok, warning, failed, could not tell."""
        state: str = self[check_id]["status"]
        return state

    def text(self, check_id: str) -> str:
        """All that is said of it, the cure and the details included."""
        found = self[check_id]
        parts = [found["summary"], found["tried"], found["came_back"], found["means"]]
        return "\n".join(filter(None, [*parts, *found["cure"], *found["details"]]))

    def names_only(self, check_id: str, *words: str, status: int | None = None) -> None:
        """This is the one cause; the words are in what is said of it; a cure is offered."""
        assert self.causes == [check_id], self.in_short()
        text = self.text(check_id)
        for word in words:
            assert word in text, text
        assert self[check_id]["cure"], text
        if status is not None:
            assert self.status == status, self.in_short()

    def is_well(self, *ids: str) -> None:
        """No cause at all, and these checks are ok."""
        assert self.causes == [], self.in_short()
        assert self.status == 0, self.in_short()
        for each in ids:
            assert self.state(each) == "ok", self.text(each)

    def cure(self, check_id: str) -> str:
        """The commands that it says to copy, as a line for a shell of root's."""
        commands = [line.removeprefix("sudo ") for line in self[check_id]["cure"] if line.startswith("sudo ")]
        assert commands, self.text(check_id)
        return "; ".join(commands)

    def in_short(self) -> str:
        """For the message of a failed test: all that is not ok."""
        lines = [f"exit status {self.status}"]
        for each in self.report["findings"]:
            if each["status"] != "ok":
                because = f" (because of {each['because']})" if each["because"] else ""
                lines.append(f"{each['id']} {each['status']}{because}\n{self.text(each['id'])}")
        return "\n".join(lines)


def diagnose(
    chadthrottle: Command,
    *words: object,
    setup: str = "",
    wrapper: tuple[str, ...] = (),
    variables: Mapping[str, str] | None = None,
    as_started: bool = False,
) -> Diagnosis:
    """Run it; `setup` and `wrapper` as for Command. It is no fault of doctor's, whatever is spoiled.

    Forked, but for a wrapper, which needs something to execute, and where it is to be `as_started` by a user.
    """
    setup = setup.rstrip("; ")
    if wrapper or as_started:
        answer = chadthrottle("doctor", "--json", *words, setup=setup, wrapper=wrapper, variables=variables)
    else:
        answer = chadthrottle.forked("doctor", "--json", *words, setup=setup, variables=variables)
    assert "Traceback" not in answer.err, answer.err
    assert answer.out, (answer.status, answer.err)
    report = answer.json()
    assert answer.status == report["exit_code"], (answer.status, report["exit_code"])
    assert "CT-DOCTOR-01" not in causes(report), Diagnosis(answer.status, report).in_short()
    return Diagnosis(answer.status, report)


@contextmanager
def sleeping() -> Iterator[int]:
    """The PID of a program to ask about."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            yield process.pid
        finally:
            process.kill()


@contextmanager
def without_root() -> Iterator[tuple[str, ...]]:
    """A wrapper that runs the command as nobody.

    Nobody may not read every checkout, nor every interpreter's libraries: the package is a copy, and what it
    imports is imported before root is given up.
    """
    with readable_package() as package:
        program = (
            f"import os, sys; sys.path.insert(0, {str(package)!r}); import click, json, textwrap; "
            "import elftools.elf.structs, pyroute2, psutil, chadthrottle.netlink, chadthrottle.bpf.elf; "
            "import chadthrottle.doctor, chadthrottle.cli.doctor, chadthrottle.cli.doctor_text; "
            "import chadthrottle.cli as cli; "
            f"sys.argv = sys.argv[3:]; os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY}); "
            "sys.exit(cli.main())"
        )
        # The command as it is follows: three words, the last of which stands for the program's name.
        yield (sys.executable, "-c", program)
