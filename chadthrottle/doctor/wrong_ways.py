"""Known wrong ways to attach, tried on purpose: that they are refused tells why an earlier tool failed."""

import errno
import os
from collections.abc import Callable

from chadthrottle.bpf import attr
from chadthrottle.bpf.cgroupfs import open_cgroup
from chadthrottle.bpf.constants import AttachFlag, AttachType, BpfCmd, ProgType
from chadthrottle.bpf.errors import errno_name
from chadthrottle.bpf.programs import Program
from chadthrottle.bpf.syscall import bpf_errno
from chadthrottle.bpf.trials import Attempt, returns
from chadthrottle.doctor.check import Context
from chadthrottle.doctor.finding import Outcome, ok, warning
from chadthrottle.doctor.trial import load_minimal
from chadthrottle.doctor.trial_guard import MINIMAL
from chadthrottle.doctor.trial_place import first_place

__all__ = ["Probe", "flags_of_links", "return_values", "wrong_hook"]

Probe = Callable[[Context], Outcome]

_EGRESS, _INGRESS = AttachType.BPF_CGROUP_INET_EGRESS, AttachType.BPF_CGROUP_INET_INGRESS
_AS_TOLD = "limits do not do it, so nothing is wrong with them; but this kernel is not one that chadthrottle knows"
_CURE = ("Please report it, with what `sudo chadthrottle report FILE` collects.",)


def flags_of_links(context: Context) -> Outcome:
    """What took weeks once: BPF_F_ALLOW_MULTI is for the attachment without a link, links are always so."""
    with load_minimal(_EGRESS) as program:
        number = _link_create(context, program, _EGRESS, AttachFlag.BPF_F_ALLOW_MULTI)
    tried = "link_create(flags 2)"
    if number == errno.EINVAL:
        return ok(
            "refused with EINVAL, as it should be: links work; the earlier tool failed because it passed flags 2",
            details=(f"{tried}, BPF_F_ALLOW_MULTI: EINVAL; the same with flags 0: success",),
        )
    return _unexpected([(tried, number, "")])


def return_values(context: Context) -> Outcome:
    """The verifier bounds what a program may return by the hook it was loaded for."""
    del context
    wrong = (
        ("load for egress, returning 7 of at most 3", _load(_EGRESS, 7)),
        ("load for ingress, returning 2 of at most 1", _load(_INGRESS, 2)),
    )
    answers = [(what, number, log) for what, (number, log) in wrong]
    return _judged(answers, "the verifier refuses what a hook cannot return")


def wrong_hook(context: Context) -> Outcome:
    """A program is for the hook that its expected_attach_type names."""
    number, log = _load(AttachType.BPF_CGROUP_SOCK_OPS, 1)
    wrong = [("load a packet program for sock_ops", number, log)]
    # One that returns no more than 0 or 1 the kernel takes for either direction.
    with load_minimal(_EGRESS, result=2) as program:
        wrong.append(("link_create on ingress of an egress program", _link_create(context, program, _INGRESS), ""))
    return _judged(wrong, "a program runs on no other hook than it was loaded for")


def _load(declared: AttachType, result: int) -> tuple[int, str]:
    """The errno, and the verifier's last word."""
    attempt = Attempt(ProgType.BPF_PROG_TYPE_CGROUP_SKB, returns(result), declared, name=MINIMAL.encode())
    fd, number, log = attempt.load()
    if number == 0:
        os.close(fd)
    lines = [line for line in log.splitlines() if line and not line.startswith("processed ")]
    return number, lines[-1] if lines else ""


def _link_create(context: Context, program: Program, hook: AttachType, flags: int = 0) -> int:
    """The errno. What is attached all the same lets everything pass, and is detached at once."""
    with open_cgroup(first_place(context)) as directory:
        request = attr.LinkCreate(prog_fd=program.fd, target_fd=directory.fd, attach_type=hook, flags=flags)
        fd, number = bpf_errno(BpfCmd.BPF_LINK_CREATE, request)
    if number == 0:
        os.close(fd)
    return number


def _judged(wrong: list[tuple[str, int, str]], summary: str) -> Outcome:
    unexpected = [each for each in wrong if each[1] != errno.EINVAL]
    if unexpected:
        return _unexpected(unexpected)
    details = tuple(f"{what}: EINVAL{f': {log}' if log else ''}" for what, _, log in wrong)
    return ok(f"refused with EINVAL, as it should be: {summary}", details=details)


def _unexpected(wrong: list[tuple[str, int, str]]) -> Outcome:
    what, number, log = wrong[0]
    answer = errno_name(number) if number else "success"
    return warning(
        f"{what}: {answer}, and not EINVAL",
        tried="; ".join(each[0] for each in wrong),
        came_back=answer,
        means=_AS_TOLD,
        cure=_CURE,
        details=(log,) if log else (),
    )
