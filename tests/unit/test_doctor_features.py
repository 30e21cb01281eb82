"""doctor, BPF features: what the answers of trials amount to."""

import errno
from contextlib import ExitStack
from pathlib import Path

import pytest

from chadthrottle.bpf.features import FEATURES, Support, TrialResult
from chadthrottle.doctor import features
from chadthrottle.doctor.check import Context
from chadthrottle.doctor.features import _ABILITIES, CHECKS
from chadthrottle.doctor.finding import Finding, Group, Need, Outcome, Status, failed


def examined(
    number: str, answers: dict[str, TrialResult], monkeypatch: pytest.MonkeyPatch, *before: Finding
) -> Outcome:
    """The kernel answers as it would where `answers` are the case; there is only one kernel here to try."""
    monkeypatch.setattr(features, "probe", lambda name: answers.get(name, TrialResult(Support.SUPPORTED)))
    context = Context(base=Path("/"), stack=ExitStack(), findings=list(before))
    return next(each for each in CHECKS if each.id == f"CT-BPF-{number}").run(context)


LACKING = TrialResult(Support.UNSUPPORTED, errno.EINVAL)
REFUSED = TrialResult(Support.INCONCLUSIVE, errno.EPERM)


def test_every_feature_named_exists() -> None:
    named = [name for each in _ABILITIES for name in each.features]
    assert set(named) <= set(FEATURES)
    assert len(named) == len(set(named)), "a feature that two checks try is two causes when it lacks"


@pytest.mark.parametrize("ability", _ABILITIES, ids=lambda each: each.number)
def test_what_a_missing_feature_amounts_to(ability: features._Ability, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ability.features:
        outcome = examined(ability.number, {name: LACKING}, monkeypatch)
        wanted = Status.FAILED
        if ability.fallback:
            wanted = Status.OK if ability.equal else Status.WARNING
        assert outcome.status is wanted
        assert FEATURES[name].what in outcome.summary
        if wanted is not Status.OK:
            assert "EINVAL" in outcome.came_back
            assert FEATURES[name].since in " ".join(outcome.cure)
        assert bool(outcome.blocks) == (wanted is Status.FAILED)


def test_cgroup_programs_missing_names_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = examined("03", {"cgroup_skb": LACKING}, monkeypatch)
    assert "CONFIG_CGROUP_BPF" in " ".join(outcome.cure)
    assert {Need.LEAF, Need.ROOT_CGROUP, Need.TARGET_CGROUP} <= outcome.blocks


def test_refused_to_who_lacks_nothing_is_a_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = examined("03", {"cgroup_skb": REFUSED}, monkeypatch)
    assert outcome.status is Status.FAILED
    assert outcome.permission
    assert "security module" in outcome.means


def test_no_memory_is_no_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = examined("07", {"sk_storage": TrialResult(Support.INCONCLUSIVE, errno.ENOMEM)}, monkeypatch)
    assert outcome.status is Status.FAILED
    assert not outcome.permission
    assert "ENOMEM" in outcome.came_back


def test_without_btf_its_followers_are_no_second_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = failed("gone", tried="", came_back="", means="", cure=())
    before = Finding("CT-SYS-03", Group.SYSTEM, "BTF", gone)
    outcome = examined("08", {"tp_btf": LACKING}, monkeypatch, before)
    assert outcome.status is Status.UNKNOWN
    assert outcome.because == "CT-SYS-03"
