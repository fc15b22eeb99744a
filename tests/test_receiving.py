"""What a push makes of the refs, and how it is read and answered: rules and format, without git."""

import random

import pytest

from mirror.core.errors import UsageError
from mirror.core.formats import pktline, receive_pack
from mirror.core.formats.pktline import Mark
from mirror.core.formats.receive_pack import Command, Reader
from mirror.core.model import HEAD, RefName, Target
from mirror.core.rules import receiving

A, B, C = (Target(letter * 40) for letter in (b"a", b"b", b"c"))
MAIN, DEV, TAG = (RefName(name) for name in (b"refs/heads/main", b"refs/heads/dev", b"refs/tags/v1"))
OLD = {HEAD: Target(b"ref: refs/heads/main"), MAIN: A, DEV: B}
ZERO = b"0" * 40


def command(name: bytes, old: Target | None, new: Target | None) -> Command:
    return Command(RefName(name), old, new)


@pytest.mark.parametrize(
    ("commands", "atomic", "after", "refused"),
    [
        pytest.param([command(MAIN, A, C)], False, {MAIN: C, DEV: B}, {}, id="moved"),
        pytest.param(
            [command(MAIN, A, None)], False, {DEV: B}, {}, id="deleted, also where HEAD leads to it"
        ),
        pytest.param(
            [command(MAIN, B, C)], False, {MAIN: A, DEV: B}, {MAIN: "fetch first"}, id="moved since"
        ),
        pytest.param([command(MAIN, B, A)], False, {MAIN: A, DEV: B}, {}, id="is there already: a retry"),
        pytest.param([command(TAG, C, None)], False, {MAIN: A, DEV: B}, {}, id="deleted, not there: a retry"),
        pytest.param(
            [command(MAIN, A, C), command(DEV, A, C)],
            False,
            {MAIN: C, DEV: B},
            {DEV: "moved"},
            id="one of two",
        ),
        pytest.param(
            [command(MAIN, A, C), command(DEV, A, C)],
            True,
            {MAIN: A, DEV: B},
            {MAIN: "another ref of this atomic push", DEV: "moved"},
            id="none of two, as it is atomic",
        ),
        pytest.param(
            [command(TAG, None, A), command(TAG, None, B)],
            False,
            {MAIN: A, DEV: B},
            {TAG: "twice"},
            id="twice",
        ),
        pytest.param(
            [command(b"refs/heads/dev/x", None, A)],
            False,
            {MAIN: A, DEV: B},
            {b"refs/heads/dev/x": "beside"},
            id="below a branch",
        ),
        pytest.param(
            [command(b"refs/heads/dev/x", None, A), command(DEV, B, None)],
            False,
            {MAIN: A, b"refs/heads/dev/x": A},
            {},
            id="below a branch that goes by the same push",
        ),
        pytest.param(
            [command(b"refs/a", None, A), command(b"refs/a/b", None, A)],
            False,
            {MAIN: A, DEV: B, b"refs/a": A},
            {b"refs/a/b": "beside"},
            id="two that collide",
        ),
        *(
            pytest.param([command(name, None, A)], False, {MAIN: A, DEV: B}, {name: "no name"}, id=repr(name))
            for name in (b"refs/heads/../x", b"refs/heads/a\0b", b"main", b"refs/heads/x.lock", b"refs/a b")
        ),
        pytest.param([command(HEAD, None, A)], False, {MAIN: A, DEV: B}, {HEAD: "push option"}, id="HEAD"),
        pytest.param(
            [command("refs/heads/\u202ebidi".encode(), None, C)],
            False,
            {MAIN: A, DEV: B, "refs/heads/\u202ebidi".encode(): C},
            {},
            id="what git accepts is welcome",
        ),
    ],
)
def test_each_command_is_followed_or_refused_with_a_reason(
    commands: list[Command], atomic: bool, after: dict[bytes, Target], refused: dict[bytes, str]
) -> None:
    found = receiving.received(OLD, commands, atomic=atomic)
    assert found.refs == {HEAD: OLD[HEAD], **after}
    assert found.refused.keys() == refused.keys()
    for name, why in refused.items():
        assert why in found.refused[RefName(name)]


