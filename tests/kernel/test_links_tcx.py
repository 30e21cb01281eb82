"""Attaching to a network device, in a private network namespace."""

import errno
import socket
import subprocess
from contextlib import ExitStack

import pytest

from chadthrottle.bpf import tcx_link
from chadthrottle.bpf.constants import AttachType, LinkType
from chadthrottle.bpf.errors import AttachError, NotSupportedError
from chadthrottle.bpf.features import supported
from chadthrottle.bpf.programs import Program
from chadthrottle.bpf.query import query_tcx
from chadthrottle.bpf.tcx_link import Anchor, attach_tcx
from tests.support import raw_programs as raw
from tests.support.children import in_child, keep_capabilities, refuse_bpf
from tests.support.network import Endpoint

INGRESS = AttachType.BPF_TCX_INGRESS
EGRESS = AttachType.BPF_TCX_EGRESS
TCX_NEXT = -1  # enum tcx_action_base of include/uapi/linux/bpf.h
TCX_DROP = 2

Pair = tuple[Endpoint, Endpoint]


def ids_on(ifindex: int, hook: AttachType) -> list[int]:
    return [program.id for program in query_tcx(ifindex, hook).programs]


def load(hook: AttachType = INGRESS) -> Program:
    return raw.load_for(hook, result=TCX_NEXT)


@pytest.mark.usefixtures("tcx")
@pytest.mark.parametrize("hook", [INGRESS, EGRESS])
def test_a_link_tells_its_device(netns_pair: Pair, hook: AttachType) -> None:
    near = netns_pair[0]
    with near.entered(), load(hook) as program:
        with attach_tcx(program, near.ifindex) as link:
            info = link.info()
            assert (info.type, info.ifindex, info.attach_type) == (LinkType.BPF_LINK_TYPE_TCX, near.ifindex, hook)
            assert ids_on(near.ifindex, hook) == [program.info().id]
            assert query_tcx(near.ifindex, hook).programs[0].link_id == info.id
        assert ids_on(near.ifindex, hook) == []


@pytest.mark.usefixtures("tcx")
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_the_program_really_runs(netns_pair: Pair, family: socket.AddressFamily) -> None:
    near, far = netns_pair
    address = (far.ipv4 if family == socket.AF_INET else far.ipv6, 7000)
    with far.entered(), socket.create_server(address, family=family) as server:
        with near.entered(), socket.create_connection(address, timeout=5):  # neighbours know each other now
            server.accept()[0].close()
        with raw.load_for(INGRESS, result=TCX_DROP) as program, attach_tcx(program, far.ifindex):
            with near.entered(), socket.socket(family) as client:
                client.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    client.connect(address)
        with near.entered(), socket.create_connection(address, timeout=5):
            server.accept()[0].close()


@pytest.mark.usefixtures("tcx")
def test_anchors_order_the_list(netns_pair: Pair) -> None:
    near = netns_pair[0]
    with near.entered(), ExitStack() as stack:
        first, second, third, fourth = (stack.enter_context(load()) for _ in range(4))
        order = [program.info().id for program in (first, second, third, fourth)]
        stack.enter_context(attach_tcx(third, near.ifindex))
        stack.enter_context(attach_tcx(first, near.ifindex, anchor=Anchor(before=True)))
        stack.enter_context(attach_tcx(fourth, near.ifindex, anchor=Anchor(before=False)))
        stack.enter_context(attach_tcx(second, near.ifindex, anchor=Anchor(before=True, program_id=order[2])))
        assert ids_on(near.ifindex, INGRESS) == order


@pytest.mark.usefixtures("tcx")
def test_an_anchor_that_is_not_there(netns_pair: Pair) -> None:
    near = netns_pair[0]
    with near.entered(), load() as program, load() as absent:
        with attach_tcx(program, near.ifindex), load() as other, pytest.raises(AttachError) as caught:
            attach_tcx(other, near.ifindex, anchor=Anchor(before=True, program_id=absent.info().id))
    assert caught.value.errno == errno.ENOENT
    assert "to attach before or after is not in the list" in caught.value.message


@pytest.mark.usefixtures("tcx")
def test_update_replaces_the_program(netns_pair: Pair) -> None:
    near = netns_pair[0]
    with near.entered(), load() as one, load() as two, attach_tcx(one, near.ifindex) as link:
        link.update(two)
        assert ids_on(near.ifindex, INGRESS) == [two.info().id]


