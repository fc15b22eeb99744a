"""A greeting and a listing are read in whatever pieces they arrive, and what no git says is refused."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.core.errors import Corrupt, EverrefError, Refused
from mirror.core.formats.lsrefs import Greeting, Reading
from mirror.core.formats.pktline import Lines, Mark, Packet, encode
from mirror.core.model import HEAD, Listing, RefName, Target

ID = Target(b"1" * 40)
MAIN = RefName(b"refs/heads/main")
SERVICE: list[Packet] = [b"# service=git-upload-pack", Mark.FLUSH]
V0: list[Packet] = [b"%b HEAD\0multi_ack symref=HEAD:refs/heads/main" % ID, b"%b refs/heads/main" % ID]


def greeted(packets: list[Packet], cuts: list[int] | None = None) -> Greeting:
    greeting, at = Greeting("here"), 0
    for size in [*(cuts or []), len(packets)]:
        greeting.add(packets[at : at + size])
        at += size
    return greeting


@given(st.lists(st.integers(0, 3), max_size=6))
def test_version_0_greets_with_its_refs(cuts: list[int]) -> None:
    peeled = b"%b refs/tags/v1^{}" % ID
    for head in ([], SERVICE, [*SERVICE, b"version 1"]):
        greeting = greeted([*head, *V0, peeled, Mark.FLUSH], cuts)
        assert (greeting.version, greeting.ended) == (0, True)
        assert greeting.capabilities[b"multi_ack"] == b""
        assert greeting.reading.done() == Listing({HEAD: Target(b"ref: refs/heads/main"), MAIN: ID}, "sha1")


@given(st.lists(st.integers(0, 3), max_size=6))
def test_version_2_greets_with_what_it_can(cuts: list[int]) -> None:
    for head in ([], SERVICE):
        said: list[Packet] = [*head, b"version 2", b"ls-refs=unborn", b"object-format=sha256", Mark.FLUSH]
        greeting = greeted(said, cuts)
        assert (greeting.version, greeting.ended, greeting.object_format) == (2, True, "sha256")
        assert greeting.capabilities[b"ls-refs"] == b"unborn"


def test_a_repository_without_refs_says_nothing_in_version_0() -> None:
    greeting = greeted([*SERVICE, Mark.FLUSH])
    assert (greeting.served, greeting.begun, greeting.ended) == (True, False, True)


@pytest.mark.parametrize(
    ("packets", "error"),
    [
        ([*SERVICE, Mark.FLUSH, Mark.FLUSH], Corrupt),
        ([*V0, Mark.FLUSH, Mark.FLUSH], Corrupt),
        ([*V0, Mark.DELIM], Corrupt),
        ([b"version 2", b"ls-refs", Mark.FLUSH, b"fetch"], Corrupt),
        ([b"version 2", Mark.END], Corrupt),
        ([*V0, b"shallow %b" % ID], Corrupt),
        ([*V0, V0[1]], Corrupt),
        ([b"%b HEAD\0object-format=sha3" % ID], Refused),
        ([b"hello"], Refused),
    ],
    ids=repr,
)
def test_a_greeting_that_no_git_gives_is_refused(packets: list[Packet], error: type[EverrefError]) -> None:
    with pytest.raises(error):
        greeted(packets).reading.done()


def test_a_listing_takes_about_three_times_its_length_in_memory() -> None:
    """It took six times, as the answer, its lines and the map stood side by side."""
    count = 60_000
    data = encode([b"%040x refs/heads/b%07d\n" % (n, n) for n in range(count)])
    tracemalloc.start()
    try:
        lines, reading = Lines(), Reading("here", "sha1")
        for start in range(0, len(data), 1 << 16):
            reading.add(
                [line for line in lines.feed(data[start : start + (1 << 16)]) if isinstance(line, bytes)]
            )
        assert len(reading.done().refs) == count
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3.5 * len(data)
