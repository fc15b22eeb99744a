"""Which refs a rollback puts back, to what, and which it leaves: pure decisions about recorded moves.

A rollback undoes what somebody pushed in a window of time, to refs of any number of repos: each goes back to
what it held just before the first of these moves. Nothing that somebody else pushed since is taken away
unless that is asked for.
"""

import csv
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from difflib import get_close_matches
from typing import Any, Final, Literal, cast, get_args

from mirror.core import globs, words
from mirror.core.errors import NotFound, UsageError
from mirror.core.model import HEAD, Kind, RefChange, RefName, Target
from mirror.core.refs import is_hidden, is_symbolic, shown_text, symbolic_target
from mirror.core.rules.health.causes import repositories
from mirror.core.rules.history.plan import Lease
from mirror.core.times import when

What = Literal["created", "pushed", "forced", "deleted", "tag", "default"]
State = Literal["ready", "moved", "back", "dropped", "fixed"]

UNTOLD: Final = "not told"  # in place of an account that the host did not name
MANY: Final = 10  # deletions of refs of one repo that are a mass deletion
_NAMED: Final = 3  # accounts that a sentence names
_NEAR: Final = 3  # accounts of a spelling like one that is not known
_TAG: Final = b"refs/tags/"
WINDOW: Final = timedelta(days=1)  # that is looked at unless somebody says which
TAKES: Final[tuple[What, ...]] = ("forced", "deleted", "tag", "default")  # what takes something away


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which ref changes of a team."""

    since: datetime  # included
    until: datetime  # included
    actors: tuple[str, ...] = ()  # any of these, whatever their case; empty: anybody
    untold: bool = False  # or those whose account the host did not tell
    kinds: tuple[What, ...] = ()  # empty: any
    repos: tuple[str, ...] = ()  # globs of their names; empty: any
    refs: tuple[str, ...] = ()  # globs of refs; empty: any

    @property
    def asked(self) -> dict[str, Any]:
        """The same as it is kept and shown."""
        return {
            "since": words.rfc3339(self.since),
            "until": words.rfc3339(self.until),
            "actors": list(self.actors),
            "untold": self.untold,
            "kinds": list(self.kinds),
            "repos": list(self.repos),
            "refs": list(self.refs),
        }

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> "Wanted":
        """The same as it was kept."""
        since, until = (datetime.fromisoformat(asked[name]) for name in ("since", "until"))
        kinds, repos, refs = (tuple(asked[name]) for name in ("kinds", "repos", "refs"))
        return cls(since, until, tuple(asked["actors"]), asked["untold"], kinds, repos, refs)


def wanted(
    given: Mapping[str, Sequence[str]], now: datetime, zone: tzinfo, *, untold: bool = False
) -> Wanted:
    """The ref changes that are meant by what was typed: `since`, `until`, `actor`, `kind`, `repo` and `ref`.

    Times are any WHEN on the clocks of `zone`; without `since`, the last day. Raises UsageError with a field.
    """
    until = _time(given, "until", now, zone) or now
    since = _time(given, "since", now, zone) or until - WINDOW
    if since >= until:
        raise UsageError("the time ends before it begins; choose an earlier start", field="since")
    kinds = [one.strip() for one in given.get("kind", ()) if one.strip()]
    if unknown := [one for one in kinds if one not in get_args(What)]:
        raise UsageError(f"there is no kind {unknown[0]!r}; use {', '.join(get_args(What))}", field="kind")
    patterns = {name: tuple(one for one in given.get(name, ()) if one.strip()) for name in ("repo", "ref")}
    for name, some in patterns.items():
        try:
            globs.check(some)
        except UsageError as error:
            raise UsageError(str(error), field=name) from None
    actors = tuple(dict.fromkeys(one.strip() for one in given.get("actor", ()) if one.strip()))
    if len(actors) > globs.MOST:
        raise UsageError(f"{len(actors)} accounts are too many; use {globs.MOST} or fewer", field="actor")
    chosen = tuple(cast(What, one) for one in dict.fromkeys(kinds))
    return Wanted(since, until, actors, untold, chosen, patterns["repo"], patterns["ref"])


@dataclass(frozen=True, slots=True)
class Strangers:
    """Accounts that are asked for and of which no push is known, and who did push."""

    names: tuple[str, ...]
    accounts: tuple[tuple[str, int], ...]  # with their changes in that time; the nearest spelling first

    @property
    def sentence(self) -> str:
        """The same in words, without a full stop."""
        who = " or ".join(repr(words.clean(one)) for one in self.names)
        if not self.accounts:
            return f"no push by {who} is known; no host named who pushed in this time"
        some = ", ".join(f"{words.clean(name)} ({number:,})" for name, number in self.accounts)
        return f"no push by {who} is known; accounts that pushed in this time: {some}"


def accounts_of(text: str) -> list[str]:
    """The accounts that a field names, with commas between them: one that has a comma itself is in quotes."""
    return next(csv.reader([" ".join(text.split())], skipinitialspace=True), [])


def one_field(accounts: Iterable[str]) -> str:
    """What names these accounts in one field, as `accounts_of` reads it."""
    quoted = [
        '"{}"'.format(one.replace('"', '""')) if "," in one or one.startswith('"') else one
        for one in accounts
    ]
    return ", ".join(quoted)


def nearest(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """Of the known accounts, in lower case, those that are spelt like one of these, the nearest first."""
    found = [near for one in names for near in get_close_matches(one.lower(), known, _NEAR)]
    return list(dict.fromkeys(found))


def _time(given: Mapping[str, Sequence[str]], field: str, now: datetime, zone: tzinfo) -> datetime | None:
    text = next((one.strip() for one in given.get(field, ()) if one.strip()), "")
    if not text:
        return None
    try:
        found = when.parse(text, now, zone)
    except (UsageError, NotFound) as error:
        raise UsageError(str(error), field=field) from None
    if not isinstance(found, datetime):
        raise UsageError("give a day or a time, such as 'Friday 18:00' or 2026-03-02 09:00", field=field)
    return found


def what(change: RefChange) -> What:
    """What a move is called: a tag that was moved, and the default branch, are kinds of their own."""
    if change.kind is Kind.CREATED:
        return "created"  # also HEAD: what a first backup finds was changed by nobody
    if change.name == HEAD:
        return "default"
    if change.kind is Kind.DELETED:
        return "deleted"
    if change.name.startswith(_TAG):
        return "tag"
    return "forced" if change.kind in (Kind.FORCED, Kind.MOVED) else "pushed"


@dataclass(frozen=True, slots=True)
class Move:
    """One move of a ref, from the first that is to be put back on."""

    old: Target | None  # None: it was created
    new: Target | None  # None: it was deleted
    by: str | None  # None: the host did not tell
    at: datetime
    meant: bool  # it is one of those that are to be put back


@dataclass(frozen=True, slots=True)
class Planned:
    """What a rollback would do with one ref."""

    name: RefName
    expected: Target | None  # what it holds now; None: there is no such ref
    target: Target | None  # what it held just before; None: it did not exist
    state: State  # fixed: no push can move it back
    why: str  # why it is not simply ready; "": it is

    @property
    def created(self) -> bool:
        """Whether the ref did not exist before, so that putting it back deletes it."""
        return self.target is None

    def chosen(self, *, created: bool, moved: bool) -> bool:
        """Whether it is part of the rollback unless somebody says otherwise.

        `created`: also refs that did not exist before; `moved`: also those that others pushed to since.
        """
        if self.state not in ("ready", "moved"):
            return False
        return (created or not self.created) and (moved or self.state != "moved")

    @property
    def lease(self) -> Lease:
        """The same as its job has it."""
        return Lease(self.name, self.expected, self.target)


CREATED_WHY: Final = "it did not exist before; leaving it takes nothing away, and putting it back deletes it"


def planned(
    name: RefName,
    moves: Sequence[Move],
    recorded: Target | None,
    lost: Collection[Target] = (),
    listed: Mapping[RefName, Target] | None = None,
    *,
    here: bool = False,
) -> Planned:
    """What putting this ref back to just before the first of these moves, oldest first, would mean.

    `recorded` is what the newest snapshot has for it, `lost` what no kept snapshot has any more, and `listed`
    what the host lists now. None: it was not asked. `here`: the repo is pushed to and has no host, so HEAD
    and names that hosts refuse can be written too.
    """
    before = moves[0].old
    now = recorded if listed is None else listed.get(name)

    def as_(state: State, why: str = "") -> Planned:
        return Planned(name, now, before, state, why)

    if now == before:
        return as_("back", "it is what it was before")
    if name == HEAD and before is None:
        return as_("fixed", "the first push made it, and a repository always has one")
    if name == HEAD and not here:
        was = f"; it was {shown_text(symbolic_target(before))}" if before and is_symbolic(before) else ""
        return as_("fixed", f"no push changes the default branch: change it at the host{was}")
    if name != HEAD and any(one is not None and is_symbolic(one) for one in (before, recorded)):
        return as_("fixed", "it is symbolic, which no push can write")
    if is_hidden(name) and not here:
        return as_("fixed", "hosts refuse pushes to this name")
    if before in lost:
        return as_("dropped", "what it held before is no longer kept")
    last = max(number for number, one in enumerate(moves) if one.meant)
    if now != moves[last].new:  # where it is that again, nothing of anybody else's is lost
        who = _people([one.by for one in moves[last + 1 :]])
        return as_("moved", f"{who} pushed to it since" if who else PUSHED_SINCE)
    if others := [one for one in moves[:last] if not one.meant]:
        return as_("moved", f"{_people([one.by for one in others])} pushed to it in between")
    return as_("ready", CREATED_WHY if before is None else "")


PUSHED_SINCE: Final = "somebody has pushed to it since the last backup"


def _people(names: Sequence[str | None]) -> str:
    """Who else pushed, as a sentence begins: lena and sam; an account that the host did not tell."""
    told = list(dict.fromkeys(one or "an account that the host did not name" for one in names))
    if len(told) > _NAMED:
        return f"{', '.join(told[:_NAMED])} and {len(told) - _NAMED} others"
    return " and ".join([", ".join(told[:-1]), told[-1]] if len(told) > 1 else told)


def reading(read: int, repos: int) -> str:
    """How far a plan is that is still being made, as a sentence without its full stop."""
    return f"{read:,} of {repositories(repos)} read"


def outcome(repos: int, refs: int, failed: int, under_way: int) -> str:
    """What came of a rollback of so many repos, or how far it is, as a sentence without its full stop."""
    of = repositories(repos)
    if under_way:
        return f"{repos - under_way:,} of {of} done"
    back = f"{words.count(refs, 'ref')} of {of} put back"
    return f"{back}; {repositories(failed)} not, or only in part" if failed else back