@pytest.mark.parametrize(
    ("old", "pushed", "asked", "head"),
    [
        ({}, [MAIN, DEV], None, MAIN),
        ({}, [DEV], None, DEV),
        ({}, [RefName(b"refs/heads/master"), DEV], None, b"refs/heads/master"),
        ({}, [TAG], None, MAIN),
        ({HEAD: Target(b"ref: refs/heads/main"), TAG: A}, [DEV], None, DEV),
        (OLD, [TAG], None, MAIN),
        (OLD, [TAG], "dev", DEV),
        (OLD, [TAG], "refs/heads/new", b"refs/heads/new"),
    ],
)
def test_head_leads_where_it_led_or_to_the_likeliest_branch(
    old: dict[RefName, Target], pushed: list[RefName], asked: str | None, head: bytes
) -> None:
    wanted = receiving.branch(asked) if asked else None
    found = receiving.received(old, [Command(name, None, C) for name in pushed], head=wanted)
    assert found.refs[HEAD] == b"ref: " + head


@pytest.mark.parametrize("text", ["", "a..b", "refs/tags/v1", "\udcff\n"])
def test_head_can_lead_to_a_branch_only(text: str) -> None:
    with pytest.raises(UsageError, match="HEAD leads to a branch"):
        receiving.branch(text)


def test_a_push_is_read_however_its_bytes_are_cut() -> None:
    told = b"\0report-status side-band-64k push-options object-format=sha1"
    sent = pktline.encode(
        [
            b"shallow " + A + b"\n",
            ZERO + b" " + A + b" " + MAIN + told,
            B + b" " + ZERO + b" " + DEV + b"\n",
            Mark.FLUSH,
            b"everref.head=dev",
            b"other",
            Mark.FLUSH,
        ]
    )
    for size in (1, 7, 4096):
        reader, pack = Reader("sha1"), b""
        whole = sent + b"PACK and more"
        for start in range(0, len(whole), size):
            pack += reader.feed(whole[start : start + size])
        request = reader.end()
        assert request is not None and pack == b"PACK and more"
        assert request.commands == (Command(MAIN, None, A), Command(DEV, B, None))
        assert (request.option("everref.head"), request.option("else")) == ("dev", None)
        assert (request.is_shallow, request.has_pack, request.is_atomic) == (True, True, False)


@pytest.mark.parametrize(
    "sent",
    [
        b"PUSH",
        b"zzzz",
        b"0003",
        b"0001",
        pktline.encode([b"hello", Mark.FLUSH]),
        pktline.encode([ZERO + b" " + A + b" ", Mark.FLUSH]),
        pktline.encode([ZERO + b" " + A.upper() + b" refs/x", Mark.FLUSH]),
        pktline.encode([ZERO + b" " + A + b" refs/x\0object-format=sha256", Mark.FLUSH]),
        pktline.encode([b"push-cert\0x\n", Mark.FLUSH]),
        pktline.encode([ZERO + b" " + A + b" refs/x\0push-options", Mark.FLUSH, *[b"o"] * 101, Mark.FLUSH]),
        pktline.encode([ZERO + b" " + A + b" refs/x\0"]),
    ],
)
def test_what_is_no_push_is_refused(sent: bytes) -> None:
    reader = Reader("sha1")
    with pytest.raises(UsageError):
        reader.feed(sent)
        reader.end()


def test_whatever_is_sent_is_read_or_refused() -> None:
    told = b"\0report-status push-options object-format=sha1"
    sound = pktline.encode([ZERO + b" " + A + b" " + MAIN + told, Mark.FLUSH, b"o=1", Mark.FLUSH]) + b"PACK"
    chance, read = random.Random(14), 0
    for _ in range(3000):
        sent = bytearray(sound)
        for _ in range(chance.randint(0, 3)):
            sent[chance.randrange(len(sent))] = chance.choice(b"0001fz \0\n\xff")
        del sent[chance.randint(len(sent) // 2, len(sent)) :]
        reader = Reader("sha1")
        try:
            reader.feed(bytes(sent))
            request = reader.end()
        except UsageError:
            continue
        read += 1
        if request is not None:
            found = receiving.received(OLD, request.commands)
            receive_pack.report(request, None, found.refused)
    assert 100 < read < 2900


def test_a_message_cannot_command_the_terminal_of_who_pushes() -> None:
    reader = Reader("sha1")
    reader.feed(pktline.encode([ZERO + b" " + A + b" refs/x\0report-status side-band-64k", Mark.FLUSH]))
    request = reader.end()
    assert request is not None
    told = receive_pack.note(request, "red \x1b[31m\nline") + receive_pack.report(request, "bad\x07", {})
    assert b"\x1b" not in told and b"\x07" not in told and told.endswith(b"0000")
