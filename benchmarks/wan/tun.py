"""A tun device in a namespace; it is there as long as somebody holds the descriptor."""

import fcntl
import os
import struct

from tests.support.network import entered_namespace

__all__ = ["open_tun"]

# include/uapi/linux/if_tun.h
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN = 0x01, 0x02, 0x04, 0x08
TUN_F_USO4, TUN_F_USO6 = 0x20, 0x40  # Linux 6.2
TCP_OFFLOAD = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN


def open_tun(namespace: str, device: str, *, offload: bool) -> int:
    """Make the device; its descriptor, whose frames begin with a struct virtio_net_hdr.

    With offload, buffers of up to 64 KiB are not cut into segments. Raises OSError.
    """
    with entered_namespace(namespace):
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TUN | IFF_NO_PI | IFF_VNET_HDR))
            if offload:
                _set_offload(fd)
        except OSError:
            os.close(fd)
            raise
    return fd


def _set_offload(fd: int) -> None:
    try:
        fcntl.ioctl(fd, TUNSETOFFLOAD, TCP_OFFLOAD | TUN_F_USO4 | TUN_F_USO6)
    except OSError:  # before 6.2: UDP's is cut
        fcntl.ioctl(fd, TUNSETOFFLOAD, TCP_OFFLOAD)
