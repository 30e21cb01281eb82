"""The headers that BPF programs and Python share, as ctypes: ebpf/traffic.h, ebpf/throttle.h.

Checked in tests/unit/test_abi.py against the BTF of the object that was built from them.
"""

import ctypes
from collections.abc import Iterable
from enum import IntEnum

__all__ = [
    "THROTTLE_ABI_VERSION",
    "THROTTLE_MAX_PROCESSES",
    "THROTTLE_MAX_QUEUES",
    "THROTTLE_QUEUE_CLASSES",
    "THROTTLE_QUEUE_MAJOR",
    "ThrottleClass",
    "ThrottleCount",
    "ThrottleDevice",
    "ThrottleDirection",
    "ThrottleHolder",
    "ThrottleMembership",
    "ThrottleMeter",
    "ThrottleProcess",
    "ThrottleQueue",
    "ThrottleRate",
    "ThrottleRule",
    "ThrottleScope",
    "ThrottleSharing",
    "ThrottleSocket",
    "ThrottleTag",
    "ThrottleWhy",
    "TrafficCount",
    "TrafficDirection",
]

THROTTLE_QUEUE_MAJOR = 0xC7AD
"""Handle of a queue's HTB, and the upper half of skb->priority of what is or was in it."""

THROTTLE_QUEUE_CLASSES = 16
"""Classes of a rule are numbered THROTTLE_QUEUE_CLASSES * rule.queue + ThrottleClass."""

THROTTLE_MAX_QUEUES = 4094
"""How many rules can be queued at a time."""

THROTTLE_MAX_PROCESSES = 65536
"""How many processes can be limited at a time."""

THROTTLE_ABI_VERSION = 6
"""Changes with any change of ebpf/throttle.h; pins of another version are not ours to use."""


class TrafficDirection(IntEnum):
    """enum traffic_direction: the keys of the map `traffic`."""

    EGRESS = 0
    INGRESS = 1

    @property
    def key(self) -> bytes:
        """As the map takes it."""
        return bytes(ctypes.c_uint32(self))


class TrafficCount(ctypes.Structure):
    """struct traffic_count: what passed in one direction, on one CPU or on all of them."""

    _fields_ = (
        ("packets", ctypes.c_uint64),
        ("ip_bytes", ctypes.c_uint64),
        ("wire_bytes", ctypes.c_uint64),
        ("errors", ctypes.c_uint64),
    )

    packets: int
    """Packets as on the wire: a GSO buffer counts as its segments."""
    ip_bytes: int
    """Bytes from the IP header on; a GSO buffer's headers once."""
    wire_bytes: int
    """Bytes from the IP header on; each GSO segment's own headers counted."""
    errors: int
    """GSO buffers that were not understood, each counted as one packet."""

    @classmethod
    def total(cls, per_cpu: Iterable[bytes]) -> "TrafficCount":
        """The sum of a value's copies, one for each CPU. Raises ValueError for a copy that is too short."""
        counts = [cls.from_buffer_copy(copy) for copy in per_cpu]
        return cls(*(sum(getattr(count, name) for count in counts) for name, _ in cls._fields_))


class ThrottleDirection(IntEnum):
    """enum throttle_direction: the index into the arrays below."""

    UP = 0
    DOWN = 1


class ThrottleScope(IntEnum):
    """enum throttle_scope."""

    ALL = 0
    INTERNET = 1
    LOCAL = 2


class ThrottleClass(IntEnum):
    """enum throttle_class: a rule's HTB classes."""

    UP_TCP = 0
    UP_OTHER = 4
    UP_REST = 5
    UP_FIRST = 6
    UP_WHOLE = 7
    DOWN_TCP = 8
    DOWN_OTHER = 12
    DOWN_REST = 13
    DOWN_FIRST = 14
    DOWN_WHOLE = 15


class ThrottleWhy(IntEnum):
    """enum throttle_why: what keeps `auto` from queueing a rule's downloads."""

    ASKED = 0
    KERNEL = 1
    PERMISSION = 2
    ROOM = 3
    UNFINISHED = 4
    SLOW = 5


class ThrottleDevice(ctypes.Structure):
    """struct throttle_device, key of the map `queues`: a network device."""

    _fields_ = (("namespace", ctypes.c_uint32), ("ifindex", ctypes.c_uint32))

    namespace: int
    """Inode of its network namespace."""
    ifindex: int


