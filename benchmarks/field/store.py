"""A run as JSON, so that page and picture can be made again without measuring."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.field.outcome import Delay, Outcome
from benchmarks.field.page import Run

__all__ = ["read_run", "write_run"]


def write_run(path: Path, run: Run) -> None:
    """Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(run), indent=1) + "\n", encoding="utf-8")


def read_run(path: Path) -> Run:
    """Raises OSError, and KeyError or TypeError for another version's."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    outcomes = [_outcome(each) for each in found.pop("outcomes")]
    compared = [(key, name, version, about) for key, name, version, about in found.pop("compared")]
    return Run(compared=compared, outcomes=outcomes, **found)


def _outcome(found: dict[str, Any]) -> Outcome:
    delays = {name: found[name] and Delay(**found[name]) for name in ("p50", "p99")}
    return Outcome(**found | delays | {"died": tuple(found["died"])})
