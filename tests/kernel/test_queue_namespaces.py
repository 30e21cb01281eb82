"""Queues in other network namespaces than the command's: one each, gone with its namespace."""

from contextlib import ExitStack
from pathlib import Path

from tests.support.network import Endpoint, veth_pair
from tests.support.queued import (
    DEVICE,
    attached_devices,
    goes_through_queue,
    ip,
    recorded,
    require_queued,
    require_rate,
    traffic_control,
)
from tests.support.rates import within
from tests.support.throttled import LIMIT, Peer, Program, Scene


def inode_of(program: Program) -> int:
    return Path(f"/proc/{program.pid}/ns/net").stat().st_ino


def namespaces(stage: Scene) -> set[int]:
    return {each.namespace for each in recorded(stage)}


def test_queue_is_in_the_programs_namespace_alone(stage: Scene) -> None:
    with veth_pair() as (other, _):
        program = stage.start()
        program.busy_download()
        stage.throttle(program)
        assert namespaces(stage) == {inode_of(program)}
        assert DEVICE not in ip(other, "link")
        require_queued(stage, program)


def test_each_namespace_has_every_rules_classes(stage: Scene) -> None:
    """So that a socket that is passed between them has its class wherever it is used."""
    with veth_pair() as (other, peer), ExitStack() as stack:
        Peer(peer, stack)
        first, second = stage.start(), stage.start(other)
        first.busy_download()
        second.busy_download()
        stage.throttle(first)
        stage.throttle(second)
        assert namespaces(stage) == {inode_of(first), inode_of(second)}
        require_queued(stage, first)
        require_queued(stage, second)
        stage.release(second)
        second.kill()
        stage.release(first)


def test_sockets_in_two_namespaces(stage: Scene) -> None:
    """Each is queued where it is."""
    with veth_pair() as (other, peer), ExitStack() as stack:
        Peer(peer, stack)
        program = stage.start()
        program.busy_download("here")
        program.do(f"enter_namespace({other.namespace!r})")
        program.busy_download("there")
        program.do(f"enter_namespace({stage.here.namespace!r})")
        stage.throttle(program)
        assert len(namespaces(stage)) == 2

        def both() -> int:
            return program.received("here") + program.received("there")

        # A queue for each: together they have at most twice the limit.
        require_rate(both, 0.7 * LIMIT, 2.2 * LIMIT)
        assert goes_through_queue(stage, program) == 1
        program.kill()


def test_deleted_namespace_is_forgotten(stage: Scene) -> None:
    """With its last process: neither commands nor other limits notice."""
    with veth_pair() as (other, _):
        program = stage.start(other)
        stage.throttle(program)
        kept = stage.start()
        kept.busy_download()
        stage.throttle(kept)
        lost = inode_of(program)
        assert lost in namespaces(stage)
        program.kill()
    assert stage.limited() == {kept.pid}
    stage.throttle(stage.start())
    assert namespaces(stage) == {inode_of(kept)}
    assert len(attached_devices(stage)) == 1
    require_queued(stage, kept)


def test_namespace_deleted_after_its_program_moved(stage: Scene) -> None:
    with veth_pair() as (other, _):
        program = stage.start(other)
        stage.throttle(program)
        program.do(f"for_main_thread.put(lambda: enter_namespace({stage.here.namespace!r}))")
        program.do(f"enter_namespace({stage.here.namespace!r})")
        assert within(2, lambda: inode_of(program) == inode_of_namespace(stage.here))
    program.busy_download()
    stage.throttle(program)
    assert within(2, lambda: namespaces(stage) == {inode_of(program)})
    require_queued(stage, program)
    stage.release(program)
    assert DEVICE not in traffic_control(stage.here)


def inode_of_namespace(endpoint: Endpoint) -> int:
    return Path(f"/run/netns/{endpoint.namespace}").stat().st_ino


def test_namespace_deleted_with_the_last_rule(stage: Scene) -> None:
    with veth_pair() as (other, _):
        program = stage.start(other)
        stage.throttle(program)
        program.kill()
    assert stage.release().hooks_removed
    assert not stage.base.exists()