@pytest.mark.usefixtures("tcx")
def test_no_program_twice(netns_pair: Pair) -> None:
    near = netns_pair[0]
    with near.entered(), load() as program, attach_tcx(program, near.ifindex), pytest.raises(AttachError) as caught:
        attach_tcx(program, near.ifindex)
    assert caught.value.errno == errno.EEXIST
    assert f"on device {near.ifindex}: EEXIST: it is attached there already" in caught.value.message


@pytest.mark.usefixtures("tcx")
def test_no_such_device(netns_pair: Pair) -> None:
    with netns_pair[0].entered(), load() as program, pytest.raises(AttachError) as caught:
        attach_tcx(program, 4242)
    assert caught.value.errno == errno.ENODEV
    assert "on device 4242: ENODEV: there is no such device in this network namespace" in caught.value.message


def test_not_against_its_direction(netns_pair: Pair) -> None:
    near = netns_pair[0]
    with near.entered(), load(EGRESS) as program, pytest.raises(AttachError, match="was loaded for BPF_TCX_EGRESS"):
        attach_tcx(program, near.ifindex, INGRESS)


def test_a_cgroup_program_is_for_cgroups(netns_pair: Pair) -> None:
    near = netns_pair[0]
    with near.entered(), raw.load_for(AttachType.BPF_CGROUP_INET_EGRESS) as program:
        with pytest.raises(AttachError, match="tcx has the attach types"):
            attach_tcx(program, near.ifindex)


@pytest.mark.usefixtures("tcx")
def test_a_program_of_another_type(netns_pair: Pair) -> None:
    near = netns_pair[0]
    with near.entered(), raw.load_undirected() as program, pytest.raises(AttachError) as caught:
        attach_tcx(program, near.ifindex, INGRESS)
    assert caught.value.errno == errno.EINVAL
    assert "cannot be attached as BPF_TCX_INGRESS" in caught.value.message


@pytest.mark.usefixtures("tcx")
def test_the_64th_program(netns_pair: Pair) -> None:
    near = netns_pair[0]
    with near.entered(), ExitStack() as stack:
        for _ in range(63):  # one less than a cgroup takes
            stack.enter_context(attach_tcx(stack.enter_context(load()), near.ifindex))
        with load() as program, pytest.raises(AttachError) as caught:
            attach_tcx(program, near.ifindex)
    assert "ERANGE: 63 programs are attached" in caught.value.message


@pytest.mark.usefixtures("tcx")
def test_a_device_that_goes_away_under_its_link(netns_pair: Pair) -> None:
    near = netns_pair[0]
    with near.entered(), load() as program, attach_tcx(program, near.ifindex) as link:
        subprocess.run(["ip", "link", "del", near.device], check=True)
        assert link.info().ifindex == 0
        link.detach()


def test_a_kernel_without_tcx(netns_pair: Pair) -> None:
    """Before 6.6 the query does not know the attach type."""

    def attach() -> str:
        with pytest.raises(NotSupportedError) as caught:
            attach_tcx(program, near.ifindex)
        return caught.value.since

    near = netns_pair[0]
    with near.entered(), load() as program:
        # 16 is BPF_PROG_QUERY; what comes later is refused, too, but for the program's info.
        assert in_child(attach, before=refuse_bpf(errno.EINVAL, 16)) == "6.6"


def test_here_it_attaches_or_names_the_version(netns_pair: Pair) -> None:
    near = netns_pair[0]
    with near.entered(), load() as program:
        if supported("tcx"):
            attach_tcx(program, near.ifindex).close()
        else:
            with pytest.raises(NotSupportedError, match=r"came with Linux 6\.6"):
                attach_tcx(program, near.ifindex)


def test_without_capabilities(netns_pair: Pair) -> None:
    def attach() -> list[object]:
        with pytest.raises(AttachError) as caught:
            attach_tcx(program, near.ifindex)
        return [caught.value.errno, caught.value.exit_code]

    near = netns_pair[0]
    with near.entered(), load() as program:
        assert in_child(attach, before=keep_capabilities()) == [errno.EPERM, 3]


@pytest.mark.usefixtures("tcx")
def test_what_cannot_be_read_back_is_detached(netns_pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    near = netns_pair[0]

    def fail(*_: object) -> None:
        assert len(ids_on(near.ifindex, INGRESS)) == 1
        raise OSError("injected")

    monkeypatch.setattr(tcx_link, "_read_back", fail)
    with near.entered(), load() as program:
        with pytest.raises(OSError, match="injected"):
            attach_tcx(program, near.ifindex)
        assert ids_on(near.ifindex, INGRESS) == []
