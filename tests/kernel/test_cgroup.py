"""cgroup2 on this machine, and in the namespaces that hide parts of it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chadthrottle import cgroup, procs
from chadthrottle.errors import NotPermittedError, UsageError
from tests.support.cgroups import cgroup2_root
from tests.support.children import in_child

PROJECT = Path(__file__).parents[2]

ASK = """if True:
    import sys
    from chadthrottle import cgroup
    from chadthrottle.errors import ChadthrottleError
    try:
        print(cgroup.attach_point(sys.argv[1], int(sys.argv[2])))
    except ChadthrottleError as error:
        print(error.exit_code, type(error).__name__, error)
"""

Enter = Callable[[Path], int]


@pytest.fixture
def enter() -> Iterator[Enter]:
    """Start a process inside a cgroup."""
    running: list[subprocess.Popen[bytes]] = []

    def start(directory: Path) -> int:
        process = subprocess.Popen(["sleep", "60"])
        running.append(process)
        (directory / "cgroup.procs").write_text(str(process.pid))
        return process.pid

    yield start
    for process in running:
        process.kill()
        process.wait()


def ask(at: str, pid: int, script: str, *wrapper: str) -> str:
    """What `attach_point` answers after `script` ran in a mount namespace of its own."""
    command = [*(wrapper or ("unshare", "--mount")), "sh", "-ec", f'{script}\nexec "$@"', "sh"]
    command += [sys.executable, "-c", ASK, at, str(pid)]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT).stdout.strip()


def unmount_all() -> str:
    return "for m in $(awk '$0 ~ / - cgroup2 / {print $5}' /proc/self/mountinfo); do umount \"$m\"; done"


def test_the_root_is_the_root() -> None:
    root = cgroup.root()
    assert root == cgroup2_root()
    # Every cgroup but the root has this file (Documentation/admin-guide/cgroup-v2.rst).
    assert not (root / "cgroup.type").exists()
    assert cgroup.attach_point("root", 1) == root


def test_the_cgroup_of_a_process(leaf_cgroup: Path, enter: Enter) -> None:
    inner = leaf_cgroup / "a b.scope"
    inner.mkdir()
    pid = enter(inner)
    assert cgroup.path_of(pid) == inner
    assert cgroup.attach_point("leaf", pid) == inner


def test_a_cgroup_whose_name_ends_like_a_removed_one(leaf_cgroup: Path, enter: Enter) -> None:
    inner = leaf_cgroup / "x (deleted)"
    inner.mkdir()
    assert cgroup.path_of(enter(inner)) == inner


def test_a_removed_cgroup_and_its_zombie(leaf_cgroup: Path) -> None:
    inner = leaf_cgroup / "gone"
    inner.mkdir()
    process = subprocess.Popen(["sleep", "60"])
    try:
        (inner / "cgroup.procs").write_text(str(process.pid))
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        inner.rmdir()
        assert "(deleted)" in Path(f"/proc/{process.pid}/cgroup").read_text()
        with pytest.raises(procs.NoSuchProcessError, match="removed") as caught:
            cgroup.path_of(process.pid)
        assert caught.value.exit_code == 4
    finally:
        process.kill()
        process.wait()


def test_no_such_process() -> None:
    finished = subprocess.Popen(["true"])
    finished.wait()
    with pytest.raises(procs.NoSuchProcessError):
        cgroup.attach_point("leaf", finished.pid)


def test_a_path(leaf_cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cgroup.attach_point(str(leaf_cgroup), 1) == leaf_cgroup
    assert cgroup.attach_point(f"{leaf_cgroup}/../{leaf_cgroup.name}/", 1) == leaf_cgroup
    monkeypatch.chdir(leaf_cgroup)
    (leaf_cgroup / "root").mkdir()
    assert cgroup.attach_point("./root", 1) == leaf_cgroup / "root"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/no/such/place", "ENOENT"),
        ("/etc/passwd", "ENOTDIR"),
        ("/", "not in cgroup2"),
        ("/proc", "on proc"),
        ("", "root, leaf or the path"),
    ],
)
def test_what_is_no_cgroup2_directory(path: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        cgroup.attach_point(path, 1)
    assert says in caught.value.message
    assert caught.value.exit_code == 2


def test_cgroup_v1_is_named(tmp_path: Path) -> None:
    answer = ask(str(tmp_path), 1, f"mount -t cgroup -o none,name=ct-test none {tmp_path}")
    assert answer.startswith("2 UsageError")
    assert "cgroup v1" in answer


def test_a_path_without_the_mount_point_gets_a_hint(leaf_cgroup: Path) -> None:
    with pytest.raises(UsageError) as caught:
        cgroup.attach_point(f"/{leaf_cgroup.name}", 1)
    assert caught.value.hint == f"Did you mean {leaf_cgroup}?"


def test_not_permitted(leaf_cgroup: Path) -> None:
    leaf_cgroup.chmod(0o700)

    def answer() -> list[object]:
        try:
            cgroup.attach_point(str(leaf_cgroup), 1)
        except NotPermittedError as error:
            return [error.exit_code, error.hint]
        return []

    assert in_child(answer, before=lambda: os.setuid(65534)) == [3, "Run it with sudo."]


def test_none_mounted() -> None:
    answer = ask("root", 1, unmount_all())
    assert answer.startswith("5 KernelCannotError cgroup2 is not mounted here")
    assert "mount -t cgroup2" in answer


def test_the_command_in_the_hint_works(tmp_path: Path) -> None:
    answer = ask("root", 1, f"{unmount_all()}\nmount -t cgroup2 none {tmp_path}")
    assert answer == str(tmp_path)


def test_a_mount_hidden_under_another_does_not_count(tmp_path: Path) -> None:
    hide = f"mount -t cgroup2 none {tmp_path}; mount -t tmpfs none {tmp_path}"
    assert ask("root", 1, f"{unmount_all()}\n{hide}").startswith("5 ")


def test_a_bind_mount_of_a_part(leaf_cgroup: Path, enter: Enter, tmp_path: Path) -> None:
    """A container: cgroup2 is mounted, but only a piece of it."""
    (leaf_cgroup / "in").mkdir()
    pid = enter(leaf_cgroup / "in")
    script = f"mount --bind {leaf_cgroup} {tmp_path}\n{unmount_all_but(tmp_path)}"
    assert ask("leaf", pid, script) == f"{tmp_path}/in"
    answer = ask("root", pid, script)
    assert answer.startswith("5 KernelCannotError the cgroup2 root cannot be seen")
    assert "--at leaf" in answer
    answer = ask("leaf", 1, script)
    assert answer.startswith("5 KernelCannotError the cgroup of process 1")


def unmount_all_but(kept: Path) -> str:
    return unmount_all().replace("/ - cgroup2 /", f'/ - cgroup2 / && $5 != "{kept}"')


def test_the_whole_tree_is_preferred_to_a_part(leaf_cgroup: Path, tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    (tmp_path / "part").mkdir()
    script = f"mount --bind {leaf_cgroup} {tmp_path}/part\n{unmount_all_but(tmp_path / 'part')}\n"
    assert ask("root", 1, f"{script}mount -t cgroup2 none {tmp_path}/all") == f"{tmp_path}/all"


def test_in_a_cgroup_namespace(leaf_cgroup: Path, enter: Enter) -> None:
    """Paths begin at the namespace's top there, and what is outside of it is "/../x"."""
    (leaf_cgroup / "mine").mkdir()
    (leaf_cgroup / "other").mkdir()
    other, inside = enter(leaf_cgroup / "other"), enter(leaf_cgroup / "mine")
    entering = ("sh", "-ec", f'echo $$ > {leaf_cgroup}/mine/cgroup.procs; exec unshare --cgroup --mount "$@"', "sh")
    # Mounts made before show the whole tree still.
    assert ask("leaf", other, "true", *entering) == f"{leaf_cgroup}/other"
    assert ask("leaf", inside, "true", *entering) == f"{leaf_cgroup}/mine"
    assert ask("root", inside, "true", *entering) == str(cgroup2_root())


def test_a_mount_made_in_a_cgroup_namespace_is_not_the_root(leaf_cgroup: Path, enter: Enter, tmp_path: Path) -> None:
    """mountinfo calls its root "/"; the inode does not lie."""
    (leaf_cgroup / "mine").mkdir()
    inside = enter(leaf_cgroup / "mine")
    entering = ("sh", "-ec", f'echo $$ > {leaf_cgroup}/mine/cgroup.procs; exec unshare --cgroup --mount "$@"', "sh")
    script = f"{unmount_all()}\nmount -t cgroup2 none {tmp_path}"
    assert ask("root", inside, script, *entering).startswith("5 ")
    assert ask("leaf", inside, script, *entering) == str(tmp_path)
