"""Feature probes against the running kernel: what they find, what its version promises, and how sure they are."""

import errno
import os
import resource
from pathlib import Path
from typing import Any

import pytest

from chadthrottle.bpf import features
from chadthrottle.bpf.constants import BpfCmd
from chadthrottle.bpf.errors import BpfError, NotSupportedError
from chadthrottle.bpf.features import FEATURES, Support, probe, require, supported
from chadthrottle.bpf.release import kernel_version, parse_release
from tests.support.children import in_child, keep_capabilities, refuse_bpf


@pytest.fixture(autouse=True)
def nothing_known_yet() -> None:
    features._known.clear()


@pytest.mark.parametrize("name", FEATURES)
def test_agrees_with_the_kernels_version(name: str) -> None:
    """A kernel that is new enough has it and an older one has not, as root and on mainline."""
    result = probe(name)
    promised = kernel_version()[:2] >= parse_release(FEATURES[name].since)[:2]
    assert result.support is (Support.SUPPORTED if promised else Support.UNSUPPORTED), result


def test_probes_leave_no_descriptor_open() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for name in FEATURES:
        probe(name)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_conclusive_answers_are_kept() -> None:
    first = probe("ringbuf")
    assert probe("ringbuf") is first


def test_inconclusive_answers_are_not() -> None:
    """Out of descriptors says nothing of the kernel, and passes."""

    def run() -> list[Any]:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        starved = [probe(name) for name in ("ringbuf", "btf", "prog_name", "sk_storage", "global_data")]
        refused = ""
        try:
            require("ringbuf")
        except BpfError as error:
            refused = str(error)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        return [
            {result.support.value for result in starved} == {"inconclusive"},
            {result.errno for result in starved} == {errno.EMFILE},
            refused,
            supported("ringbuf"),
        ]

    all_inconclusive, emfile, refused, later = in_child(run)
    assert all_inconclusive
    assert emfile
    assert "while trying ring buffers: EMFILE" in refused
    assert later


def test_without_privilege_nothing_is_concluded() -> None:
    """Commands on a descriptor that is not open are answered before privileges are asked for."""

    def run() -> list[Any]:
        support = {name: probe(name).support.value for name in FEATURES}
        try:
            require("cgroup_skb")
        except BpfError as error:
            return [support, error.exit_code, str(error)]
        return []

    support, code, text = in_child(run, before=keep_capabilities())
    assert "unsupported" not in support.values(), support
    assert support["cgroup_skb"] == support["ringbuf"] == support["tp_btf"] == "inconclusive"
    assert code == 3
    assert "sudo" in text


@pytest.mark.parametrize(
    ("first_refused", "missing"),
    [
        (BpfCmd.BPF_LINK_CREATE, {"cgroup_link", "iter", "tcx"}),
        (BpfCmd.BPF_MAP_LOOKUP_BATCH, {"cgroup_link", "iter", "tcx", "map_batch"}),
        (BpfCmd.BPF_MAP_FREEZE, {"cgroup_link", "iter", "tcx", "map_batch", "map_freeze"}),
    ],
)
def test_an_older_kernel(first_refused: BpfCmd, missing: set[str]) -> None:
    """One that answers EINVAL to commands it does not know."""

    def run() -> list[str]:
        return [name for name in FEATURES if not supported(name)]

    assert set(in_child(run, before=refuse_bpf(errno.EINVAL, first_refused))) == missing


def test_a_kernel_without_bpf() -> None:
    def run() -> list[str]:
        return [name for name in FEATURES if supported(name)]

    assert in_child(run, before=refuse_bpf(errno.ENOSYS)) == []


def test_what_is_missing_is_said_with_the_version_that_brought_it() -> None:
    def run() -> list[str]:
        try:
            require("cgroup_link")
        except NotSupportedError as error:
            return [error.feature, error.since, str(error)]
        return []

    feature, since, text = in_child(run, before=refuse_bpf(errno.EINVAL, BpfCmd.BPF_LINK_CREATE))
    assert (feature, since) == ("BPF links on cgroups", "5.7")
    assert text == "this kernel does not support BPF links on cgroups (it came with Linux 5.7)"


def test_unknown_names_are_the_callers_mistake() -> None:
    with pytest.raises(KeyError):
        probe("no_such_feature")


def test_the_version_is_the_kernels_own() -> None:
    assert os.uname().release.startswith(f"{kernel_version()[0]}.")
