"""What works, in sentences: made of findings, so that a sentence never says more than was tried."""

from chadthrottle.doctor.check import Context
from chadthrottle.doctor.finding import Finding, Status

__all__ = ["what_works"]

_QUEUE, _LIMIT, _UP, _DOWN = "CT-ENF-01", "CT-ENF-02", "CT-ENF-04", "CT-ENF-05"
_WORKS = (Status.OK, Status.WARNING)

_PLACES = (
    ("at the root cgroup, the default", "CT-ATTACH-07", "CT-ATTACH-08"),
    ("at the program's own", "CT-ATTACH-05", "CT-ATTACH-06"),
    ("at one of doctor's making", "CT-ATTACH-02", "CT-ATTACH-04"),
)
"""Where, and the ids of the findings about a link and about a legacy attachment there."""


def what_works(context: Context) -> tuple[str, ...]:
    """Uploads, downloads, by which engine, at which attach point."""
    return (_uploads(context), _downloads(context), _attaching(context))


def _uploads(context: Context) -> str:
    finding = _finding(context, _UP)
    if context.status_of(_LIMIT) is not Status.OK or finding is None:
        return f"Uploads: {_not_shown(context)}"
    if finding.outcome.status in _WORKS:
        return f"Uploads: limited; TCP is paced, whatever else is policed ({_measured(finding)})."
    return "Uploads: limited, but not measured."


def _downloads(context: Context) -> str:
    finding = _finding(context, _DOWN)
    if context.status_of(_LIMIT) is not Status.OK or finding is None:
        queue = " A queue could be made." if context.status_of(_QUEUE) is Status.OK else ""
        return f"Downloads: {_not_shown(context)}{queue}"
    if finding.outcome.status not in _WORKS:
        return "Downloads: limited, but not measured."
    if "queued" in finding.outcome.summary:
        return f"Downloads: limited, in a queue that loses nothing on the way ({_measured(finding)})."
    return f"Downloads: limited by dropping packets, not queued ({_measured(finding)}); see {_QUEUE}."


def _attaching(context: Context) -> str:
    """Places of which the same holds are told together."""
    told: dict[str, list[str]] = {}
    for where, by_link, legacy in _PLACES:
        how = _ways(context, by_link, legacy)
        if how:
            told.setdefault(how, []).append(where)
    sentences = [f"{how} {_joined(places)}" for how, places in told.items()]
    return f"Attaching: {'; '.join(sentences)}." if sentences else f"Attaching: {_not_shown(context)}"


def _ways(context: Context, by_link: str, legacy: str) -> str:
    ways = {"by link": context.status_of(by_link), "without one (legacy)": context.status_of(legacy)}
    works = [way for way, status in ways.items() if status is Status.OK]
    failed = [way for way, status in ways.items() if status is Status.FAILED]
    if works:
        return " and ".join(works) + (f", not {' or '.join(failed)}," if failed else "")
    return "not possible" if failed else ""


def _joined(places: list[str]) -> str:
    return " and ".join([", ".join(places[:-1]), places[-1]] if len(places) > 1 else places)


def _not_shown(context: Context) -> str:
    """Whose fault it is that nothing can be said."""
    limit = _finding(context, _LIMIT)
    if limit is not None and limit.outcome.status is Status.FAILED:
        return f"no limit can be set here, see {_LIMIT}."
    if limit is not None and limit.outcome.because:
        return f"could not be tried, because of {limit.outcome.because}."
    return "not tried."


def _measured(finding: Finding) -> str:
    return finding.outcome.summary.partition(" (")[2].partition(")")[0] + " of what was asked"


def _finding(context: Context, check_id: str) -> Finding | None:
    return next((each for each in context.findings if each.id == check_id), None)
