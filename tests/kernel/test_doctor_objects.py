"""doctor, our objects: stale, cut off, garbage, missing, refused by the verifier."""

import re
from pathlib import Path

import pytest

from chadthrottle.artifacts import OBJECTS, STAMP, object_path
from tests.support.command import Command
from tests.support.doctor import diagnose
from tests.support.objects import built_objects
from tools import build_ebpf

ALL = tuple(f"CT-OBJ-{number:02}" for number in range(1, 8))


@pytest.fixture(autouse=True)
def built() -> None:
    built_objects("throttle", "queue", "traffic", "trial")


def instead(name: str, file: Path) -> str:
    """For `setup`: the command finds this file in the object's place."""
    return f"mount --bind {file} {object_path(name)}"


def spoiled(tmp_path: Path, data: bytes) -> Path:
    file = tmp_path / "spoiled.bpf.o"
    file.write_bytes(data)
    return file


def rebuilt(tmp_path: Path, name: str) -> str:
    """What the cure says: remove it, and `make build`. Here beside the checkout's own."""
    for each in build_ebpf.build(build_ebpf.EBPF, [build_ebpf.EBPF], tmp_path / "built", "debug"):
        if each.path.name == f"{name}.bpf.o":
            return instead(name, each.path)
    raise AssertionError(name)


def test_healthy(chadthrottle: Command) -> None:
    diagnose(chadthrottle, as_started=True).is_well(*ALL)


def test_a_stale_object(chadthrottle: Command, tmp_path: Path) -> None:
    data = object_path("throttle").read_bytes()
    stamp = STAMP.search(data)
    assert stamp is not None
    file = spoiled(tmp_path, data.replace(stamp[1], b"0" * 64))
    found = diagnose(chadthrottle, setup=instead("throttle", file))
    found.names_only("CT-OBJ-03", "throttle.bpf.o", "stale", "make build", status=5)
    assert found["CT-OBJ-04"]["because"] == found["CT-ATTACH-02"]["because"] == "CT-OBJ-03"
    diagnose(chadthrottle, setup=rebuilt(tmp_path, "throttle")).is_well(*ALL)


@pytest.mark.parametrize("kept", [0, 40, 4000])
def test_a_truncated_object(chadthrottle: Command, tmp_path: Path, kept: int) -> None:
    file = spoiled(tmp_path, object_path("trial").read_bytes()[:kept])
    found = diagnose(chadthrottle, setup=instead("trial", file))
    found.names_only("CT-OBJ-02", "trial.bpf.o", "damaged", str(object_path("trial")), "make build", status=5)
    assert found["CT-OBJ-03"]["because"] == found["CT-OBJ-07"]["because"] == "CT-OBJ-02"
    assert found.state("CT-ATTACH-01") == "ok", "a minimal program needs none of our objects"
    assert found.cure("CT-OBJ-02") == f"rm {object_path('trial')}"
    diagnose(chadthrottle, setup=rebuilt(tmp_path, "trial")).is_well(*ALL)


def test_garbage_in_an_objects_place(chadthrottle: Command, tmp_path: Path) -> None:
    file = spoiled(tmp_path, b"<html>404 Not Found</html>\n" * 40)
    found = diagnose(chadthrottle, setup=instead("queue", file))
    found.names_only("CT-OBJ-02", "queue.bpf.o", "damaged", "not an ELF file", status=5)


def test_missing_objects(chadthrottle: Command) -> None:
    found = diagnose(chadthrottle, setup=f"mount -t tmpfs ct-test-objects {OBJECTS}")
    found.names_only(
        "CT-OBJ-01", "missing: throttle.bpf.o, queue.bpf.o, trial.bpf.o", str(OBJECTS), "make build", status=5
    )


def test_an_object_that_the_verifier_refuses(chadthrottle: Command, tmp_path: Path) -> None:
    """The trial's own, with a program that returns what its hook may not; and with the stamp that it should have."""
    sources = tmp_path / "sources"
    sources.mkdir()
    source = (build_ebpf.EBPF / "trial.bpf.c").read_text(encoding="utf-8")
    assert "#define DROP_INGRESS 0\n" in source
    (sources / "trial.bpf.c").write_text(source.replace("#define DROP_INGRESS 0\n", "#define DROP_INGRESS 2\n"))
    (made,) = build_ebpf.build(sources, [build_ebpf.EBPF], tmp_path / "wrong", "debug")
    theirs = STAMP.search(made.path.read_bytes())
    assert theirs is not None
    right = build_ebpf.project_hash("trial", "debug").encode()
    file = spoiled(tmp_path, made.path.read_bytes().replace(theirs[1], right))

    found = diagnose(chadthrottle, setup=instead("trial", file))
    found.names_only("CT-OBJ-07", "verifier refuses chad_trial_in", "EINVAL: ", status=5)
    # Before Linux 6.9 a verifier shows a range as two numbers with their masks.
    assert re.search(r"should have been in (\[0, 1\]|\(0x0; 0x1\))", found.text("CT-OBJ-07"))
    assert "it is our program" in found["CT-OBJ-07"]["means"], "a minimal program loads"
    assert len(found["CT-OBJ-07"]["details"]) > 10, "the whole log"
    assert re.search("At program exit", "\n".join(found["CT-OBJ-07"]["details"]))
    assert found["CT-ATTACH-02"]["because"] == "CT-OBJ-07"
    diagnose(chadthrottle, setup=rebuilt(tmp_path, "trial")).is_well(*ALL)
