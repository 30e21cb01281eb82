"""Devices and addresses, by rtnetlink; the one importer of pyroute2.

Importing it takes 170 ms: whoever imports this does so when it is needed.
"""

from chadthrottle.netlink.links import Links

__all__ = ["Links"]
