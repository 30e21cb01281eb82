"""What a queue is made of, tried piece by piece in a network namespace of our own, which goes with a child."""

from collections.abc import Callable
from typing import NamedTuple

from chadthrottle.abi import ThrottleDirection
from chadthrottle.bpf.constants import ProgType
from chadthrottle.bpf.descriptor import Descriptor
from chadthrottle.bpf.trials import Attempt, returns
from chadthrottle.enforce.private_network import Inhabitant
from chadthrottle.enforce.queue import shape
from chadthrottle.enforce.queue.classes import set_leaves, set_rates
from chadthrottle.enforce.queue.place import DEVICE, FILTER
from chadthrottle.errors import ChadthrottleError
from chadthrottle.netlink import CLSACT_INGRESS, Links, TrafficControl

__all__ = ["Missing", "first_missing"]

_RATE = shape.QueuedRate(1, ThrottleDirection.DOWN, 4_000_000)
_SEGMENT_BYTES = 1518


class Missing(NamedTuple):
    """A piece that could not be made."""

    piece: str
    """One of _MODULES; "" if it was the namespace."""
    module: str
    config: str
    message: str
    exit_code: int


_MODULES = {
    "IFB devices": ("ifb numifbs=0", "CONFIG_IFB"),  # else it makes ifb0 and ifb1, too
    "HTB": ("sch_htb", "CONFIG_NET_SCH_HTB"),
    "tbf": ("sch_tbf", "CONFIG_NET_SCH_TBF"),
    "clsact": ("sch_ingress", "CONFIG_NET_SCH_INGRESS"),
    "bpf filter with the actions mirred and gact": (
        "-a cls_bpf act_mirred act_gact",
        "CONFIG_NET_CLS_BPF, CONFIG_NET_ACT_MIRRED and CONFIG_NET_ACT_GACT",
    ),
}


def first_missing(*, clsact: bool) -> Missing | None:
    """None if a queue can be made here. `clsact` is wanted where there is no tcx."""
    child = Inhabitant(_Trial)
    try:
        child.ask("__move_out__")
        found = child.ask("pieces", clsact)
    except ChadthrottleError as error:
        return Missing("", "", "", error.message, error.exit_code)
    finally:
        child.end()
    if found is None:
        return None
    piece, message, exit_code = found
    return Missing(piece, *_MODULES[piece], message, exit_code)


class _Trial:
    """In the child."""

    def pieces(self, clsact: bool) -> tuple[str, str, int] | None:
        """The first one that cannot be made, why, and the error's exit status."""
        with Links() as links, TrafficControl() as tc:
            made: list[int] = []

            def device() -> None:
                made.append(links.add_ifb(DEVICE))
                links.set_up(made[0])

            def classes() -> None:
                tc.make_htb(made[0], shape.ROOT)
                set_rates(tc, made[0], _RATE, _SEGMENT_BYTES)

            steps: list[tuple[str, Callable[[], None]]] = [
                ("IFB devices", device),
                ("HTB", classes),
                ("tbf", lambda: set_leaves(tc, made[0], _RATE, _SEGMENT_BYTES)),
            ]
            if clsact:
                steps.append(("clsact", lambda: tc.add_clsact(made[0])))
                steps.append(("bpf filter with the actions mirred and gact", lambda: _add_filter(tc, made[0])))
            for piece, step in steps:
                try:
                    step()
                except ChadthrottleError as error:
                    return piece, error.message, error.exit_code
        return None


def _add_filter(tc: TrafficControl, ifindex: int) -> None:
    """As queues are fed where there is no tcx. That programs can be loaded is for other findings to tell."""
    fd, _, _ = Attempt(ProgType.BPF_PROG_TYPE_SCHED_CLS, returns(0)).load()
    if fd < 0:
        return
    with Descriptor(fd) as program:
        tc.add_filter(ifindex, CLSACT_INGRESS, FILTER, program_fd=program.fd, name=DEVICE, redirect_to=ifindex)
