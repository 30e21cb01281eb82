"""A doctor's report for people, and as JSON.

A stranger wants to know what works, what is wrong, and what to type: so what is fine takes one line a group unless
--verbose asks for all, and what is wrong is told in full, with its cure.
"""

from collections.abc import Iterator
from itertools import groupby

import click

from chadthrottle.cli.output import fitted
from chadthrottle.cli.settings import quiet
from chadthrottle.doctor import Finding, Report, Status
from chadthrottle.model import SCHEMA

__all__ = ["as_json", "as_text", "print_report", "print_report_json"]

_STATUS, _ID = 9, 16
_MOST_NAMED = 3
_INDENT = " " * 4
_BELOW = " " * (2 + _STATUS)
_WORDS = {Status.OK: "ok", Status.WARNING: "warning", Status.FAILED: "FAILED", Status.UNKNOWN: "?"}


def print_report(report: Report, *, verbose: bool) -> None:
    """With --quiet what is wrong, and the summary."""
    click.echo(as_text(report, verbose=verbose, quiet=quiet()))


def as_text(report: Report, *, verbose: bool, quiet: bool = False) -> str:
    """In lines of 80 columns, but for what is to be copied."""
    lines: list[str] = []
    for group, found in groupby(report.findings, key=lambda each: each.group):
        findings = list(found)
        if quiet and all(each.outcome.status is Status.OK for each in findings):
            continue
        lines.append(f"{group}")
        lines += _group(findings, verbose=verbose, quiet=quiet)
    lines += ["", *_summary(report)]
    return "\n".join(lines)


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


def _group(findings: list[Finding], *, verbose: bool, quiet: bool) -> Iterator[str]:
    fine = [each for each in findings if each.outcome.status is Status.OK]
    if fine and not verbose and not quiet:
        # What was removed, as asked for with --fix, is not to be missed.
        told = [each for each in fine if each.outcome.summary.startswith("removed")]
        checks = "1 check" if len(fine) == 1 else f"{len(fine)} checks"
        yield f"  {'ok':{_STATUS}}{checks}"
        for each in told:
            yield _head(each)
    because: dict[str, list[Finding]] = {}
    for finding in findings:
        outcome = finding.outcome
        if outcome.status is Status.OK and not verbose:
            continue
        if outcome.because and outcome.status is Status.UNKNOWN and not verbose:
            because.setdefault(outcome.because, []).append(finding)
            continue
        yield _head(finding)
        yield from _about(finding, verbose=verbose)
    for cause, hidden in because.items():
        names = ", ".join(each.id for each in hidden) if len(hidden) <= _MOST_NAMED else f"{len(hidden)} checks"
        yield fitted(f"  {'?':{_STATUS}}not tried because of {cause}: {names}", _BELOW)


def _head(finding: Finding) -> str:
    outcome = finding.outcome
    because = f" (because of {outcome.because})" if outcome.because else ""
    head = f"  {_WORDS[outcome.status]:{_STATUS}}{finding.id:{_ID}}{finding.what}: {outcome.summary}{because}"
    return fitted(head, _BELOW)


def _about(finding: Finding, *, verbose: bool) -> Iterator[str]:
    outcome = finding.outcome
    told = ("tried", outcome.tried), ("came back", outcome.came_back), ("means", outcome.means)
    for name, value in told:
        # A thing that merely could not be told is no reason to read on, unless that is what somebody wants to know.
        if value and (outcome.status in (Status.WARNING, Status.FAILED) or verbose):
            yield fitted(f"{_BELOW}{name + ':':11}{value}", _BELOW + " " * 11)
    if outcome.cure and (outcome.status is not Status.UNKNOWN or verbose):
        yield f"{_BELOW}what to do:"
        yield from (_cure(line) for line in outcome.cure)
    if verbose:
        yield from (f"{_BELOW}| {line}" for line in outcome.details)


def _cure(line: str) -> str:
    """Commands stand alone on their line, unbroken, to be copied."""
    if line.startswith(("sudo ", "  ")):
        return f"{_BELOW}  {line.strip()}"
    return fitted(f"{_BELOW}{line}", _BELOW)


def _summary(report: Report) -> Iterator[str]:
    for line in report.works:
        yield fitted(line, _INDENT)
    causes = [each for each in report.findings if each.is_cause]
    wrong = [each.id for each in causes if each.outcome.status is Status.FAILED]
    warnings = [each.id for each in causes if each.outcome.status is Status.WARNING]
    unknown = [
        each.id for each in report.findings if each.outcome.status is Status.UNKNOWN and not each.outcome.because
    ]
    if wrong:
        yield fitted(f"Wrong: {', '.join(wrong)}.", _INDENT)
    if warnings:
        yield fitted(f"Worth a look: {', '.join(warnings)}.", _INDENT)
    if unknown:
        yield fitted(f"Could not be told: {', '.join(unknown)} (--verbose says why).", _INDENT)
    if not wrong and not warnings:
        yield "Nothing is wrong." if not unknown else "Nothing else is wrong."
    elif causes:
        yield "docs/troubleshooting.md explains each of them."
