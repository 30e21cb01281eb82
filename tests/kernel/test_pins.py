"""The directory of pins: mounting, locking, committing, removing, refusing. In a bpffs of the test's own."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chadthrottle.bpf.cgroup_link import attach_cgroup
from chadthrottle.bpf.cgroupfs import mounts
from chadthrottle.bpf.constants import AttachType, MapType
from chadthrottle.bpf.errors import BpfError
from chadthrottle.bpf.links import links_of_program
from chadthrottle.bpf.maps import Map
from chadthrottle.errors import ChadthrottleError, KernelCannotError
from chadthrottle.pins import BusyError, ForeignContentError, Pins
from chadthrottle.pins.errors import refused
from chadthrottle.pins.mount import ensure_mounted, is_bpffs
from tests.support.children import in_child
from tests.support.raw_programs import load_for

PROJECT = Path(__file__).parents[2]
NOBODY = 65534
fork = multiprocessing.get_context("fork")


@pytest.fixture
def unlocked(bpffs: Path) -> Pins:
    return Pins(3, bpffs / "chadthrottle")


@pytest.fixture
def pins(unlocked: Pins) -> Iterator[Pins]:
    """With the lock held."""
    with unlocked.lock(create=True):
        yield unlocked


def small_map() -> Map:
    return Map.create("ct_test", MapType.BPF_MAP_TYPE_ARRAY, 4, 8, 1)


def install(pins: Pins, name: str = "rules") -> None:
    with small_map() as made, pins.stage() as stage:
        stage.pin(made, name)


def refusal(action: Callable[[], Any]) -> tuple[type[ChadthrottleError], int, str]:
    with pytest.raises(ChadthrottleError) as caught:
        action()
    assert len(str(caught.value).splitlines()) < 24
    return type(caught.value), caught.value.exit_code, str(caught.value)


def lock(pins: Pins) -> None:
    with pins.lock(create=True):
        pass


def tree(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


# --- locking


def test_nothing_there_needs_no_lock_and_makes_nothing(unlocked: Pins) -> None:
    with unlocked.lock(create=False) as held:
        assert not held
        assert (unlocked.current, unlocked.versions(), unlocked.unfinished(), unlocked.names("maps")) == (
            False,
            [],
            [],
            [],
        )
        assert [unlocked.map("rules"), unlocked.link("x"), unlocked.program("x")] == [None, None, None]
    assert not unlocked.base.exists()


def test_the_directory_is_ours_alone(unlocked: Pins) -> None:
    with unlocked.lock(create=True) as held:
        assert held
        assert unlocked.base.stat().st_mode & 0o7777 == 0o700
        install(unlocked)
    assert {path.stat().st_mode & 0o777 for path in unlocked.base.rglob("*") if path.is_dir()} == {0o700}
    with unlocked.lock(create=False) as held:
        assert held


def test_a_second_command_waits(unlocked: Pins) -> None:
    with unlocked.lock(create=True):
        held_until = fork.Value("d", 0.0)
        got_at = fork.Value("d", 0.0)

        def second() -> None:
            with unlocked.lock(create=True):
                got_at.value = time.monotonic()

        other = fork.Process(target=_closing_inherited_locks, args=(unlocked.base, second))
        other.start()
        time.sleep(0.2)
        assert got_at.value == 0
        held_until.value = time.monotonic()
    other.join(10)
    assert other.exitcode == 0
    assert got_at.value >= held_until.value


def _closing_inherited_locks(base: Path, action: Callable[[], None]) -> None:
    """A forked child shares its parent's lock: let go of our half."""
    wanted = base.stat()
    for name in os.listdir("/proc/self/fd"):
        try:
            found = os.fstat(int(name))
        except OSError:
            continue
        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            os.close(int(name))
    action()


