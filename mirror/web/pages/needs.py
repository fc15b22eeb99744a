"""What needs attention on a team's home page, one row a cause: pure decisions about what the store found."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Literal

from mirror.core import words
from mirror.core.errors import Origin
from mirror.core.model import older_of
from mirror.core.rules.health import causes
from mirror.core.rules.health.causes import repositories
from mirror.core.rules.history.rollback import one_field
from mirror.core.rules.roles import Role
from mirror.store.browse.causes import Forced, Refused, Settled, Trouble
from mirror.store.notify.sendings import Dead
from mirror.store.people.notices import Notice
from mirror.store.people.quotas import Over
from mirror.web import templating

Tone = Literal["lost", "late", "proved", ""]

FIRST: Final = 5  # causes that are shown at once; the rest unfold
NAMES: Final = 12  # repositories of a cause that unfold; the list has all
TOLD: Final = frozenset(
    {"mass-deletion", "moved", "audit", "sign-in", "channel", "pending", "mirror"}
)  # the states of repos tell the others
TAKEN: Final = frozenset(
    {"mass-deletion", "audit", "pending"}
)  # of these: something was, or will be, taken away

_CHIPS: Final[Mapping[str, str]] = {
    "credentials": "token refused",
    "network": "not reachable",
    "identity": "another repository",
    "limit": "limit reached",
    "ours": "failing",
}
AWAY: Final[Mapping[Origin, str]] = {
    Origin.VAULT: "the vault does not answer",
    Origin.DISK: "a worker's disk is full or broken",
}


@dataclass(frozen=True, slots=True)
class Act:
    """Something to do about a need: a link, or a form where it has fields."""

    label: str
    to: str
    fields: Mapping[str, str] | None = None  # None: a link
    needs: Role = Role.VIEWER  # who may
    main: bool = False  # it ends the need


@dataclass(frozen=True, slots=True)
class Named:
    """A repository that a cause concerns, with what is known of it."""

    name: str
    link: str
    about: str


@dataclass(frozen=True, slots=True)
class Need:
    """One cause for attention: what it is, whom it concerns, and what to do about it."""

    key: str  # the cause; the same as long as it lasts
    title: str
    link: str | None  # of the title
    chip: str  # the same in a word or two
    tone: Tone
    why: str
    since: datetime | None = None  # `why` ends with this time; None: it has none
    repos: Sequence[Named] = ()  # to unfold
    many: int = 0  # repositories in all
    everything: str | None = None  # a list of them all; None: `repos` has them
    acts: Sequence[Act] = field(default=())  # the first is the one to press
    settle: Act | None = None  # None: it goes away once it is over


UNSAVED: Final = Need(
    key="unsaved",
    title="Nothing new is being saved",
    link="/status",
    chip="no worker is running",
    tone="lost",
    why="Start a worker: it saves what was pushed meanwhile and is still there.",
    acts=(Act("See what is wrong", "/status"),),
)


@dataclass(frozen=True, slots=True)
class Told:
    """What the store knows of a team, as far as it may need attention."""

    troubles: Sequence[Trouble] = ()
    forced: Sequence[Forced] = ()
    notices: Sequence[Notice] = ()
    over: Over | None = None  # the limit that the team has reached; None: none
    dead: Sequence[Dead] = ()  # channels at which nothing arrives


def needs(team: str, now: datetime, told: Told) -> list[Need]:
    """What needs attention, the worst first.

    1. what stops many backups: a limit, a token that is refused; 2. what was damaged or taken away;
    3. what fails, by cause; 4. what is late or told late; 5. what is gone.
    """
    found: dict[int, list[Need]] = {rank: [] for rank in range(8)}
    if told.over:
        found[0].append(_over(team, told.over, now))
    for one in sorted(told.troubles, key=lambda one: (-one.many, one.key)):
        if one.refused:
            found[1].append(_refused(team, one, one.refused))
        elif one.kind == "damage":
            found[2].append(_damaged(team, one))
        elif one.kind == "hook":
            found[5].append(_unhooked(team, one))
        elif one.kind == "late":
            if not told.over:  # which is why
                found[6].append(_late(team, one))
        elif one.kind == "unchecked":
            found[4].append(_unchecked(team, one))
        elif one.kind == "behind":
            if not told.over:
                found[6].append(_outside(team, one))
        elif one.kind == "archived":
            found[7].append(_gone(team, one))
        else:
            found[4].append(_failing(team, one))
    found[3] += [_forced(team, one, now) for one in told.forced if one.is_default]
    found[5] += [_dead(team, one) for one in told.dead]
    for notice in told.notices:
        if notice.kind in TOLD:
            found[3 if notice.kind in TAKEN else 4].append(_told(team, notice))
    return [one for rank in found.values() for one in rank]


def _have(one: Trouble) -> str:
    return f"{repositories(one.many)} {'has' if one.many == 1 else 'have'}"


def _not_saved(one: Trouble) -> str:
    """What this means for the backups: a sentence that the time ends, if it is known."""
    if one.many == one.unsaved:
        return (
            f"{_have(one)} never been saved; this started" if one.since else f"{_have(one)} never been saved."
        )
    said = f"{_have(one)} not been saved since"
    return f"{one.unsaved:,} of them never were. {said}" if one.unsaved else said


def _named(team: str, one: Trouble, *, about: bool = True) -> Sequence[Named]:
    return [Named(name, templating.repo_url(team, name), said if about else "") for name, said in one.repos]


def _all(team: str, one: Trouble) -> str | None:
    return templating.url(f"/{team}", cause=one.key) if one.many > len(one.repos) else None


def _open(team: str, one: Trouble) -> Act:
    if one.many == 1:
        return Act("Open", templating.repo_url(team, one.repos[0][0]))
    return Act(f"Show all {one.many:,}", templating.url(f"/{team}", cause=one.key))


def _refused(team: str, one: Trouble, by: Refused) -> Need:
    connect = templating.url(f"/{team}/-/connect")
    label = "Replace the token" if by.by_token else "Sign in again"
    act = Act(label, f"{connect}/{by.id}/again", {"next": templating.url(f"/{team}")}, Role.ADMIN, True)
    return Need(
        key=one.key,
        title=causes.refused(by.forge, by.host, by.login),
        link=connect,
        chip="sign in again",
        tone="late",
        why=_not_saved(one) if one.many else "Repositories that are added there are not found since",
        since=one.since,
        repos=_named(team, one, about=False),
        many=one.many,
        everything=_all(team, one),
        acts=(act,),
    )


def _need(team: str, one: Trouble, *, title: str, chip: str, why: str, about: bool = True) -> Need:
    """A trouble of repositories: one is linked; many unfold, with what is known of each if `about`."""
    alone = one.many == 1
    return Need(
        key=one.key,
        title=title,
        link=templating.repo_url(team, one.repos[0][0]) if alone else None,
        chip=chip,
        tone="late",
        why=why,
        since=one.since,
        repos=[] if alone else _named(team, one, about=about),
        many=one.many,
        everything=_all(team, one),
        acts=(_open(team, one),),
    )


def _damaged(team: str, one: Trouble) -> Need:
    _, about = one.repos[0]
    alone = one.many == 1
    need = _need(
        team,
        one,
        title=causes.title(one),
        chip="damaged",
        why=f"{words.sentence(about)} Found" if alone else "It cannot all be restored. Found",
    )
    return replace(need, tone="lost")


def _failing(team: str, one: Trouble) -> Need:
    name, about = one.repos[0]
    alone = one.many == 1
    why = (f"{words.sentence(about)} " if alone else "") + _not_saved(one)
    need = _need(team, one, title=causes.title(one), chip=_CHIPS.get(one.kind, one.kind), why=why)
    if alone and one.kind == "credentials":
        settings = templating.repo_url(team, name, "settings")
        return replace(need, acts=(Act("Replace its token", settings, needs=Role.ADMIN, main=True),))
    return need


def _unhooked(team: str, one: Trouble) -> Need:
    """The webhooks that a host refused or switched off; pushes are still found."""
    _, about = one.repos[0]
    alone = one.many == 1
    why = words.sentence(about or "the host has switched the webhook off")
    need = _need(
        team,
        one,
        title=causes.title(one),
        chip="no webhook",
        why=f"{why} Everref checks {'it' if alone else 'them'} on a schedule instead.",
    )
    return replace(need, since=None, settle=_settle(team, cause=one.key))


def _late(team: str, one: Trouble) -> Need:
    waits = "First backups wait" if one.many == one.unsaved else "Pushes wait"
    if one.many == 1 and one.unsaved:
        waits = "Its first backup waits"
    return _need(
        team,
        one,
        title=causes.title(one),
        chip="not saved yet" if one.many == one.unsaved else "late",
        why=f"{waits} for a worker; check that enough are running. The oldest waits since",
        about=False,
    )


def _unchecked(team: str, one: Trouble) -> Need:
    """Checks that are overdue while workers run: nobody knows what was pushed since."""
    alone = one.many == 1
    why = (
        "What was pushed since then may not be saved. A worker that is stuck, a wrong clock or a host that is"
    )
    need = _need(
        team,
        one,
        title=causes.title(one),
        chip="not checked",
        why=f"{why} left alone may be why. {'It was' if alone else 'The first was'} last checked",
        about=False,
    )
    return need if alone else replace(need, acts=(Act("See what is wrong", "/status"), *need.acts))


def _outside(team: str, one: Trouble) -> Need:
    """What is older than people allow it to be, although nothing failed and nothing is overdue."""
    name, about = one.repos[0]
    alone = one.many == 1
    why = words.sentence(about if alone else "what they have is older than it may be")
    begun = f"{'It was' if alone else 'The first was'} last saved in full"
    if one.unsaved:
        begun = f"{'It was' if one.many == one.unsaved == 1 else 'The first was'} added"
    return Need(
        key=one.key,
        title=causes.title(one),
        link=templating.repo_url(team, name) if alone else None,
        chip="outside its objective" if alone else "outside their objectives",
        tone="late",
        why=f"{why} A backup that takes long or waits for its turn may be why. {begun}",
        since=one.since,
        repos=[] if alone else _named(team, one),
        many=one.many,
        everything=_all(team, one),
        acts=(_open(team, one),),
    )


def _gone(team: str, one: Trouble) -> Need:
    _, url = one.repos[0]
    alone = one.many == 1
    if alone and (at := older_of(url)):
        why = f"An older history of {at}, from before the database was lost. Every snapshot stays. Archived"
    else:
        why = "Every backup stays and can be restored. Archived"
    need = _need(
        team,
        one,
        title=causes.title(one),
        chip="gone",
        why=why,
        about=False,
    )
    return replace(need, tone="", settle=_settle(team, cause=one.key))


def _settle(team: str, **fields: str) -> Act:
    return Act("Settle", templating.url(f"/{team}/-/settle"), fields, Role.OPERATOR)


def _over(team: str, over: Over, now: datetime) -> Need:
    link = templating.url(f"/{team}/-/settings")
    return Need(
        key="over",
        title="Nothing new is being saved",
        link=link,
        chip="limit reached",
        tone="lost",
        why=f"{words.sentence(over.message)} This started",
        since=over.since,
        acts=(Act("See the limits", link),),
    )


def _dead(team: str, one: Dead) -> Need:
    """A channel at which nothing arrives: people do not hear there of what this page says."""
    return Need(
        key=f"channel-{one.id}",
        title=f"Messages to {one.name} no longer arrive",
        link=templating.url(f"/{team}/-/notices"),
        chip="channel fails",
        tone="late",
        why=f"{words.sentence(one.failure)} This was found",
        since=one.since,
        acts=(Act("Correct it", templating.url(f"/{team}/-/settings/channels"), needs=Role.ADMIN),),
    )


def _told(team: str, notice: Notice) -> Need:
    home = templating.repo_url(team, notice.repo) if notice.repo else templating.url(f"/{team}")
    link, act = home, Act("Open", home)
    if notice.kind == "audit":
        link = templating.url(f"/{team}/-/settings/audit")
        act = Act("See the audit log", link)
    elif notice.kind == "channel":
        link = templating.url(f"/{team}/-/settings")
        act = Act("See the settings", link)
    elif notice.kind == "pending":
        link = templating.url(f"/{team}/-/pending")
        act = Act("See what is pending", link)
    elif notice.kind == "mirror":
        link = f"{home}/-/mirrors"
        act = Act("See the mirror", link)
    elif notice.kind == "sign-in":
        act = Act("Your account", "/account")
    elif notice.kind == "mass-deletion" and notice.repo:
        act = Act("See what was lost", templating.repo_url(team, notice.repo, "lost"))
    dismiss = Act("Settle", templating.url(f"/{team}/-/notices/{notice.id}/seen"), {}, Role.OPERATOR)
    return Need(
        key=f"notice-{notice.id}",
        title=notice.repo or team,
        link=link,
        chip=notice.kind.replace("-", " "),
        tone="lost" if notice.kind in TAKEN else "late",
        why=words.sentence(notice.message),
        acts=(act,),
        settle=None if notice.lasts else dismiss,  # it goes away only with a new password
    )


def _forced(team: str, one: Forced, now: datetime) -> Need:
    branch = templating.refname(one.ref)
    did = "deleted" if one.deleted else "force-pushed"
    also = f" There were {one.many} force-pushes this week." if one.many > 1 else ""
    back = templating.repo_url(team, one.repo, "restore", at=one.before, ref=one.ref)
    by = templating.url(f"/{team}/-/incident", actor=one_field([one.by or ""]), since="7d ago")
    return Need(
        key=f"forced-{one.repo_id}",
        title=f"{one.by or 'Somebody'} {did} {branch} of {one.repo}",
        link=templating.repo_url(team, one.repo),
        chip=did,
        tone="lost",
        why=f"The vault holds what it was before.{also} This happened",
        since=one.at,
        many=1,
        acts=(
            Act(f"Bring back {branch}", back, needs=Role.OPERATOR, main=True),
            Act("See what was lost", templating.repo_url(team, one.repo, "lost", ref=one.ref)),
            *([Act(f"All that {one.by} pushed", by)] if one.by else []),
        ),
        settle=_settle(team, repo=one.repo, snapshot=str(one.snapshot)),
    )


def settled_as(one: Forced) -> str:
    """What is said of a force-push once it is settled."""
    did = "deleted" if one.deleted else "force-pushed"
    return f"{templating.refname(one.ref)} was {did} by {one.by or 'somebody'}"


@dataclass(frozen=True, slots=True)
class Done:
    """A line about a need that was settled."""

    repo: str | None
    link: str | None
    what: str  # what it was about; empty: a restore
    how: str
    at: datetime


def done(team: str, found: Iterable[Settled]) -> list[Done]:
    """What was settled, and by whom: `restored as restored/main-1118 by Kim`."""
    lines = []
    for one in found:
        by = f" by {one.person}" if one.person else ""
        if one.kind == "restored":
            name = templating.refname(one.ref) if one.ref else f"#{one.snapshot}"
            how = f"restored as {name}{by}"
        else:
            how = f"settled{by}"
        link = templating.repo_url(team, one.repo) if one.repo else None
        lines.append(Done(one.repo, link, one.subject, how, one.at))
    return lines
