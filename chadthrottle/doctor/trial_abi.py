"""ebpf/trial.h as ctypes, compared with the object's BTF as abi.py is."""

import ctypes
from enum import IntEnum

__all__ = ["TRIAL_DROPPED_BYTES", "TrialDirection", "TrialSocket"]

TRIAL_DROPPED_BYTES = 777
"""The size of the packets that a trial drops, IP header and all."""


class TrialDirection(IntEnum):
    """enum trial_direction: the index into the arrays below."""

    EGRESS = 0
    INGRESS = 1


class TrialSocket(ctypes.Structure):
    """struct trial_socket, value of the map `sockets`, by socket cookie."""

    _fields_ = (("packets", ctypes.c_uint64 * len(TrialDirection)), ("dropped", ctypes.c_uint64 * len(TrialDirection)))

    packets: ctypes.Array[ctypes.c_uint64]
    """All that came by, dropped ones too."""
    dropped: ctypes.Array[ctypes.c_uint64]