def test_who_waits_too_long_learns_for_whom(unlocked: Pins) -> None:
    script = "import sys, time; from pathlib import Path; from chadthrottle.pins import Pins\n\
with Pins(3, Path(sys.argv[1])).lock(create=True): print(flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(unlocked.base)], stdout=subprocess.PIPE, cwd=PROJECT
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with (
            pytest.raises(BusyError, match=rf"\(PID {other.pid}\)") as caught,
            unlocked.lock(create=True, timeout_s=0.05),
        ):
            pass
        assert caught.value.exit_code == 1
        other.kill()  # and the lock goes with it
        lock(unlocked)


def _work(base: Path, counter: Path, rounds: int) -> None:
    pins = Pins(3, base)
    for _ in range(rounds):
        with pins.lock(create=True):
            count = int(counter.read_text())
            if not pins.current:
                install(pins)
            with pins.map("rules") as rules:  # type: ignore[union-attr] # current means that it is there
                assert rules.max_entries == 1
            if count % 3 == 0:
                pins.remove_all()
            counter.write_text(str(count + 1))


def test_the_lock_holds_while_the_directory_comes_and_goes(unlocked: Pins, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    workers = [fork.Process(target=_work, args=(unlocked.base, counter, 40)) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 6
    assert counter.read_text() == "240"


def test_who_only_looks_sees_it_or_not_while_it_comes_and_goes(unlocked: Pins) -> None:
    going = fork.Event()
    other = fork.Process(target=_come_and_go, args=(unlocked.base, going))
    other.start()
    try:
        assert going.wait(5)
        seen: set[bool] = set()
        end = time.monotonic() + 10
        while len(seen) < 2 or time.monotonic() < end - 9:
            assert time.monotonic() < end, seen
            with unlocked.lock(create=False) as there:
                seen.add(there)
    finally:
        other.kill()
        other.join()
    with unlocked.lock(create=True):
        pass


def _come_and_go(base: Path, going: Any) -> None:
    pins = Pins(3, base)
    while True:
        with pins.lock(create=True):
            going.set()


def test_no_descriptor_is_left_open(unlocked: Pins) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with unlocked.lock(create=True):
        install(unlocked)
        unlocked.remove_all()
    unlocked.base.mkdir(mode=0o700)
    unlocked.base.chmod(0o777)
    refusal(lambda: lock(unlocked))
    assert len(os.listdir("/proc/self/fd")) == before


# --- committing


def test_what_was_pinned_is_found_again(pins: Pins, leaf_cgroup: Path) -> None:
    hook = AttachType.BPF_CGROUP_INET_EGRESS
    with load_for(hook) as program, small_map() as made:
        program_id, map_id = program.info().id, made.info().id
        with attach_cgroup(program, leaf_cgroup, hook) as link, pins.stage() as stage:
            stage.pin(link, "egress")
            stage.pin(program, "egress")
            stage.pin(made, "rules")
            assert not pins.current
            assert pins.unfinished() == [3]
    assert pins.current
    assert tree(pins.base) == [
        "v3", "v3/links", "v3/links/egress", "v3/maps", "v3/maps/rules", "v3/programs", "v3/programs/egress",
    ]  # fmt: skip
    assert pins.names("links") == ["egress"]
    found_map, found_program, found_link = pins.map("rules"), pins.program("egress"), pins.link("egress")
    assert found_map is not None
    assert found_program is not None
    assert found_link is not None
    with found_map, found_program, found_link:
        assert found_map.info().id == map_id
        assert found_program.info().id == found_link.program_id == program_id
    assert pins.map("other") is None
    pins.remove_all()
    assert not list(links_of_program(program_id))


def test_a_link_knows_where_its_pin_went(pins: Pins, leaf_cgroup: Path) -> None:
    hook = AttachType.BPF_CGROUP_INET_INGRESS
    with load_for(hook) as program:
        link = attach_cgroup(program, leaf_cgroup, hook)
        with pins.stage() as stage:
            stage.pin(link, "ingress")
        assert link.pinned_at == pins.directory / "links/ingress"
        link.detach()
    assert pins.names("links") == []


def test_pins_can_be_added_and_taken_away(pins: Pins) -> None:
    install(pins)
    with small_map() as another:
        pins.pin(another, "more")
        with pytest.raises(BpfError) as caught:
            pins.pin(another, "more")
        assert caught.value.errno == errno.EEXIST
    assert pins.names("maps") == ["more", "rules"]
    assert pins.unpin("maps", "more")
    assert not pins.unpin("maps", "more")


@pytest.mark.parametrize("name", ["a.b", "", "a/b", "..", "a b", "x" * 129])
def test_a_name_bpffs_cannot_have(pins: Pins, name: str) -> None:
    with pytest.raises(ValueError, match="no name for a pin"):
        pins.map(name)


def test_a_failure_on_the_way_leaves_nothing(pins: Pins) -> None:

    def fail() -> None:
        with small_map() as made, pins.stage() as stage:
            stage.pin(made, "rules")
            assert tree(stage.directory) == ["links", "maps", "maps/rules", "programs"]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert tree(pins.base) == []


def test_a_version_that_is_there_is_not_replaced_in_silence(pins: Pins) -> None:
    install(pins)
    with pytest.raises(FileExistsError), pins.stage():
        pass
    assert pins.names("maps") == ["rules"]


@pytest.mark.parametrize("pinned", [0, 1])
def test_killed_on_the_way_nothing_is_there_and_the_next_sweeps(unlocked: Pins, pinned: int) -> None:
    pid = os.fork()
    if pid == 0:
        with unlocked.lock(create=True), small_map() as made, unlocked.stage() as stage:
            if pinned:
                stage.pin(made, "rules")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    with unlocked.lock(create=False):
        assert (unlocked.current, unlocked.unfinished()) == (False, [3])
        assert unlocked.sweep() == [3]
        assert tree(unlocked.base) == []
        install(unlocked)


# --- removing


def test_versions_side_by_side(pins: Pins) -> None:
    older, newer = Pins(2, pins.base), Pins(11, pins.base)
    for each in (newer, older, pins):
        install(each)
    assert pins.versions() == [2, 3, 11]
    assert pins.remove(2)
    assert not pins.remove(2)
    assert pins.versions() == [3, 11]
    assert newer.names("maps") == ["rules"]
    pins.remove_all()
    assert tree(pins.base) == []
    pins.remove_all()


def test_the_directory_goes_with_the_lock(unlocked: Pins) -> None:
    lock(unlocked)
    assert not unlocked.base.exists()
    with unlocked.lock(create=True):
        install(unlocked)
    assert unlocked.base.exists()
    with unlocked.lock(create=False):
        unlocked.remove_all()
        # Still ours: nobody else gets in before the block ends.
        assert unlocked.base.exists()
    assert not unlocked.base.exists()


def test_killed_while_removing_the_rest_is_swept(pins: Pins) -> None:
    install(pins)
    (pins.base / "v3").rename(pins.base / "v3-part")
    (pins.base / "v3-part/maps/rules").unlink()
    (pins.base / "v3-part/maps").rmdir()
    assert not pins.current
    install(pins)
    assert (pins.versions(), pins.unfinished()) == ([3], [])


@pytest.mark.parametrize(
    "place", ["other", "v3x", "v03", "v3/other", "v3/maps/directory", "v3/maps/symlink", "v7/junk"]
)
def test_what_it_did_not_make_stops_it_before_it_begins(pins: Pins, place: str) -> None:
    install(pins)
    if place == "v7/junk":
        (pins.base / "v7").mkdir()
    if place.endswith("symlink"):
        (pins.base / place).symlink_to("/")
    else:
        (pins.base / place).mkdir()
    before = tree(pins.base)
    kind, code, text = refusal(pins.remove_all)
    assert (kind, code) == (ForeignContentError, 5)
    assert place.rpartition("/")[2] in text
    assert "nothing was removed" in text
    assert tree(pins.base) == before


def test_a_pin_of_another_user_is_foreign(pins: Pins) -> None:
    install(pins)
    os.chown(pins.directory / "maps/rules", NOBODY, NOBODY)
    assert refusal(lambda: pins.remove(3))[:2] == (ForeignContentError, 5)
    assert pins.current


# --- refusing


def test_read_only(unlocked: Pins, bpffs: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(bpffs)], check=True)
    kind, code, text = refusal(lambda: lock(unlocked))
    assert (kind, code) == (KernelCannotError, 5)
    assert "read-only" in text
    assert "remount,rw" in text
    subprocess.run(["mount", "-o", "remount,rw", str(bpffs)], check=True)
    with unlocked.lock(create=True):
        install(unlocked)
    with small_map() as another:
        subprocess.run(["mount", "-o", "remount,ro", str(bpffs)], check=True)
        assert refusal(lambda: unlocked.pin(another, "more"))[1] == 5
        assert "read-only" in refusal(lambda: unlocked.unpin("maps", "rules"))[2]
        assert "read-only" in refusal(unlocked.remove_all)[2]
        assert unlocked.names("maps") == ["rules"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOMEM, errno.EDQUOT])
