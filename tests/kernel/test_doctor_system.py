"""doctor, system: too few descriptors, no BTF; and what is only to be known."""

import shutil
import subprocess
from pathlib import Path

import pytest

from chadthrottle.bpf.kconfig import running_kconfig
from tests.support.command import Command
from tests.support.doctor import diagnose

BTF = "/sys/kernel/btf"


def test_nothing_is_wrong(chadthrottle: Command) -> None:
    found = diagnose(chadthrottle)
    found.is_well(*(f"CT-SYS-{number:02}" for number in (1, 3, 4, 5, 6, 7)))


def test_few_descriptors(chadthrottle: Command) -> None:
    found = diagnose(chadthrottle, wrapper=("prlimit", "--nofile=16:16"))
    found.names_only("CT-SYS-04", "EMFILE", "RLIMIT_NOFILE is 16, at most 16", status=5)


def test_few_descriptors_of_many_allowed(chadthrottle: Command) -> None:
    setup = "ulimit -Sn 16; "
    found = diagnose(chadthrottle, setup=setup, as_started=True)
    found.names_only("CT-SYS-04", "EMFILE", "RLIMIT_NOFILE is 16", status=5)
    # The rest is looked at all the same: doctor allows itself more.
    assert found.state("CT-BPF-03") == "ok"
    assert found.state("CT-CGROUP-05") == "ok"
    diagnose(chadthrottle, setup=setup + found.cure("CT-SYS-04"), as_started=True).is_well("CT-SYS-04")


def test_as_many_descriptors_as_a_limit_takes(chadthrottle: Command) -> None:
    diagnose(chadthrottle, wrapper=("prlimit", "--nofile=64:64")).is_well("CT-SYS-04")


@pytest.mark.parametrize("fault", ["missing", "cut off", "empty"])
def test_btf(fault: str, chadthrottle: Command, tmp_path: Path) -> None:
    copy = tmp_path / "vmlinux"
    setup = {
        "missing": f"mount -t tmpfs ct-test-btf {BTF}; ",
        "cut off": f"head -c 100000 {BTF}/vmlinux >{copy}; mount --bind {copy} {BTF}/vmlinux; ",
        "empty": f": >{copy}; mount --bind {copy} {BTF}/vmlinux; ",
    }[fault]
    found = diagnose(chadthrottle, setup=setup)
    found.names_only("CT-SYS-03", f"{BTF}/vmlinux", status=5)
    assert found["CT-BPF-08"]["because"] == "CT-SYS-03"
    assert found.state("CT-BPF-03") == "ok"
    diagnose(chadthrottle, setup=setup + found.cure("CT-SYS-03")).is_well("CT-SYS-03")


def test_a_configuration_that_is_not_shown_is_not_ok(chadthrottle: Command) -> None:
    config = shown_configuration()
    found = diagnose(chadthrottle, setup=f"mount --bind /dev/null {config}" if config else "")
    found.is_well()
    assert found.state("CT-SYS-02") == ("could not tell" if config is None or config.suffix == ".gz" else "ok")


def test_an_option_that_is_not_set_is_no_cause(chadthrottle: Command, tmp_path: Path) -> None:
    config = shown_configuration()
    if config is None or config.suffix != ".gz":
        assert diagnose(chadthrottle).state("CT-SYS-02") != "failed"
        return
    copy = tmp_path / "config.gz"
    setup = f"zcat {config} | grep -v CONFIG_IFB= | gzip >{copy}; mount --bind {copy} {config}"
    found = diagnose(chadthrottle, setup=setup)
    found.is_well("CT-SYS-02")
    assert f"not set in {config}: CONFIG_IFB; whether that matters" in found.text("CT-SYS-02")


def shown_configuration() -> Path | None:
    """Some kernels come without."""
    config = running_kconfig()
    return None if config.text is None else Path(config.where)


def test_neighbours(chadthrottle: Command, tmp_path: Path) -> None:
    for name in "dockerd", "firewalld":
        shutil.copy("/bin/sleep", tmp_path / name)
    has_nft = shutil.which("nft") is not None
    inside = f'{"nft add table inet ct_test; nft add table ip filter; " if has_nft else ""}exec "$@"'
    setup = "mount -t tmpfs ct-test-run /run; mkdir -p /run/systemd/system"
    with (
        subprocess.Popen([tmp_path / "dockerd", "60"]) as docker,
        subprocess.Popen([tmp_path / "firewalld", "60"]) as firewalld,
    ):
        try:
            found = diagnose(chadthrottle, setup=setup, wrapper=("unshare", "--net", "sh", "-ec", inside, "sh"))
        finally:
            docker.kill()
            firewalld.kill()
    found.is_well(*(f"CT-SYS-{number:02}" for number in range(8, 14)))
    assert "active" in found.text("CT-SYS-08")
    assert f"active: dockerd (PID {docker.pid})" in found.text("CT-SYS-09")
    assert f"active: firewalld (PID {firewalld.pid})" in found.text("CT-SYS-10")
    if has_nft:
        assert "active, with the tables inet ct_test, ip filter" in found.text("CT-SYS-12")


def test_net_cls_in_use_where_it_does_no_harm(chadthrottle: Command, tmp_path: Path) -> None:
    if "net_cls" not in Path("/proc/cgroups").read_text(encoding="ascii"):
        assert "neither is in use" in diagnose(chadthrottle).text("CT-SYS-06")
        return
    place = tmp_path / "net_cls"
    place.mkdir()
    # In the mount namespace of the command alone: the hierarchy goes with it.
    found = diagnose(chadthrottle, setup=f"mount -t cgroup -o net_cls ct-test {place}")
    found.is_well("CT-SYS-06")
    assert "net_cls in use, and this kernel keeps them apart" in found.text("CT-SYS-06")
