"""The kernel and what else is at work on this machine. Mostly to be known: a fault shows where it is tried."""

from chadthrottle.doctor.check import Check
from chadthrottle.doctor.kernel_config import BTF, CONFIGURATION, RELEASE
from chadthrottle.doctor.kernel_log import LOG, NET_CLS
from chadthrottle.doctor.neighbours import NEIGHBOURS
from chadthrottle.doctor.network_settings import ECN, JIT, OFFLOADS
from chadthrottle.doctor.resource_limits import LOCKED_MEMORY, OPEN_FILES

__all__ = ["CHECKS"]

CHECKS: tuple[Check, ...] = (
    OPEN_FILES,
    RELEASE,
    CONFIGURATION,
    BTF,
    LOCKED_MEMORY,
    LOG,
    NET_CLS,
    *NEIGHBOURS,
    ECN,
    OFFLOADS,
    JIT,
)
