"""Whose request it is: what proxies say counts as far as they are trusted, and not a header further."""

import pytest

from mirror.core import peer

OURS = peer.networks(["10.0.0.7", "172.18.0.0/16", "2001:db8::/32"])


@pytest.mark.parametrize(
    ("at", "said", "who"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["203.0.113.9"], "192.0.2.1"),
        ("10.0.0.7", [], "10.0.0.7"),
        ("10.0.0.7", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.7", ["127.0.0.1, 203.0.113.9"], "203.0.113.9"),
        ("10.0.0.7", ["127.0.0.1", "203.0.113.9"], "203.0.113.9"),
        ("10.0.0.7", ["198.51.100.4, 203.0.113.9, 172.18.0.3"], "203.0.113.9"),
        ("::ffff:10.0.0.7", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.7", ["203.0.113.9:4711"], "203.0.113.9"),
        ("10.0.0.7", ["[2606:4700::1]:4711"], "2606:4700::1"),
        ("10.0.0.7", ["203.0.113.9, unknown"], "10.0.0.7"),
        ("10.0.0.7", ["203.0.113.9, "], "10.0.0.7"),
        ("10.0.0.7", ["172.18.0.4, 172.18.0.3"], "172.18.0.4"),
        ("10.0.0.7", [", ".join(["203.0.113.9"] + ["172.18.0.3"] * 1000)], "172.18.0.3"),
        ("a socket of unix", ["203.0.113.9"], "a socket of unix"),
    ],
)
def test_the_rightmost_that_is_no_proxy_of_ours_counts(at: str, said: list[str], who: str) -> None:
    assert peer.client(at, said, OURS) == who


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2606:4700:1:2:3:4:5:6", "2606:4700:1:2::/64"),
        ("2606:4700:1:2::1%eth0", "2606:4700:1:2::/64"),
        ("unknown", "unknown"),
    ],
)
def test_a_place_is_an_address_or_what_one_subscriber_has(address: str, place: str) -> None:
    assert peer.network(address) == place


def test_this_machine_is_what_the_socket_says() -> None:
    assert peer.is_loopback("127.0.0.1") and peer.is_loopback("::1") and peer.is_loopback("::ffff:127.0.0.1")
    assert not peer.is_loopback("localhost") and not peer.is_loopback("10.0.0.1")