class ThrottleQueue(ctypes.Structure):
    """struct throttle_queue, value of the map `queues`: what was done to a device; written before it is done."""

    _fields_ = (
        ("is_queue", ctypes.c_uint32),
        ("by_link", ctypes.c_uint32),
        ("by_filter", ctypes.c_uint32),
        ("own_clsact", ctypes.c_uint32),
        ("segment", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
    )

    is_queue: int
    """It is the IFB, which we made."""
    by_link: int
    """Its ingress has a tcx link, which is pinned."""
    by_filter: int
    """Its clsact has our filters: 1 << ThrottleDirection."""
    own_clsact: int
    """We made that clsact."""
    segment: int
    """Of an IFB: bytes of the longest packet that its classes take, with link header."""


class ThrottleProcess(ctypes.Structure):
    """struct throttle_process, value of the map `processes`; the key is a tgid of the initial PID namespace."""

    _fields_ = (
        ("rule", ctypes.c_uint64),
        ("start_ticks", ctypes.c_uint64),
        ("inherit", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
    )

    rule: int
    start_ticks: int
    """Field 22 of /proc/PID/stat."""
    inherit: int
    """1 if children belong to the rule too."""


class ThrottleMembership(ctypes.Structure):
    """struct throttle_membership, context of the program `set_membership`; it returns 1 if that was done."""

    _fields_ = (
        ("rule", ctypes.c_uint64),
        ("start_ticks", ctypes.c_uint64),
        ("tgid", ctypes.c_uint32),
        ("inherit", ctypes.c_uint32),
    )

    rule: int
    """0: leaves the rule it is in."""
    start_ticks: int
    tgid: int
    inherit: int


class ThrottleSharing(ctypes.Structure):
    """struct throttle_sharing, context of the program `set_share`; it returns 1 if the rule is there."""

    _fields_ = (("rule", ctypes.c_uint64), ("share", ctypes.c_uint64), ("settled_ns", ctypes.c_uint64))

    rule: int
    share: int
    """bytes/s that one sending TCP socket may take."""
    settled_ns: int
    """CLOCK_BOOTTIME until when large windows shrink before they are paced."""


class ThrottleHolder(ctypes.Structure):
    """struct throttle_holder, value of the map `holders`; the key is the tgid with whose end the rule ends."""

    _fields_ = (("rule", ctypes.c_uint64), ("start_ticks", ctypes.c_uint64))

    rule: int
    start_ticks: int


class ThrottleTag(ctypes.Structure):
    """struct throttle_tag, value of the map `tags`; the key is a socket."""

    _fields_ = (
        ("rule", ctypes.c_uint64),
        ("refused", ctypes.c_uint32),
        ("our_pacing", ctypes.c_uint32),
        ("own_pacing", ctypes.c_uint32),
        ("our_callback", ctypes.c_uint32),
        ("our_window", ctypes.c_uint32),
        ("known", ctypes.c_uint32),
        ("sent_again", ctypes.c_uint32),
        ("received_until", ctypes.c_uint32),
        ("past_queue", ctypes.c_uint32),
        ("told_ms", ctypes.c_uint32),
    )

    rule: int
    refused: int
    our_pacing: int
    """bytes/s of payload; 0: not set by us."""
    own_pacing: int
    """bytes/s as the application had it; 0xffffffff: no limit."""
    our_callback: int
    our_window: int
    """Segments; 0: not set by us."""
    known: int
    """Bits: 1, sent_again; 2, received_until."""
    sent_again: int
    received_until: int
    past_queue: int
    """Packets sent since the queue's filter saw one."""
    told_ms: int
    """CLOCK_BOOTTIME when its sender was last told to slow down."""


class ThrottleSocket(ctypes.Structure):
    """struct throttle_socket: what a reading of `tag_open_sockets` gives for each socket of the rule in `claim`."""

    _fields_ = (
        ("tgid", ctypes.c_uint32),
        ("tid", ctypes.c_uint32),
        ("fd", ctypes.c_uint32),
        ("namespace", ctypes.c_uint32),
    )

    tgid: int
    tid: int
    """The thread that has it open: the main thread may have ended."""
    fd: int
    namespace: int
    """Inode of the socket's network namespace."""


class ThrottleRate(ctypes.Structure):
    """struct throttle_rate."""

    _fields_ = (("bytes_per_s", ctypes.c_uint64), ("burst_ns", ctypes.c_uint64))

    bytes_per_s: int
    """0: not limited."""
    burst_ns: int


class ThrottleRule(ctypes.Structure):
    """struct throttle_rule, value of the map `rules`; the key is the rule's id."""

    _fields_ = (
        ("rate", ThrottleRate * len(ThrottleDirection)),
        ("expires_ns", ctypes.c_uint64),
        ("armed_ns", ctypes.c_uint64),
        ("scope", ctypes.c_uint32),
        ("queue", ctypes.c_uint32),
        ("queued", ctypes.c_uint32),
        ("why", ctypes.c_uint32),
    )

    rate: "ctypes.Array[ThrottleRate]"
    expires_ns: int
    """CLOCK_BOOTTIME; 0: never."""
    armed_ns: int
    """CLOCK_BOOTTIME; until then it is being set up: paced and counted, nothing dropped."""
    scope: int
    """A ThrottleScope."""
    queue: int
    """Number of its classes in the queues, 1 to THROTTLE_MAX_QUEUES; 0: none."""
    queued: int
    """1 << ThrottleDirection: held by a queue where one is on a packet's way."""
    why: int
    """A ThrottleWhy."""


class ThrottleCount(ctypes.Structure):
    """struct throttle_count. Bytes are IP bytes on the wire, every GSO segment's headers included.

    What came through a queue counts 14 bytes more a packet, as the queue counts it.
    """

    _fields_ = (
        ("passed_packets", ctypes.c_uint64),
        ("passed_bytes", ctypes.c_uint64),
        ("queued_packets", ctypes.c_uint64),
        ("queued_bytes", ctypes.c_uint64),
        ("policed_bytes", ctypes.c_uint64),
        ("told_packets", ctypes.c_uint64),
        ("dropped_packets", ctypes.c_uint64),
        ("dropped_bytes", ctypes.c_uint64),
        ("marked_packets", ctypes.c_uint64),
        ("retransmitted_packets", ctypes.c_uint64),
        ("window_ns", ctypes.c_uint64),
        ("window_bytes", ctypes.c_uint64),
        ("bytes_per_s", ctypes.c_uint64),
    )

    passed_packets: int
    passed_bytes: int
    queued_packets: int
    """Of those passed, through a queue."""
    queued_bytes: int
    policed_bytes: int
    """Of those passed, past the queue that was to hold them."""
    told_packets: int
    """Passed when a sender was last told to slow down."""
    dropped_packets: int
    dropped_bytes: int
    marked_packets: int
    retransmitted_packets: int
    """TCP segments that were sent again."""
    window_ns: int
    """CLOCK_BOOTTIME when the running measurement began."""
    window_bytes: int
    bytes_per_s: int
    """What the measurement before it found."""


class ThrottleMeter(ctypes.Structure):
    """struct throttle_meter, value of the map `meters`; the key is the rule's id."""

    _fields_ = (
        ("ahead_until", ctypes.c_uint64 * len(ThrottleDirection)),
        ("count", ThrottleCount * len(ThrottleDirection)),
        ("share", ctypes.c_uint64),
        ("epoch_ns", ctypes.c_uint64),
        ("epoch_bytes", ctypes.c_uint64),
        ("sending", ctypes.c_uint64),
        ("base_ns", ctypes.c_uint64),
        ("settled_ns", ctypes.c_uint64),
        ("leader_start_ticks", ctypes.c_uint64),
        ("leader", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
        ("name", ctypes.c_char * 16),
        ("processes", ctypes.c_uint64),
        ("other_until", ctypes.c_uint64 * len(ThrottleDirection)),
        ("tcp_ns", ctypes.c_uint64 * len(ThrottleDirection)),
        ("untracked", ctypes.c_uint64),
    )

    ahead_until: "ctypes.Array[ctypes.c_uint64]"
    """1/256 ns since base_ns."""
    count: "ctypes.Array[ThrottleCount]"
    share: int
    """bytes/s that one sending TCP socket may take."""
    epoch_ns: int
    epoch_bytes: int
    sending: int
    base_ns: int
    """CLOCK_BOOTTIME."""
    settled_ns: int
    """CLOCK_BOOTTIME; until then windows shrink before they are paced."""
    leader_start_ticks: int
    leader: int
    """The process the rule was made for."""
    name: bytes
    processes: int
    other_until: "ctypes.Array[ctypes.c_uint64]"
    """As ahead_until, for what is not TCP."""
    tcp_ns: "ctypes.Array[ctypes.c_uint64]"
    """CLOCK_BOOTTIME when TCP last offered data."""
    untracked: int
