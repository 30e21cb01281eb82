"""Fixtures for every test, and the rules for those that need the kernel.

A test with the marker `kernel` (all of tests/kernel and tests/vm have it) runs as root, alone on this machine (see
support/kernel_lock.py), in a network namespace of its own, and leaves nothing behind (support/leftovers.py).
Without root it is skipped with the reason; with CHADTHROTTLE_REQUIRE_KERNEL_TESTS=1 its skip, whatever the
reason, is a failure.

Tests attach to `leaf_cgroup` or in `netns_pair`, never to the cgroup2 root or the machine's devices.
"""

import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.support import interrupted
from tests.support.bpffs import mount_bpffs, unmount_bpffs
from tests.support.cgroups import cgroup2_root, make_cgroup, remove_cgroup
from tests.support.command import Command
from tests.support.forked import Forker, forker
from tests.support.kernel_lock import kernel_lock
from tests.support.leftovers import Dying, Machine
from tests.support.network import Endpoint, entered_namespace, lonely_namespace, veth_pair
from tests.support.objects import build_objects, built_objects
from tests.support.throttled import Scene, scene

REQUIRE_KERNEL_TESTS = "CHADTHROTTLE_REQUIRE_KERNEL_TESTS"
TEST_OBJECTS = "CHADTHROTTLE_TEST_OBJECTS"
MARKER = "kernel"
FOLDERS = tuple(Path(__file__).parent / name for name in ("kernel", "vm"))


def pytest_configure() -> None:
    """Ctrl-C ends what tests start: a shell's background job ignores it, and so would its children."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _is_of_the_kernel(item.path):
            item.add_marker(MARKER)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    # An expected failure is reported as a skip, too.
    if report.skipped and not hasattr(report, "wasxfail") and item.get_closest_marker(MARKER):
        _require(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped and _is_of_the_kernel(collector.path):
        _require(report)
    return report


def _is_of_the_kernel(path: Path) -> bool:
    return any(path.is_relative_to(folder) for folder in FOLDERS)


def _require(report: pytest.TestReport | pytest.CollectReport) -> None:
    if os.environ.get(REQUIRE_KERNEL_TESTS) == "1":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{reason}\n{REQUIRE_KERNEL_TESTS}=1: a skipped kernel test is a failure"


@pytest.fixture(scope="session")
def alone_on_this_machine() -> Iterator[str]:
    """Holds the machine's kernel lock until the session ends. The name of a network namespace that kernel tests are in.

    A limit queues on the devices of its process's namespace: they must not be the machine's own.
    """
    with kernel_lock():
        for each in interrupted.clear():
            print(f"\nleft behind by an earlier run, removed: {each}", file=sys.stderr, flush=True)
        with lonely_namespace() as name:
            yield name


@pytest.fixture(scope="session")
def dying(alone_on_this_machine: str) -> Iterator[Dying]:  # noqa: ARG001 # nobody else's are seen
    """What the kernel has yet to free. What it does not free in time fails a later test, or the last one."""
    made = Dying()
    yield made
    _assert_nothing(made.rest())


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Of a kernel test: no program, map, BTF object, link, pin, cgroup, namespace or device."""
    if request.node.get_closest_marker(MARKER) is None:
        yield
        return
    if os.geteuid() != 0:
        pytest.skip(f"needs root, runs as uid {os.geteuid()}")
    namespace = request.getfixturevalue("alone_on_this_machine")
    dying: Dying = request.getfixturevalue("dying")
    before = Machine.now()
    _assert_nothing(dying.overdue(before))
    with entered_namespace(namespace):
        yield
    _assert_nothing(dying.after(request.node.nodeid, before))


def _assert_nothing(left: list[str]) -> None:
    assert not left, "left behind:\n  " + "\n  ".join(left)


@pytest.fixture
def leaf_cgroup() -> Iterator[Path]:
    """A cgroup of the test's own, directly below the cgroup2 root. Removed with all below and in it."""
    root = cgroup2_root()
    if root is None:
        pytest.skip("needs cgroup2, and none is mounted")
    path = make_cgroup(root)
    try:
        yield path
    finally:
        remove_cgroup(path)


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    """An empty bpffs of the test's own."""
    directory = tmp_path / "bpffs"
    directory.mkdir()
    mount_bpffs(directory)
    try:
        yield directory
    finally:
        unmount_bpffs(directory)


@pytest.fixture(scope="session")
def forks() -> Iterator[Forker]:
    """Runs command lines quickly. Of the session: before a test is in namespaces of its own."""
    with forker() as made:
        yield made


@pytest.fixture
def chadthrottle(bpffs: Path, forks: Forker) -> Command:
    """The command line, as a process, with pins in the test's own bpffs and objects that fit the sources."""
    built_objects("throttle")
    return Command(bpffs, forks)


@pytest.fixture
def netns_pair() -> Iterator[tuple[Endpoint, Endpoint]]:
    """Two network namespaces connected by a veth, with IPv4 and IPv6 addresses."""
    with veth_pair() as pair:
        yield pair


@pytest.fixture
def stage(netns_pair: tuple[Endpoint, Endpoint], leaf_cgroup: Path, bpffs: Path) -> Iterator[Scene]:
    """Programs that do as told in a cgroup of their own, a peer, and the commands that limit them."""
    with scene(netns_pair, leaf_cgroup, bpffs) as made:
        yield made


@pytest.fixture
def tcx() -> None:
    """Skips the test on a kernel without tcx."""
    from tests.support.needs import needs

    needs("tcx")


@pytest.fixture(scope="session")
def object_path(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Find an up-to-date debug object by name: of tests/objects ("minimal") or of ebpf/ ("traffic")."""
    # An emulated guest takes minutes to compile them all. What lies there is used only if its stamp fits.
    prepared = os.environ.get(TEST_OBJECTS)
    output = Path(prepared) if prepared else tmp_path_factory.mktemp("objects")
    built: dict[str, Path] = {}

    def find(name: str) -> Path:
        if not built:
            built.update(build_objects(output))
        return built[name]

    return find
