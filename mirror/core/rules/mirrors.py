"""Mirrors: their addresses, what a push to one will do with each ref, and how one is doing.

Who calls: restore/mirrors (adding one), restore/mirroring (pushing to one), and pages, API and command line
for how they are doing.
"""

import ipaddress
import re
import shlex
from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, Literal
from urllib.parse import quote, unquote, urlsplit

from mirror.core.errors import UsageError
from mirror.core.model import HEAD, RefName, Refs, Target
from mirror.core.refs import is_symbolic, resolve, shown_text, symbolic_target
from mirror.core.rules.history.plan import RefAction, push_actions
from mirror.core.rules.hosts import Profile

State = Literal["paused", "stopped", "failing", "changed", "refused", "behind", "waiting", "current"]
Held = tuple[RefName, Target]  # what a mirror holds under a name

LOOK: Final = timedelta(days=1)  # after which a mirror is compared again although nothing was pushed
SOON: Final = timedelta(minutes=1)  # until another try where something failed that is not the mirror's fault
_FIELD: Final = re.compile(r"\{([^{}]*)\}")
_FIELDS: Final = ("name", "owner")
_PORTS: Final = {"https": 443, "http": 80, "ssh": 22}


def check_pattern(text: str) -> None:
    """Raise UsageError unless this is an address with {name}, and with no other braces than {owner}."""
    found = _FIELD.findall(text)
    if "name" not in found:
        raise UsageError(
            "the address of a team's mirror must have {name}, as in https://git.example.org/backup/{name}",
            field="address",
        )
    left = _FIELD.sub("", text)
    if "{" in left or "}" in left or not set(found) <= set(_FIELDS):
        raise UsageError("an address can have {name} and {owner}, and no other braces", field="address")


def address_of(pattern: str, repo: str) -> str:
    """The address of a repo at a team's mirror: {name} ends its name, {owner} is before that."""
    owner, _, name = repo.strip("/").rpartition("/")
    values = {"name": name.removesuffix(".git"), "owner": owner.replace("/", "-") or name}
    return _FIELD.sub(lambda found: quote(values[found[1]], safe=""), pattern)


def place_of(url: str) -> str:
    """Which repository an address means, whichever way it is written: https or ssh, with or without .git.

    Upper and lower case are the same, as at most hosts: rather refuse one too many than make a loop.
    """
    if url.startswith("/"):
        return url.rstrip("/").removesuffix("/.git")
    parts = urlsplit(url)
    port = parts.port if parts.port not in (None, _PORTS.get(parts.scheme)) else None
    path = unquote(parts.path).strip("/").removeprefix("./").removesuffix(".git").rstrip("/")
    # Over ssh a host mostly listens at another port than over https; then only the host tells.
    host = (parts.hostname or "").lower().rstrip(".") + (f":{port}" if port and parts.scheme != "ssh" else "")
    return f"{host}/{path}".lower()


def _host(name: str) -> str:
    """A host's name to compare: without the dot of the root, and one for all that mean this machine."""
    name = name.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761
        return "localhost"
    try:
        one = ipaddress.ip_address(name)
    except ValueError:
        return name
    mapped = getattr(one, "ipv4_mapped", None) or one
    return "localhost" if mapped.is_loopback or mapped.is_unspecified else str(mapped)


def is_ours(url: str, origin: str) -> bool:
    """Whether an address leads to Everref's own door, whose origin this is."""
    theirs, ours = urlsplit(url), urlsplit(origin)
    there, here = (_host(one.hostname or "") for one in (theirs, ours))
    if theirs.scheme not in ("http", "https") or there != here:
        return False
    return (theirs.port or _PORTS[theirs.scheme]) == (ours.port or _PORTS.get(ours.scheme))


def asked(wanted: Refs, listed: Refs, profile: Profile) -> list[Held]:
    """What a mirror holds and is not to hold any more: the history says which of it came from here."""
    return [
        (name, found)
        for name, found in sorted(listed.items())
        if name != HEAD and not profile.refuses(name) and resolve(wanted, name) != found
    ]


