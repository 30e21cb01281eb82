"""A doctor's report for people, and as JSON."""

from collections.abc import Iterator
from itertools import groupby

import click

from chadthrottle.cli.output import say, show
from chadthrottle.doctor import Finding, Report, Status
from chadthrottle.model import SCHEMA

__all__ = ["as_json", "print_report", "print_report_json"]

_INDENT = " " * 4
_WORDS = {Status.OK: "ok", Status.WARNING: "warning", Status.FAILED: "FAILED", Status.UNKNOWN: "?"}


def print_report(report: Report, *, verbose: bool) -> None:
    """Groups, one line a finding; what is wrong with all that was found out about it."""
    for group, findings in groupby(report.findings, key=lambda each: each.group):
        say(f"{group}")
        for finding in findings:
            tell = say if finding.outcome.status is Status.OK else show
            for line in _lines(finding, verbose=verbose):
                tell(line, _INDENT * 2)
    show("")
    for line in _summary(report):
        show(line, _INDENT)


def print_report_json(report: Report) -> None:
    """In one line."""
    click.echo(as_json(report))


def as_json(report: Report) -> str:
    """docs/cli.md has the schema."""
    import json

    findings = [_as_dict(each) for each in report.findings]
    return json.dumps(
        {"schema": SCHEMA, "exit_code": report.exit_code, "works": list(report.works), "findings": findings}
    )


def _as_dict(finding: Finding) -> dict[str, object]:
    outcome = finding.outcome
    return {
        "id": finding.id,
        "group": finding.group.value,
        "what": finding.what,
        "status": outcome.status.value,
        "summary": outcome.summary,
        "tried": outcome.tried or None,
        "came_back": outcome.came_back or None,
        "means": outcome.means or None,
        "cure": list(outcome.cure),
        "because": outcome.because or None,
        "details": list(outcome.details),
    }


def _lines(finding: Finding, *, verbose: bool) -> Iterator[str]:
    outcome = finding.outcome
    because = f" (see {outcome.because})" if outcome.because else ""
    yield f"  {_WORDS[outcome.status]:8}{finding.id:16}{finding.what}: {outcome.summary}{because}"
    if outcome.status is not Status.OK or verbose:
        told = ("tried", outcome.tried), ("came back", outcome.came_back), ("means", outcome.means)
        for name, value in told:
            if value:
                yield f"{_INDENT * 2}{name}: {value}"
    for line in outcome.cure:
        yield line if line.startswith("sudo ") else f"{_INDENT * 2}do: {line}"
    if verbose:
        yield from (f"{_INDENT * 2}| {line}" for line in outcome.details)


def _summary(report: Report) -> Iterator[str]:
    yield from report.works
    causes = [each for each in report.findings if each.is_cause]
    wrong = [each.id for each in causes if each.outcome.status is Status.FAILED]
    warnings = [each.id for each in causes if each.outcome.status is Status.WARNING]
    unknown = [each.id for each in report.findings if each.outcome.status is Status.UNKNOWN]
    if wrong:
        yield f"Wrong: {', '.join(wrong)}."
    if warnings:
        yield f"Worth a look: {', '.join(warnings)}."
    if unknown:
        yield f"Could not be told: {', '.join(unknown)}."
    if not wrong and not warnings:
        yield "Nothing is wrong." if not unknown else "Nothing else is wrong."
