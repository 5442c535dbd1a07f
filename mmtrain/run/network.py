"""Which of a node's networks leads to rank 0."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys

_SIOCGIFADDR = 0x8915
_GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"


def join_network_of(address: str) -> None:
    """Has gloo talk over the network that leads to ``address``, unless ``GLOO_SOCKET_IFNAME`` names another.

    Gloo tells the other ranks the address that this node's own name resolves to. Debian's installer maps that to
    127.0.1.1, and on a node of several networks it may be any of them. NCCL looks for itself.
    """
    if _GLOO_INTERFACE not in os.environ and (interface := interface_towards(address)) is not None:
        os.environ[_GLOO_INTERFACE] = interface


def interface_towards(address: str) -> str | None:
    """The interface whose own address this node uses to reach ``address``; None where it is not to be known.

    Args:
        address: Name or IPv4 address of a host, which need not answer.
    """
    if not sys.platform.startswith("linux"):
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))  # sends nothing: the kernel chooses a route
        except OSError:
            return None
        own = probe.getsockname()[0]
        addresses = {_address(probe, name): name for _, name in socket.if_nameindex()}
    return addresses.get(own)


def _address(probe: socket.socket, interface: str) -> str | None:
    """The first IPv4 address of an interface, by netdevice(7)."""
    try:
        answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", interface.encode()))
    except OSError:
        return None
    return socket.inet_ntoa(answer[20:24])
