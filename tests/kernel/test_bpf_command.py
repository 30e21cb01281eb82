"""`python -m chadthrottle.bpf` as a user meets it: a process, its output, its exit status."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chadthrottle.bpf.constants import MapFlag
from chadthrottle.bpf.errors import BpfError
from chadthrottle.bpf.loader import load
from chadthrottle.bpf.maps import Map
from chadthrottle.bpf.parse import open_object
from chadthrottle.bpf.programs import Program

ObjectPath = Callable[[str], Path]
ROOT = Path(__file__).parents[2]


def run(*arguments: object, **options: Any) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "chadthrottle.bpf", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **options)


def test_check_shows_every_program(object_path: ObjectPath) -> None:
    done = run("check", object_path("traffic"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "ok      count_egress (cgroup_skb/egress)" in done.stdout
    assert "2 of 2 programs loaded, 2 of 2 maps created" in done.stdout


def test_check_in_json(object_path: ObjectPath) -> None:
    answer = json.loads(run("check", "--json", object_path("traffic")).stdout)
    assert answer["schema"] == 1
    program = answer["programs"][0]
    assert program["loaded"] is True
    assert len(program["tag"]) == 16
    assert program["load_ms"] > 0
    assert program["type"] == "BPF_PROG_TYPE_CGROUP_SKB"
    assert set(program["maps"]) == {"traffic", ".rodata"}


def test_check_goes_on_after_a_failure_and_exits_5(object_path: ObjectPath) -> None:
    done = run("check", object_path("fail_call_into_section"))
    assert done.returncode == 5
    assert "FAILED  caller" in done.stdout
    assert "ok      callee" in done.stdout
    assert "1 of 2 programs loaded" in done.stdout


def test_check_passes_over_optional_programs_unless_named(object_path: ObjectPath) -> None:
    assert "skipped when_asked" in run("check", object_path("optional")).stdout
    assert "1 of 1 programs loaded" in run("check", object_path("optional"), "when_asked").stdout


def test_check_verbose_shows_the_whole_log(object_path: ObjectPath) -> None:
    short, whole = (run("check", *more, object_path("fail_uninit_reg")) for more in ([], ["--verbose"]))
    assert "processed 1 insns" not in short.stdout
    assert "processed 1 insns" in whole.stdout


def test_sizes_and_variables_can_be_set(object_path: ObjectPath) -> None:
    assert run("check", object_path("map_zero_entries")).returncode == 5
    assert run("check", "--entries", "sized_by_user=8", object_path("map_zero_entries")).returncode == 0
    assert run("check", "--set", "knob_u32=8", object_path("globals")).returncode == 0
    wider = run("check", "--json", "--value-size", "stacks=256", object_path("maps"))
    assert next(m for m in json.loads(wider.stdout)["maps"] if m["name"] == "stacks")["value_bytes"] == 256


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "knob_u8=300"], "300 does not fit knob_u8"),
        (["--set", "nothing=1"], "no variable 'nothing'"),
        (["--set", "knob_u8"], "NAME=NUMBER"),
        (["--entries", ".data=5"], "no map '.data'"),
        (["--map-memory", "0"], "from 1"),
        (["no_such_program"], "no program 'no_such_program'"),
    ],
)
def test_wrong_arguments_exit_2(arguments: list[str], words: str, object_path: ObjectPath) -> None:
    done = run("check", object_path("globals"), *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"nonsense" * 1000])
def test_not_an_object_exits_2(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.o"
    path.write_bytes(content)
    for command in ("check", "load", "dump"):
        done = run(command, path)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {path}: ")
        assert json.loads(run(command, "--json", path).stdout)["error"]["code"] == 2


def test_no_file_and_no_regular_file_exit_2(tmp_path: Path) -> None:
    assert "No such file" in run("check", tmp_path / "absent.o").stderr
    assert "no regular file" in run("check", tmp_path).stderr
    assert "no regular file" in run("check", "/dev/zero").stderr


@pytest.mark.parametrize(
    "name", ["globals", "maps", "map_spellings", "map_in_map", "prog_array", "kconfig", "sections"]
)
def test_load_pins_as_bpftool_does(name: str, object_path: ObjectPath, bpffs: Path, tmp_path: Path) -> None:
    # libbpf calls data maps after the file, cut to some characters, and without what the kernel refuses in a name.
    path = tmp_path / "odd-name.more.bpf.o"
    path.write_bytes(object_path(name).read_bytes())
    ours, theirs = bpffs / "ours", bpffs / "theirs"
    done = run("load", path, "--pin", ours)
    assert (done.returncode, done.stderr) == (0, "")
    theirs.mkdir()
    subprocess.run(["bpftool", "prog", "loadall", path, theirs, "pinmaps", theirs], check=True, capture_output=True)
    try:
        assert pinned(ours) == pinned(theirs)
    finally:
        for pin in (*ours.iterdir(), *theirs.iterdir()):
            pin.unlink()


def pinned(directory: Path) -> dict[str, object]:
    """What is pinned in a directory, as far as two loads of one object can be alike."""
    found: dict[str, object] = {}
    for pin in directory.iterdir():
        try:
            with Map.open_pinned(pin) as held:
                # Our data maps cannot be mapped into memory (docs/adr/0003).
                info = held.info()._replace(id=0, btf_id=0, flags=held.info().flags & ~MapFlag.BPF_F_MMAPABLE)
                found[pin.name] = (info, held.info().btf_id != 0)
        except BpfError:
            with Program.open_pinned(pin) as program:
                found[pin.name] = program.info().tag
    return found


def test_a_pinned_program_is_the_one_that_was_loaded(object_path: ObjectPath, bpffs: Path) -> None:
    assert run("load", object_path("globals"), "--pin", bpffs / "pins").returncode == 0
    try:
        with Program.open_pinned(bpffs / "pins/sum_data") as program:
            assert program.test_run(bytes(64)).retval == 122
        with pytest.raises(BpfError, match="not a program but bpf-map"):
            Program.open_pinned(bpffs / "pins/globals_bss")
    finally:
        for pin in (bpffs / "pins").iterdir():
            pin.unlink()


def test_load_that_cannot_pin_leaves_nothing(object_path: ObjectPath, bpffs: Path) -> None:
    path, pins = object_path("globals"), bpffs / "pins"
    pins.mkdir()
    assert run("load", path, "--pin", pins).returncode == 0
    (pins / "sum_data").rename(pins / "keep")
    for pin in pins.iterdir():
        if pin.name not in ("keep", "globals_bss"):
            pin.unlink()
    done = run("load", path, "--pin", pins)  # globals_bss is in the way
    assert done.returncode == 5
    assert "EEXIST" in done.stderr
    assert sorted(p.name for p in pins.iterdir()) == ["globals_bss", "keep"]
    for pin in pins.iterdir():
        pin.unlink()


def test_load_outside_a_bpffs_fails_and_leaves_no_directory(object_path: ObjectPath, tmp_path: Path) -> None:
    done = run("load", object_path("minimal"), "--pin", tmp_path / "pins")
    assert done.returncode == 5
    assert "must be a directory in a bpffs; to mount one" in done.stderr
    assert not (tmp_path / "pins").exists()
    done = run("load", object_path("minimal"), "--pin", tmp_path / "absent" / "pins")
    assert done.returncode == 2
    assert "It must lie in a bpffs" in done.stderr


def test_names_with_dots_are_explained(object_path: ObjectPath, bpffs: Path) -> None:
    with load(open_object(object_path("minimal"))) as loaded:
        with pytest.raises(BpfError, match="no dots"):
            next(iter(loaded.programs.values())).pin(bpffs / "a.b")


def test_dump_needs_no_root(object_path: ObjectPath, tmp_path: Path) -> None:
    copy = tmp_path / "core.bpf.o"
    copy.write_bytes(object_path("core").read_bytes())
    done = run("dump", "--json", copy)
    answer = json.loads(done.stdout)
    wants = [r["wants"] for p in answer["programs"] for r in p["core_relocations"]]
    assert "the offset of struct task_struct.signal" in wants


def test_check_without_privilege_says_which_and_exits_3(object_path: ObjectPath) -> None:
    command = [sys.executable, "-m", "chadthrottle.bpf", "check", str(object_path("minimal"))]
    done = subprocess.run(
        # Not -all: root without CAP_DAC_OVERRIDE cannot read a checkout in a user's home directory.
        ["setpriv", "--bounding-set=-sys_admin,-bpf,-net_admin,-perfmon", *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 3
    assert "CAP_BPF" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["check", "load"])
@pytest.mark.parametrize(
    ("wrapper", "status", "words"),
    [
        ([sys.executable, "-m", "tests.support.confined"], 3, "A seccomp filter denies bpf(2)"),
        (["unshare", "--user", "--map-root-user"], 3, "in a user namespace only"),
        (["setpriv", "--bounding-set=-sys_admin,-bpf"], 3, "lacks CAP_BPF: run it with sudo"),
        (["setpriv", "--bounding-set=-sys_admin,-net_admin"], 3, "lacks CAP_NET_ADMIN: run it with sudo"),
        (["prlimit", "--nofile=8"], 5, "raise the limit with `ulimit -n`"),
    ],
)
def test_who_keeps_bpf_from_us(
    command: str, wrapper: list[str], status: int, words: str, object_path: ObjectPath
) -> None:
    if "--user" in wrapper:
        tried = subprocess.run([*wrapper, "true"], capture_output=True, text=True, check=False)
        if "unshare failed: Operation not permitted" in tried.stderr:
            return  # in a chroot: create_user_ns() in kernel/user_namespace.c makes none for anybody
    done = run_under(wrapper, command, object_path("globals"))
    assert done.returncode == status
    said = done.stdout if command == "check" else done.stderr
    assert words in " ".join(said.split())
    assert "Traceback" not in done.stderr


def run_under(wrapper: list[str], *arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [*wrapper, sys.executable, "-m", "chadthrottle.bpf", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)


def test_a_kernel_without_btf_is_told_apart(object_path: ObjectPath) -> None:
    hide = ["unshare", "--mount", "sh", "-ec", 'mount -t tmpfs none /sys/kernel/btf; exec "$@"', "sh"]
    done = run_under(hide, "load", object_path("kfunc"))
    assert done.returncode == 5
    assert "CONFIG_DEBUG_INFO_BTF" in done.stderr


def test_a_read_only_bpffs_is_named(object_path: ObjectPath, bpffs: Path) -> None:
    (bpffs / "there").mkdir()
    read_only = ["unshare", "--mount", "sh", "-ec", f'mount -o remount,bind,ro {bpffs}; exec "$@"', "sh"]
    for directory in (bpffs / "new", bpffs / "there"):
        done = run_under(read_only, "load", object_path("globals"), "--pin", directory)
        assert done.returncode == 5
        assert "mounted read-only" in done.stderr
    assert [p.name for p in bpffs.iterdir() if p.suffix != ".debug"] == ["there"]
    (bpffs / "there").rmdir()


def test_debug_logs_each_call(object_path: ObjectPath) -> None:
    done = run("check", "--debug", object_path("minimal"))
    assert any(line.startswith("bpf(BPF_PROG_LOAD) = ") for line in done.stderr.splitlines())


def test_a_closed_pipe_is_no_traceback(object_path: ObjectPath) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as output:
        command = [sys.executable, "-m", "chadthrottle.bpf", "dump", str(object_path("sections"))]
        done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert "Traceback" not in done.stderr


def test_check_creates_maps_that_no_program_uses(object_path: ObjectPath) -> None:
    done = run("check", "--entries", "networks=4294967295", "--entries", "stacks=0x1000000", object_path("maps"))
    assert done.returncode == 5
    assert "1 of 1 programs loaded, 15 of 16 maps created" in done.stdout
    assert "more than the limit" in done.stdout


def test_names_cannot_drive_the_terminal(object_path: ObjectPath, tmp_path: Path) -> None:
    hostile = tmp_path / "hostile.bpf.o"
    hostile.write_bytes(object_path("minimal").read_bytes().replace(b"Dual MIT/GPL", b"\x1b[2J\x1b]0;\x07GPL"))
    done = run("dump", hostile)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "\x1b" in json.loads(run("dump", "--json", hostile).stdout)["license"]
