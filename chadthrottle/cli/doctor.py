"""`chadthrottle doctor [PID]`."""

import os

import click

from chadthrottle.cli.options import ROOT_VARIABLE, PidCommand
from chadthrottle.cli.settings import common_options

__all__ = ["command"]


@click.command("doctor", cls=PidCommand)
@click.argument("pid", required=False)
@click.option("--fix", is_flag=True, help="Remove what chadthrottle itself has left behind, and nothing else.")
@click.option("--verbose", is_flag=True, help="Show every check, with what was tried and what came back.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable, schema 1.")
@common_options
def command(pid: str | None, fix: bool, verbose: bool, as_json: bool) -> int:
    """Find out by trying why a limit does not work, and say what cures it. Nothing is changed without --fix.

    With PID, the cgroup and the sockets of that program are looked at, too. The exit status is 0 when all is well,
    3 when something is not permitted, 5 when the kernel or the set-up cannot, 1 for a bug in doctor itself.
    """
    from chadthrottle.cli.doctor_text import print_report, print_report_json
    from chadthrottle.doctor import examine
    from chadthrottle.procs import parse_pid

    number = None if pid is None else parse_pid(pid, "sudo chadthrottle doctor {pid}")
    report = examine(number, only_root=os.environ.get(ROOT_VARIABLE) == "1", fix=fix)
    (print_report_json if as_json else lambda found: print_report(found, verbose=verbose))(report)
    return report.exit_code
