"""The framing of git's wire protocol, read in whatever pieces it arrives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.core.errors import Corrupt
from mirror.core.formats.pktline import LONGEST, Lines, Mark, Packet, Packets, SideBand, encode, text

PACKETS = st.lists(st.one_of(st.sampled_from(Mark), st.binary(max_size=300)), max_size=20)
CUTS = st.lists(st.integers(min_value=1, max_value=200), max_size=40)


def pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    cut, at = [], 0
    for size in sizes:
        cut.append(data[at : at + size])
        at += size
    return [*cut, data[at:]]


@given(PACKETS, CUTS)
def test_lines_are_read_from_any_pieces(packets: list[Packet], cuts: list[int]) -> None:
    lines = [packet if isinstance(packet, Mark) else text(packet) for packet in packets]
    reader = Lines()
    assert [line for piece in pieces(encode(packets), cuts) for line in reader.feed(piece)] == lines
    reader.end()


@given(PACKETS, CUTS)
def test_packets_are_taken_from_any_pieces(packets: list[Packet], cuts: list[int]) -> None:
    reader, taken = Packets(), []
    for piece in pieces(encode(packets), cuts):
        reader.feed(piece)
        while (packet := reader.take()) is not None:
            taken.append(packet)
    assert (taken, reader.rest) == (packets, b"")


@given(st.lists(st.tuples(st.integers(1, 2), st.binary(max_size=300)), max_size=20), CUTS)
def test_the_pack_comes_whole_out_of_any_pieces(bands: list[tuple[int, bytes]], cuts: list[int]) -> None:
    data = encode([bytes([band]) + payload for band, payload in bands]) + b"0000and what follows"
    side = SideBand()
    pack = b"".join([side.feed(piece) for piece in pieces(data, cuts)])
    assert side.ended
    assert pack == b"".join(payload for band, payload in bands if band == 1)


def test_the_longest_packet_is_read() -> None:
    side = SideBand()
    assert side.feed(encode([b"\1" + b"x" * (LONGEST - 1)])) == b"x" * (LONGEST - 1)


def test_what_the_remote_says_beside_the_pack_comes_by_line() -> None:
    side = SideBand()
    side.feed(encode([b"\2one\rtwo\nthr", b"\1PACK"]))
    assert list(side.said()) == [b"one", b"two"]
    side.feed(encode([b"\2ee\n"]))
    assert list(side.said()) == [b"three"]


def test_the_remotes_last_words_are_kept() -> None:
    side = SideBand()
    side.feed(encode([b"\1PA", b"\3out of ", b"\3luck\n"]))
    assert (side.fatal, side.ended) == (b"out of luck\n", False)


@pytest.mark.parametrize("data", [b"<html>", b"0003", b"-001", b" 12x", b"00", b"0010short"], ids=repr)
def test_what_is_no_packet_is_corrupt(data: bytes) -> None:
    reader = Lines()
    with pytest.raises(Corrupt, match="the remote's answer"):
        reader.feed(data)
        reader.end()


def test_reading_costs_what_arrives_and_not_its_square() -> None:
    """24 MiB of empty packets kept the event loop for 40 s, as every one copied all the rest."""

    class Copies(bytes):
        copied = 0

        def __getitem__(self, key: object) -> bytes:  # type: ignore[override]
            piece = bytes.__getitem__(self, key)  # type: ignore[call-overload]
            Copies.copied += len(piece)
            return bytes(piece)

    marks, packets = Copies(b"0000" * 5000), Packets()
    assert Lines().feed(marks) == [Mark.FLUSH] * 5000
    packets._data = marks
    while packets.take() is not None:
        pass
    assert (packets.taken, packets.rest) == (20_000, b"")
    assert Copies.copied <= 2 * 20_000 + 4


def test_much_that_the_remote_says_beside_the_pack_is_not_kept() -> None:
    side = SideBand()
    for _ in range(100):
        side.feed(encode([b"\2" + b"x" * (LONGEST - 1)]))
    assert len(side._said) <= 2 * LONGEST


@pytest.mark.parametrize("data", [b"<html>", b"0004rest", b"0001rest", b"0006\4x"], ids=repr)
def test_what_is_no_side_band_is_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt, match="not git's protocol"):
        SideBand().feed(data)
