"""Which addresses may be connected to: a name is resolved once, and each of its addresses is checked.

An address that a user supplied could point at what only this machine can reach
(server-side request forgery). So what was judged here is what the edges dial.
"""

import asyncio
import ipaddress
import socket
from typing import Final

from mirror.core.errors import NetworkError

NOWHERE: Final = "cannot be reached from here"  # the same message for forbidden and for missing addresses

_GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")  # all that is assigned: RFC 4291, 2.4
# What Python calls global, at least in some version, although nobody's own server is there:
# https://www.iana.org/assignments/iana-ipv4-special-registry, https://www.iana.org/assignments/iana-ipv6-special-registry
_SPECIAL: Final = tuple(
    ipaddress.ip_network(one)
    for one in (
        "192.0.0.0/24",  # protocol assignments, anycast among them
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # automatic multicast tunnelling
        "192.88.99.0/24",  # relays of 6to4
        "192.175.48.0/24",  # AS112
        "2001::/23",  # protocol assignments: Teredo, benchmarking, ORCHID, DRIP
        "2001:db8::/32",  # documentation
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR: Final = ipaddress.IPv6Network("2002::/16")
_TEST_NET: Final = "192.0.2.1"  # nobody's: RFC 5737

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


async def resolved(host: str, port: int, allow_private: bool) -> list[str]:
    """The addresses of this host, each of them allowed.

    Raises NetworkError if there is none, or if one of them is private and
    that is not allowed: the caller does not learn which.
    """
    loop = asyncio.get_running_loop()
    try:
        infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise NetworkError(f"{host} {NOWHERE}; check the address and the network") from None
    found = list(dict.fromkeys(str(info[4][0]) for info in infos))
    if not found or not (allow_private or all(is_public(one) and not is_ours(one) for one in found)):
        raise NetworkError(f"{host} {NOWHERE}; check the address and the network")
    return found


def is_public(text: str) -> bool:
    """Whether an address is on the public internet, also if it is embedded in an IPv6 one."""
    try:
        address: Address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        inner = _inside(address)
        if inner is not None:
            return is_public(str(inner))
        if address not in _GLOBAL_UNICAST:
            return False
    return address.is_global and not address.is_multicast and not any(address in one for one in _SPECIAL)


def _inside(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that is embedded in an IPv6 one, if there is any."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _SIX_TO_FOUR:
        return address.sixtofour
    return None


def is_ours(address: str) -> bool:
    """Whether the address is this machine's own: only then can a socket be bound to it."""
    return _binds(address) and not _binds(_TEST_NET)  # a kernel set to ip_nonlocal_bind binds to any


def _binds(address: str) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
