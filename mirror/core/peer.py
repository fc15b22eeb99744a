"""Who is at the other end of a request: the address that counts, where proxies of ours stand in between.

A header says whatever its sender likes. So one is believed only as far as a
proxy that we trust has written it: from its right end up to the first address
that is no such proxy's.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Networks = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]

THIS_MACHINE: Final[Networks] = (
    ipaddress.IPv4Network("127.0.0.1/32"),
    ipaddress.IPv6Network("::1/128"),
)
HOPS: Final = 20  # proxies that are followed through one header
_WIDTH: Final = 64  # bits of an IPv6 address that are one subscriber's: RFC 6177


def networks(items: Iterable[str]) -> Networks:
    """What a setting names by address or network. Raises ValueError, also where that is every address."""
    found = tuple(ipaddress.ip_network(item) for item in items)
    if any(one.prefixlen == 0 for one in found):
        raise ValueError("every address there is")
    return found


def parsed(text: str) -> Address | None:
    """An address as sockets and proxies write it: bracketed, with a port, IPv4 in IPv6. None: it is none."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    with suppress(ValueError):
        found = ipaddress.ip_address(text.partition("%")[0])
        mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
        return mapped or found
    return None


def is_among(text: str, trusted: Networks) -> bool:
    """Whether this address is in one of these networks."""
    found = parsed(text)
    return found is not None and any(found in one for one in trusted)


def client(peer: str, forwarded: Sequence[str], trusted: Networks) -> str:
    """Whose request it is: the socket's peer, or whoever the proxies that we trust had it from.

    `forwarded`: the values of X-Forwarded-For, in their order; each proxy adds at
    the right. What is no address ends it: the last proxy that was sure counts.
    """
    said = (item for value in reversed(forwarded) for item in reversed(value.split(",")))
    at = parsed(peer)
    if at is None:
        return peer
    for item in islice(said, HOPS):
        if not any(at in one for one in trusted):
            break
        before = parsed(item)
        if before is None:
            break
        at = before
    return str(at)


def network(text: str) -> str:
    """What counts as one place to come from: an IPv4 address, or the /64 of an IPv6 one."""
    found = parsed(text)
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((found, _WIDTH), strict=False))
    return text if found is None else str(found)


def is_loopback(text: str) -> bool:
    """Whether this is this machine, as a socket says it."""
    found = parsed(text)
    return found is not None and found.is_loopback