def test_full(number: int) -> None:
    # bpffs has no size to exhaust, only memory; the message is all that can be tried.
    error = refused("pin", Path("/x"), number)
    assert error.exit_code == 5
    assert "full" in error.message


def test_not_permitted(unlocked: Pins, bpffs: Path, tmp_path: Path) -> None:
    for directory in (tmp_path, *tmp_path.parents[:3]):
        directory.chmod(directory.stat().st_mode | 0o111)
    with unlocked.lock(create=True):
        install(unlocked)

    def enter() -> None:
        with unlocked.lock(create=False):
            pass

    def answers() -> list[list[Any]]:
        actions: list[Callable[[], Any]] = [enter, lambda: lock(unlocked), lambda: Pins(1), unlocked.versions]
        return [list(refusal(action)[1:]) for action in actions]

    for mode in (0o755, 0o700):  # who is stopped by our directory, who by bpffs itself
        bpffs.chmod(mode)
        for code, text in in_child(answers, before=lambda: os.setuid(NOBODY)):
            assert code == 3
            assert "sudo" in text


def test_a_directory_somebody_else_made_first(unlocked: Pins, bpffs: Path) -> None:
    """bpffs is 1777 unless its mounter says otherwise."""
    bpffs.chmod(0o1777)
    unlocked.base.mkdir()
    os.chown(unlocked.base, NOBODY, NOBODY)
    kind, code, text = refusal(lambda: lock(unlocked))
    assert (kind, code) == (ForeignContentError, 5)
    assert f"uid {NOBODY}" in text
    os.chown(unlocked.base, 0, 0)
    unlocked.base.chmod(0o777)
    assert "others may write" in refusal(lambda: lock(unlocked))[2]
    unlocked.base.rmdir()
    unlocked.base.symlink_to("/etc")
    assert "not a directory" in refusal(lambda: lock(unlocked))[2]
    assert Path("/etc").is_dir()