def actions(
    wanted: Refs,
    listed: Refs,
    ours: Collection[Held],
    profile: Profile,
    *,
    deletes: bool = False,
    overwrites: bool = False,
) -> list[RefAction]:
    """What a push to a mirror that lists `listed` will do with each ref, in the order of names.

    `ours` is what of `asked` came from here: what a snapshot had under that name, or an ancestor of what is
    pushed there. A force-push at the source overwrites that; anything else is `diverged`, and stays unless
    the mirror `overwrites`. What was deleted at the source stays too, unless the mirror `deletes`; what never
    was at the source is deleted only if it does both. What stands in the way of another ref is removed first:
    that one is `refused` until then.
    """
    known = set(ours)
    gone = [one for one in asked(wanted, listed, profile) if one[0] not in wanted]
    removed = {name for name, held in gone if deletes and (overwrites or (name, held) in known)}
    found = push_actions(wanted, listed, force=True, refuses=profile.refuses)
    pushed = [one if overwrites else _unless_changed(one, known) for one in found]
    left = [_gone(name, held, known, name in removed, deletes) for name, held in gone]
    return sorted([*pushed, *left], key=lambda one: one.name)


def _unless_changed(one: RefAction, known: Collection[Held]) -> RefAction:
    if one.action != "update" or one.old is None or (one.target_name, one.old) in known:
        return one
    holds = shown_text(one.old)[:10]
    why = f"changed at the mirror: it holds {holds} there, which no snapshot here has had"
    return replace(one, action="diverged", why=why)


def _gone(name: RefName, held: Target, known: Collection[Held], removed: bool, deletes: bool) -> RefAction:
    """What becomes of a ref that the mirror has and the source has not."""
    if removed:
        return RefAction(name, held, name, "remove", "deleted at the source", held)
    if (name, held) in known:
        return RefAction(name, held, name, "skipped", "deleted at the source; this mirror keeps it", held)
    if deletes:
        return RefAction(name, held, name, "diverged", "made at the mirror: no snapshot here has it", held)
    return RefAction(name, held, name, "skipped", "made at the mirror; it stays", held)


def aliases(wanted: Refs, held: Iterable[Held]) -> dict[Held, Held]:
    """Under which name the history knows what was pushed for a symbolic ref: that of the ref it points to."""
    return {
        one: (symbolic_target(wanted[one[0]]), one[1])
        for one in held
        if one[0] in wanted and is_symbolic(wanted[one[0]])
    }


def head_move(wanted: Refs, arrived: Refs) -> RefName | None:
    """The branch to make the mirror's default one. None: it is already, or it is not there."""
    head, there = wanted.get(HEAD), arrived.get(HEAD)
    if head is None or not is_symbolic(head) or head == there:
        return None
    branch = symbolic_target(head)
    return branch if branch in arrived else None


def default_stays(branch: RefName, why: str = "") -> str:
    """What is said where the mirror's default branch cannot be made another one from here."""
    name = shown_text(branch.removeprefix(b"refs/heads/"))
    if why:
        return f"make {name} the default branch at the mirror: {why}"
    return (
        f"make {name} the default branch at the mirror, as it is at the source: no push can do that, but the"
        f" host's settings, or in a bare repository git symbolic-ref HEAD {shlex.quote(f'refs/heads/{name}')}"
    )


def state(
    *, paused: bool, failure: str | None, counts: dict[str, int], pushed: int, newest: int, due: bool
) -> State:
    """How a mirror is doing, in a word; the first of these that is true.

    `stopped`: its credentials were refused, and nothing is tried until they are others. `changed`: somebody
    else has written there. `refused`: the host took all but some refs. `waiting`: nothing of the repo has
    ever been pushed, or backed up.
    """
    if paused:
        return "paused"
    if failure is not None:
        return "failing" if due else "stopped"
    if counts.get("diverged"):
        return "changed"
    if counts.get("refused"):
        return "refused"
    if not pushed:
        return "waiting"
    return "behind" if pushed < newest else "current"


def next_look(at: datetime, chance: float) -> datetime:
    """When a mirror that has everything is compared again, spread over hours by `chance` in 0..1."""
    return at + LOOK * (0.75 + chance / 2)
