"""`chadthrottle report FILE`."""

import os
from pathlib import Path

import click

from chadthrottle.cli.options import ROOT_VARIABLE, PidCommand
from chadthrottle.cli.output import say, show
from chadthrottle.cli.settings import common_options

__all__ = ["command"]

_IS_WHAT = {
    "README.txt": "what is in the archive",
    "doctor.txt": "what chadthrottle doctor says, in full",
    "doctor.json": "the same, for programs",
    "versions.txt": "chadthrottle, Python, libraries, kernel",
    "kernel-config.txt": "options for BPF, cgroups, queues",
    "cgroups.txt": "the cgroup tree",
    "programs.txt": "BPF programs, and where attached",
    "links.txt": "BPF links, and where attached",
    "limits.json": "what chadthrottle list --json says",
    "verifier.txt": "what the verifier says of our objects",
    "kernel-log.txt": "its lines about BPF and cgroups",
}


@click.command("report", cls=PidCommand)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--pid", help="The program that is not limited as it should be: its cgroup is looked at.")
@common_options
def command(file: Path, pid: str | None) -> None:
    """Collect what a bug report needs in FILE, a tar.gz. Nothing is sent anywhere; FILE is never overwritten.

    Home directories, host and user names, addresses and command lines are replaced. Without root there is less in it.
    """
    from chadthrottle.cli.doctor_text import as_json, as_text
    from chadthrottle.doctor import examine
    from chadthrottle.doctor.report import collect, people, require_free, write
    from chadthrottle.procs import parse_pid

    number = None if pid is None else parse_pid(pid, "sudo chadthrottle report FILE --pid {pid}")
    require_free(file)  # before anything is tried
    found = examine(number, only_root=os.environ.get(ROOT_VARIABLE) == "1")
    redact = people()
    members = collect(found, as_text(found, verbose=True) + "\n", as_json(found) + "\n", redact, number)
    say(f"{file} is going to hold:")
    for name, text in members.items():
        missing = f" ({text.splitlines()[0]})" if text.startswith("not available") else ""
        say(f"  {name:20}{len(text.encode()):>8} bytes  {_IS_WHAT[name]}{missing}", " " * 4)
    say(f"{redact.summary()} No command line of any process was read.")
    write(file, members)
    show(f"Written: {file} (for its owner alone). Look through it before you send it.")