def test_a_directory_outside_of_bpffs(tmp_path: Path) -> None:
    unlocked = Pins(1, tmp_path)
    kind, code, text = refusal(lambda: unlocked.lock(create=False))
    assert (kind, code) == (ForeignContentError, 5)
    assert "not on a bpffs" in text


# --- mounting


def test_mounted_if_missing_and_once(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    assert not is_bpffs(place)
    workers = [fork.Process(target=ensure_mounted, args=(place,)) for _ in range(8)]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(10)
        assert [worker.exitcode for worker in workers] == [0] * 8
        assert is_bpffs(place)
        assert len([each for each in mounts() if each.mount_point == place]) == 1
        # sticky by itself: bpf_fill_super() adds S_ISVTX
        assert place.stat().st_mode & 0o777 == 0o700
    finally:
        while place.is_mount():
            subprocess.run(["umount", str(place)], check=True)


def test_nowhere_to_mount(tmp_path: Path) -> None:
    kind, code, text = refusal(lambda: ensure_mounted(tmp_path / "none"))
    assert (kind, code) == (KernelCannotError, 5)
    assert "CONFIG_BPF_SYSCALL" in text


def test_not_permitted_to_mount(tmp_path: Path) -> None:
    for directory in (tmp_path, *tmp_path.parents[:3]):
        directory.chmod(directory.stat().st_mode | 0o555)

    def answer() -> list[Any]:
        return list(refusal(lambda: ensure_mounted(tmp_path))[1:])

    code, text = in_child(answer, before=lambda: os.setuid(NOBODY))
    assert code == 3
    assert "sudo" in text


COMMAND = """if True:
    import os
    from chadthrottle.bpf.constants import MapType
    from chadthrottle.bpf.maps import Map
    from chadthrottle.pins import Pins
    before = os.readlink("/proc/self/ns/mnt"), os.getcwd()
    pins = Pins(1)
    with pins.lock(create=True):
        if pins.current:
            with pins.map("rules") as rules:
                print("opened", pins.base, rules.max_entries)
            pins.remove_all()
        else:
            with Map.create("ct_test", MapType.BPF_MAP_TYPE_ARRAY, 4, 8, 1) as made, pins.stage() as stage:
                stage.pin(made, "rules")
            print("made", pins.base)
    assert before == (os.readlink("/proc/self/ns/mnt"), os.getcwd())
"""

# A world of its own: a PID 1 whose mounts nobody shares, and no bpffs yet. Nothing here reaches the machine's.
WORLD = ("unshare", "--mount", "--pid", "--fork", "--mount-proc")
NO_BPFFS = 'while umount /sys/fs/bpf 2>/dev/null; do :; done; [ "$(stat -f -c %t /sys/fs/bpf)" != cafe4a11 ]\n'
# What `ip netns exec` does to its mounts (netns_switch() of iproute2's lib/namespace.c).
AS_IP_NETNS = "unshare --mount sh -ec 'umount -l /sys; mount -t sysfs sysfs /sys; exec \"$@\"' sh "


def in_world(script: str) -> list[str]:
    command = [*WORLD, "sh", "-ec", script, "sh", sys.executable, "-c", COMMAND]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_by_default_what_pid_1_sees() -> None:
    answers = in_world(NO_BPFFS + '"$@"; stat -c %a /sys/fs/bpf; "$@"; ls /sys/fs/bpf | grep -v debug || :')
    assert answers == ["made /sys/fs/bpf/chadthrottle", "1700", "opened /sys/fs/bpf/chadthrottle 1"]


def test_from_a_private_mount_namespace_the_same_place() -> None:
    """Mounted and pinned from a namespace that is gone when the next command, outside, opens it."""
    answers = in_world(
        f'{NO_BPFFS}{AS_IP_NETNS}"$@"; stat -f -c %t /sys/fs/bpf; "$@"; ls /sys/fs/bpf | grep -v debug || :'
    )
    inside = "/proc/1/root/sys/fs/bpf/chadthrottle"
    assert answers == [f"made {inside}", "cafe4a11", "opened /sys/fs/bpf/chadthrottle 1"]
    answers = in_world(f'{NO_BPFFS}"$@"; {AS_IP_NETNS}"$@"; ls /sys/fs/bpf | grep -v debug || :')
    assert answers == ["made /sys/fs/bpf/chadthrottle", f"opened {inside} 1"]


def test_from_a_changed_root_directory_the_same_place() -> None:
    inside = f'chroot $root sh -ec \'cd {PROJECT}; "$@"\' sh "$@"'
    script = NO_BPFFS + (
        "root=/tmp/ct-test-pins-root; mkdir -p $root; mount --rbind / $root; umount -l $root/sys; "
        f'{inside}; umount -l $root; rmdir $root; "$@"'
    )
    answers = in_world(script)
    assert answers == [
        "made /proc/1/root/sys/fs/bpf/chadthrottle",
        "opened /sys/fs/bpf/chadthrottle 1",
    ]
