"""From how a trial ended to a finding."""

from collections.abc import Callable

from chadthrottle.bpf.errors import BpfError, errno_name
from chadthrottle.doctor.finding import Outcome, Status, failed, ok, unknown
from chadthrottle.doctor.trial_place import Place
from chadthrottle.doctor.trial_steps import Method, NoNetworkError, StepError
from chadthrottle.errors import ChadthrottleError

__all__ = ["as_warning", "verdict"]

_CHAIN: dict[Method, str] = {
    "link": "load, link_create(flags 0), read back, count a packet, drop one, detach",
    "legacy": "load, prog_attach(BPF_F_ALLOW_MULTI), read back, count a packet, drop one, prog_detach",
}
_AGAIN = "Whoever removed it (the end of its service, say) did so while doctor was at it. Try again:"


def verdict(
    run: Callable[[], list[str]], place: Place, method: Method, *, details: tuple[str, ...] = (), pid: int | None = None
) -> Outcome:
    """What `run` found out; `details` are told with it. `pid` is for the command that tries again."""
    try:
        told = run()
    except StepError as error:
        return _stopped(error, place, method, pid)
    except NoNetworkError as error:
        return unknown(f"no private network to try it in: {error.message}", cure=(error.hint,) if error.hint else ())
    except BpfError as error:
        refused = StepError(error.command, errno_name(error.errno), error.message, number=error.errno, hint=error.hint)
        refused.exit_code = error.exit_code
        return _stopped(refused, place, method, pid)
    except ChadthrottleError as error:  # a process of ours was killed, as with the cgroup that it was in
        return _stopped(StepError("sending packets", "SIGKILL", error.message), place, method, pid)
    aside = next((f"; {each}" for each in told if "keeps packets back" in each), "")
    return ok(f"works{aside}", details=(*details, *told))


def as_warning(outcome: Outcome, because: str, *cure: str) -> Outcome:
    """`outcome`, if it failed, as something that limits can do without: `because`."""
    if outcome.status is not Status.FAILED:
        return outcome
    return outcome._replace(
        status=Status.WARNING,
        means=f"{outcome.means}. {because}",
        cure=(*cure, *outcome.cure),
        blocks=frozenset(),
        permission=False,
    )


def _stopped(error: StepError, place: Place, method: Method, pid: int | None) -> Outcome:
    removed = not place.path.exists()
    if removed:
        summary, means = f"{place.what} was removed while it was tried", "nothing can be attached to what is gone"
        cure: tuple[str, ...] = (_AGAIN, f"sudo chadthrottle doctor {'' if pid is None else pid}".strip())
    else:
        summary, means = f"{error.step} is refused on {place.what}", error.means
        cure = (*_lines(error.hint), *place.cure)
    return failed(
        summary,
        tried=f"{_CHAIN[method]}, on {place.path}",
        came_back=f"{error.came_back} at {error.step}",
        means=means,
        cure=cure,
        blocks=place.blocks,
        permission=error.exit_code == 3,
    )


def _lines(hint: str | None) -> tuple[str, ...]:
    """A hint's commands, which are indented there."""
    lines = hint.split("\n") if hint else []
    return tuple(f"sudo {line.strip()}" if line.startswith("  ") else line for line in lines)
