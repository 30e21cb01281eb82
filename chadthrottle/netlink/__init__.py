"""Devices, addresses, queues and filters, by rtnetlink; the one importer of pyroute2.

Importing it takes 170 ms: whoever imports this does so when it is needed.
"""

from chadthrottle.netlink.errors import answered
from chadthrottle.netlink.links import Device, Links
from chadthrottle.netlink.messages import CLSACT_EGRESS, CLSACT_INGRESS
from chadthrottle.netlink.traffic_control import Filter, TrafficControl

__all__ = [
    "CLSACT_EGRESS",
    "CLSACT_INGRESS",
    "Device",
    "Filter",
    "Links",
    "TrafficControl",
    "answered",
]
