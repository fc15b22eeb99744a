"""How results read to a person: values in, lines out, and nothing in them that a terminal would act on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from mirror.core.model import HEAD, SYMBOLIC, Kind, RefChange, RefName, Repo, Target, has_remote, older_of
from mirror.core.rules.health.objective import said
from mirror.core.rules.history.pushes import Lost
from mirror.core.words import ago, clean, count, lasted, mend, name, not_known, percent, size, unsaved

if TYPE_CHECKING:
    from mirror.backup.sync import Synced
    from mirror.browse.plan_commits import PlanCommits, RefCommits
    from mirror.cli.shapes import Objective
    from mirror.core.model import Snapshot
    from mirror.core.quotas import Use
    from mirror.discovery.choose import Chosen
    from mirror.discovery.webhook import NewHook
    from mirror.jobs.sweep import Swept
    from mirror.people.accounts import KnownPerson
    from mirror.people.channels import Added
    from mirror.restore.drill import Drilled
    from mirror.restore.restore import RefResult, Restored, RestorePlan
    from mirror.restore.undo import UndoPlan
    from mirror.store.backup.history import Logged
    from mirror.store.browse.gone_refs import Gone
    from mirror.store.browse.predictions import Foreseen
    from mirror.store.discovery.connections import Connection
    from mirror.store.discovery.discovered import Counts
    from mirror.store.notify.channels import Channel
    from mirror.store.notify.messages import Said
    from mirror.store.people.tokens import ApiToken
    from mirror.store.repos import Overview
    from mirror.store.restore.team_drills import TeamDrill
    from mirror.store.upkeep.readings import Coverage
    from mirror.upkeep.compact import Compacted
    from mirror.upkeep.doctor import Finding
    from mirror.upkeep.moving.rebuild import Rebuilt
    from mirror.upkeep.ping import Standing
    from mirror.upkeep.prune import Pruned
    from mirror.upkeep.reencrypt import Rotated
    from mirror.upkeep.rotation import Read
    from mirror.upkeep.state import Exported, ImportedState
    from mirror.upkeep.verify import Verified

Paint = Callable[[str, str], str]  # a text and its meaning: good, bad, warn, faint, strong, or none

_KINDS: Final = {
    Kind.CREATED: "good",
    Kind.FAST_FORWARDED: "",
    Kind.FORCED: "bad",
    Kind.DELETED: "bad",
    Kind.MOVED: "warn",
}
_RESULTS: Final = {
    "created": "good",
    "updated": "warn",
    "unchanged": "",
    "refused": "bad",
    "skipped": "faint",
    "removed": "warn",
}
_MOST: Final = {"skipped": 3, "refused": 20}  # refs of one reason, beyond which they are drawn together
_NAMED: Final = 3  # refs that are named of those that are drawn together, and commits of those of a ref
_SHORT: Final = 10  # hex digits of an object id that are enough for a person


def plain(text: str, meaning: str) -> str:
    """No colour."""
    return text


@dataclass(frozen=True, slots=True)
class Eye:
    """Who reads it: at which moment, and whether in colour."""

    now: datetime
    paint: Paint = plain

    def repo(self, name: str) -> str:
        return self.paint(clean(name), "strong")

    def time(self, then: datetime) -> str:
        """The exact time, and how long ago that was."""
        return f"{then:%Y-%m-%d %H:%M:%SZ} ({ago(then, self.now)})"


def numbers(chosen: Sequence[int]) -> str:
    """Snapshot numbers in order, runs drawn together: `#1, #4 to #9`."""
    runs: list[list[int]] = []
    for number in chosen:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"#{first}" if first == last else f"#{first} to #{last}" for first, last in runs)


def target(value: Target | None) -> str:
    """An object id cut to what a person compares, or the ref that a symbolic target names."""
    if value is None:
        return ""
    return name(value.removeprefix(SYMBOLIC)) if value.startswith(SYMBOLIC) else name(value[:_SHORT])


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows whose columns line up; the last column is as long as it likes."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def progress(phase: str, done: int, total: int | None, unit: str, seconds: float) -> str:
    """One line of progress: the phase, how much, how fast."""
    if not done and total is None:
        return f"{clean(phase)} ..." + (f" {lasted(seconds)}" if seconds >= 2 else "")
    show = size if unit == "bytes" else "{:,.0f}".format
    amount = show(done) if total is None else f"{show(done)} of {show(total)}"
    noun = f" {unit}" if unit and unit != "bytes" else ""
    share = f"  {min(100, done * 100 // total)}%" if total else ""
    rate = f"  {show(done / seconds)}/s" if seconds >= 0.5 and done else ""
    return f"{clean(phase)}  {amount}{noun}{share}{rate}"


def failure(message: str, paint: Paint) -> str:
    """The one line that an error is."""
    return f"{paint('everref:', 'bad')} {clean(message)}"


def backup(done: Synced, seconds: float, eye: Eye) -> str:
    """What a backup did."""
    snapshot = done.snapshot
    words = [eye.repo(done.repo.name)]
    if done.new:
        words.append(f"{eye.paint('saved', 'good')} as #{snapshot.number} of {eye.time(snapshot.taken_at)}")
        words.append(count(snapshot.changes_count, "change"))
        words.append(f"{size(snapshot.bundle.bytes)} new" if snapshot.bundle else "no new object")
    else:
        words.append(f"nothing new since #{snapshot.number} of {eye.time(snapshot.taken_at)}")
    return "  ".join([*words, count(snapshot.refs_count, "ref"), f"in {lasted(seconds)}"])


def nothing(eye: Eye) -> str:
    """What a person reads who keeps nothing yet."""
    return "nothing is backed up yet; everref backup URL adds a repository"


def unknown(repos: int, eye: Eye) -> str:
    """What a person reads whose database does not know what the vault has."""
    return eye.paint(not_known(repos), "bad")


def kept(rows: Sequence[Overview], eye: Eye) -> str:
    """What is kept, in columns: protected as of when, how much, and what stands in the way."""
    cells = [
        (
            clean(row.called),
            _protection(row, eye),
            count(row.snapshots, "snapshot"),
            count(row.refs, "ref"),
            size(row.bytes),
        )
        for row in rows
    ]
    lines = []
    for line, row in zip(table(cells), rows, strict=True):
        if row.damage:
            line += f"  {eye.paint(clean(row.damage.message), 'bad')}; {mend(clean(row.called))}"
        since = f"  behind since {ago(row.behind_since, eye.now)}" if row.behind_since else ""
        if row.failure:
            why = f"{eye.paint(row.failure.kind, 'bad')}: {clean(row.failure.message)}"
            lines.append(f"{line}{since}  {why}")
        elif row.archived_at:
            lines.append(f"{line}  {_archived(row.repo)}")
        else:
            lines.append(line + since + ("  a sync is due" if row.state in ("behind", "late") else ""))
        if row.outside_rpo and not row.damage:
            lines[-1] += f"  {eye.paint(f'outside its objective of {said(row.rpo)}', 'bad')}"
        if row.large_files:
            lines[-1] += f"  {eye.paint(unsaved(row.large_files), 'warn')}"
    return "\n".join(lines)


def _archived(repo: Repo) -> str:
    """Why nothing is fetched for a repo any more."""
    if at := older_of(repo.url):
        return f"archived: an older history of {clean(at)}, from before the database was lost"
    return "archived: no longer at its host; its backups stay"


def _protection(row: Overview, eye: Eye) -> str:
    if row.damage:
        return f"damaged, found {ago(row.damage.at, eye.now)}"
    if not has_remote(row.url):
        return f"last push {ago(row.saved_at, eye.now)}" if row.saved_at else "nothing pushed yet"
    if row.protected_as_of:
        return f"protected as of {ago(row.protected_as_of, eye.now)}"
    return "never protected"


def moved(one: RefChange, eye: Eye) -> str:
    """What became of one ref."""
    ends = " -> ".join(target(end) for end in (one.old, one.new) if end is not None)
    kind = eye.paint(one.kind.value.ljust(14), _KINDS[one.kind])
    return f"  {kind}  {name(one.name)}  {eye.paint(ends, 'faint')}"


def more(repo: str, eye: Eye) -> str:
    """Where the moves are that were too many to show."""
    return f"  ...  everref log {clean(repo)} shows them all"


def change(one: Logged | Lost, eye: Eye, *, is_dropped: bool = False) -> str:
    """One line of the ref history; what was dropped cannot be restored any more."""
    if isinstance(one, Lost):
        return _lost(one, eye)
    number = eye.paint(one.label.ljust(5), "strong")
    whom = f"  by {clean(one.change.by)}" if one.change.by else ""
    return f"{number} {eye.time(one.at)}{moved(one.change, eye)}{whom}{'  (dropped)' if is_dropped else ''}"


def _lost(one: Lost, eye: Eye) -> str:
    number = eye.paint(f"#{one.snapshot}".ljust(5), "strong")
    ends = " -> ".join(target(end) for end in (one.old, one.new) if end is not None)
    whom = f"  by {clean(one.by)}" if one.by else ""
    what = eye.paint("not rescued   ", "bad")
    line = f"{number} {eye.time(one.at)}  {what}  {name(one.name)}  {eye.paint(ends, 'faint')}{whom}"
    return f"{line}  ({clean(one.why)})"


def ref(one: RefName, at: Target, eye: Eye) -> str:
    """A ref, as `git ls-remote` shows it."""
    return f"{name(at)}\t{name(one)}"


def gone(one: Gone, eye: Eye) -> str:
    """A ref that is gone, with when it went, by whom, and the snapshot to bring it back from."""
    by = f" by {clean(one.by)}" if one.by else ""
    how = f"deleted {one.at:%Y-%m-%d %H:%M:%S}Z{by}, last in {one.label}"
    return f"{name(one.target)}\t{name(one.name)}\t{eye.paint(how, 'faint')}"


def _ref_results(
    results: Sequence[RefResult], eye: Eye, commits: Mapping[RefName, RefCommits] = MappingProxyType({})
) -> Iterator[str]:
    for one in results:
        why = f"  {eye.paint(clean(one.why), 'faint')}" if one.why else ""
        result = eye.paint(one.result.ljust(9), _RESULTS[one.result])
        yield f"  {result}  {target(one.target).ljust(_SHORT)}  {name(one.name)}{why}"
        if told := commits.get(one.name):
            yield from _gains_and_losses(told, eye)


def _gains_and_losses(told: RefCommits, eye: Eye) -> Iterator[str]:
    """What a ref of a plan loses and gains, each in one line."""
    for verb, number, some in (("loses", told.loses, told.lost), ("gains", told.gains, told.gained)):
        if number:
            first = ", ".join(clean(f"{one.summary} ({one.author})") for one in some[:_NAMED])
            more = ", ..." if number > _NAMED else ""
            yield f"             {verb} {count(number, 'commit')}: {eye.paint(first + more, 'faint')}"


def tally(results: Sequence[RefResult]) -> str:
    """`46 created, 2 skipped`; HEAD is no ref to count, as everywhere."""
    counts: Counter[str] = Counter(one.result for one in results if one.name != HEAD)
    return ", ".join(f"{counts[result]:,} {result}" for result in _RESULTS if counts[result]) or "no refs"


def plan(made: RestorePlan, where: str | None, commits: PlanCommits, eye: Eye) -> str:
    """What a restore would do, step by step, and ref by ref where a remote decides."""
    snapshot = made.snapshot
    lines = [f"{eye.repo(made.repo.name)}  {snapshot.label} of {eye.time(snapshot.taken_at)}"]
    lines += [f"{number:3}. {clean(step)}" for number, step in enumerate(made.steps, 1)]
    if where is None:
        return "\n".join([*lines, f"     {count(sum(one.name != HEAD for one in made.refs), 'ref')}"])
    rows = _ref_results(made.refs, eye, commits.by_name)
    rest = [f"  commits not counted for {count(commits.uncounted, 'ref')}"] if commits.uncounted else []
    return "\n".join([*lines, *rows, *rest, f"  {tally(made.refs)}"])


def restored(done: Restored, where: str, eye: Eye) -> str:
    """What a restore did: every ref that is worth a look, then the sum."""
    moment = f"{done.snapshot.label} of {eye.time(done.snapshot.taken_at)}"
    words = (eye.repo(done.repo.name), moment, f"to {clean(where)}", tally(done.refs), _read_back(done, eye))
    return "\n".join([*_worth(done, eye), "  ".join(words)])


def undone(done: Restored, where: str, eye: Eye) -> str:
    """What an undo did, likewise."""
    words = (eye.repo(done.repo.name), f"{clean(where)} is as it was before the restore", tally(done.refs))
    if any(one.result in ("refused", "skipped") for one in done.refs):
        words = (words[0], f"{clean(where)} is not quite as it was before the restore", words[2])
    return "\n".join([*_worth(done, eye), "  ".join([*words, _read_back(done, eye)])])


def _read_back(done: Restored, eye: Eye) -> str:
    return eye.paint("verified", "good") if done.verified else eye.paint("not verified", "bad")


def _worth(done: Restored, eye: Eye) -> Iterator[str]:
    """The refs that are worth a look, many of one reason in one line; and what the remote said of them."""
    worth = [one for one in done.refs if one.result in ("refused", "skipped", "updated", "removed")]
    many = Counter((one.result, one.why) for one in worth)
    folded = {kind for kind, number in many.items() if number > _MOST.get(kind[0], number)}
    yield from _ref_results([one for one in worth if (one.result, one.why) not in folded], eye)
    for result, why in sorted(folded, key=lambda kind: (list(_RESULTS).index(kind[0]), -many[kind])):
        names = [name(one.name) for one in worth if (one.result, one.why) == (result, why)][:_NAMED]
        told = f"  {eye.paint(clean(why), 'faint')}" if why else ""
        label = eye.paint(result.ljust(9), _RESULTS[result])
        yield f"  {label}  {count(many[result, why], 'ref')}: {', '.join(names)}, ...{told}"
    if folded:
        yield f"  {eye.paint('everref plan and --json list each of them', 'faint')}"
    yield from (f"  remote: {clean(line)}" for line in done.said)


def undoable(called: str, kept: tuple[Repo, Snapshot], eye: Eye) -> str:
    """How a restore is undone that overwrote something, and where that is."""
    what = f"what was overwritten, backed up as {clean(kept[0].name)} {kept[1].label}"
    return f"  everref undo {clean(called)} puts back {what}"


def undo_plan(made: UndoPlan, repo: Repo, eye: Eye) -> str:
    """What undoing a restore would do, ref by ref."""
    lines = [f"{eye.repo(repo.name)}  undo of the restore to {clean(made.to.shown)}"]
    if made.kept:
        lines.append(f"  what was overwritten comes from {clean(made.kept.name)}")
    if made.made:
        lines.append("  the repository was made for the restore, and stays")
    if made.default:
        lines.append(
            f"  its default branch changes from {name(made.default.old)} to {name(made.default.new)}"
        )
    return "\n".join([*lines, *_ref_results(made.refs, eye), f"  {tally(made.refs)}"])


def _proof(problems: Sequence[str], good: str, eye: Eye) -> str:
    return eye.paint(count(len(problems), "problem"), "bad") if problems else eye.paint(good, "good")


def verified(found: Verified, seconds: float, eye: Eye) -> str:
    """What a verification found: the problems, the strays, the sum."""
    lines = [f"  {eye.paint(clean(problem), 'bad')}" for problem in found.problems]
    lines += [f"  stray  {clean(key)}; everref prune deletes it" for key in found.strays]
    if found.damaged:
        lines.append(f"  {numbers(found.damaged)} cannot be restored whole")
    words = (
        eye.repo(found.repo.name),
        _proof(found.problems, "verified", eye),
        count(found.snapshots, "snapshot"),
        count(found.parts, "part"),
        f"{size(found.bytes)} read back in {lasted(seconds)}",
    )
    return "\n".join([*lines, "  ".join(words)])


def drilled(found: Drilled, eye: Eye) -> str:
    """The evidence of a drill."""
    lines = [f"  {eye.paint(clean(problem), 'bad')}" for problem in found.problems]
    if found.large_files.files:
        lines.append(f"  {eye.paint(unsaved(found.large_files.files, found.large_files.bytes), 'warn')}")
    words = (
        eye.repo(found.repo.name),
        f"{found.snapshot.label} of {eye.time(found.snapshot.taken_at)}",
        _proof(found.problems, "comes back as it was", eye),
        count(found.refs, "ref"),
        f"{size(found.bytes)} in {lasted(found.seconds)}",
    )
    return "\n".join([*lines, "  ".join(words)])


def team_drilled(found: TeamDrill, eye: Eye) -> str:
    """What came of a drill of every repo of a team."""
    return f"if the host were gone today: {found.sentence}"


def read_again(found: Read, eye: Eye) -> str:
    """What a turn of the rotation read."""
    lines = [f"  {eye.paint(clean(problem), 'bad')}" for problem in found.problems]
    return "\n".join([*lines, f"{count(found.objects, 'object')} read back  {size(found.bytes)}"])


def coverage(found: Coverage, due: int, eye: Eye) -> str:
    """How much was read back in time."""
    days = found.days or 30
    oldest = f"  the oldest {eye.time(found.oldest_at)}" if found.oldest_at else ""
    bad = f"{count(found.damaged, 'part')} damaged"
    damaged = f"  {eye.paint(bad, 'bad')}" if found.damaged else ""
    return (
        f"{percent(found.ratio)} of {size(found.total)} read back or stored in {count(days, 'day')}"
        f"  ({size(found.fresh)} not read back yet){oldest}{damaged}\n"
        f"manifests and notes of {found.repos_read:,} of {count(found.repos, 'repo')}"
        f"  {count(due, 'drill')} due"
    )


def compacted(done: Compacted, eye: Eye) -> str:
    """What became of one repo's parts."""
    if not done.merged:
        return f"{eye.repo(done.repo.name)}  nothing to merge  {count(done.parts_after, 'part')}"
    words = f"{count(done.parts_before, 'part')} merged into {done.parts_after:,}"
    return f"{eye.repo(done.repo.name)}  {words}  {size(done.bytes_written)} written"


def pruned(done: Pruned, eye: Eye) -> str:
    """What was deleted, key by key, and the sum."""
    waiting = f"  {count(done.waiting, 'object')} within the grace period" if done.waiting else ""
    lines = [f"  deleted  {clean(key)}" for key in done.deleted]
    total = (
        f"{count(len(done.deleted), 'object')} deleted  {size(done.bytes)}" if lines else "nothing to delete"
    )
    if done.locked:
        until = f" until {done.locked_until:%Y-%m-%d %H:%M} UTC at least" if done.locked_until else ""
        waiting += f"  {count(len(done.locked), 'object')} held by Object Lock{until}"
    return "\n".join([*lines, total + waiting])


def hook(given: NewHook, called: str, eye: Eye) -> str:
    """A webhook, as it is pasted into the forge's settings."""
    secret = f"shown only when it was made; everref hook {clean(called)} --new makes another"
    if given.secret:
        secret = f"{given.secret}  (shown only now)"
    return f"{eye.repo(given.repo.name)}  {given.forge}\n  URL     {clean(given.url)}\n  secret  {secret}"


def unhooked(repo: Repo, eye: Eye) -> str:
    """A webhook is forgotten."""
    return f"{eye.repo(repo.name)}  has no webhook any more; delete it in the host's settings too"


def connected(made: Connection, counts: Counts, chosen: Sequence[Chosen], eye: Eye) -> str:
    """An account that is connected, and what is kept of it from now on."""
    words = {"registered": "webhook made", "reused": "webhook exists", "waiting": "webhook follows"}
    rows = [
        (
            f"  {eye.repo(one.repo.name)}",
            words.get(one.hook) or eye.paint("no webhook", "warn"),
            clean(one.why or ""),
        )
        for one in chosen
    ]
    return "\n".join([connection(made, counts, eye), *(table(rows) if rows else ())])


def connection(made: Connection, counts: Counts, eye: Eye) -> str:
    """An account that is connected."""
    rule = "everything, new ones too" if made.everything else " ".join(made.patterns)
    state = "" if made.state == "works" else eye.paint(clean(made.why or made.state), "bad")
    sees = f"sees {count(counts.all, 'repo')}, {counts.chosen:,} chosen"
    return "  ".join(
        filter(None, [f"{eye.repo(made.host)} as {clean(made.login)}", sees, clean(rule), state])
    )


def ssh_key(public: str, eye: Eye) -> str:
    """A team's deploy key, as hosts take it."""
    return public


def beginning(eye: Eye) -> str:
    """Who does the first backups."""
    return "if everref up is running, their first backups begin now; otherwise run everref sweep"


def nothing_connected(eye: Eye) -> str:
    """What a person reads who has connected nothing."""
    return "nothing is connected yet; everref connect --help says how"


def token(raw: str, made: ApiToken, eye: Eye) -> str:
    """An API token, as it is copied to where it is used."""
    until = "never expires" if made.expires_at is None else f"expires {made.expires_at:%Y-%m-%d %H:%M:%SZ}"
    may = ", ".join(sorted(made.scopes))
    return f"{eye.repo(made.name)}  team {clean(made.team.name)}  may {may}  {until}\n  {raw}"


def link(url: str, until: datetime, known: KnownPerson | None, eye: Eye) -> str:
    """A one-time link, to be opened; before it whom it lets in, where an e-mail address said that."""
    told = (
        f"{clean(url)}\n  works once, until {until:%H:%M:%SZ}; using it ends older tokens and other sessions"
    )
    if known is None:
        return told
    person = known.person
    teams = ", ".join(f"{one.team.name} ({one.role})" for one in known.teams)
    accounts = ", ".join(f"{one.login} at {one.host}" for one in known.identities)
    warning = f"nobody has proved that {person.email} is theirs; make sure that you know who is asking"
    lines = [
        eye.paint(clean(warning), "bad"),
        clean(f"  {person.name}, here since {person.created_at:%Y-%m-%d}"),
        clean(f"  teams: {teams or 'none'}"),
        clean(f"  signs in by: {accounts or 'no account at a host'}"),
        told,
    ]
    return "\n".join(lines)


def rotated(done: Rotated, eye: Eye) -> str:
    """What was sealed anew, and which keys can go."""
    lines = [f"  {eye.paint(clean(problem), 'bad')}" for problem in done.problems]
    for key in done.keys:
        if key.newest:
            word = "the newest"
        elif not key.here:
            word = eye.paint("is not in SECRET_KEYS; add it at the end, and run this again", "bad")
        elif key.sealed:
            word = eye.paint("is still needed; make sure that every process was restarted", "warn")
        elif key.state:
            word = eye.paint("is needed until the state is exported: run everref rotate-keys again", "warn")
        else:
            word = "is no longer needed; remove it from SECRET_KEYS"
        lines.append(f"  key {key.id}  {count(key.sealed, 'secret')}  {word}")
    return "\n".join([f"{count(done.resealed, 'secret')} encrypted again", *lines])


def unreachable(eye: Eye) -> str:
    """What a person reads whose forge may not reach this machine."""
    return "the host must be able to reach this address; set BASE_URL to one that it can reach"


def swept(one: Swept, eye: Eye) -> str:
    """What became of one repo in a sweep."""
    if one.synced is None and one.error is None:
        return f"{eye.repo(one.repo.name)}  {_archived(one.repo)}"
    if one.synced is None:
        why = f"{one.error.kind}: {clean(str(one.error))}" if one.error else ""
        return f"{eye.repo(one.repo.name)}  {eye.paint('failed', 'bad')}  {why}"
    snapshot = one.synced.snapshot
    word = f"{eye.paint('saved', 'good')} as" if one.synced.new else "nothing new since"
    return f"{eye.repo(one.repo.name)}  {word} #{snapshot.number} of {eye.time(snapshot.taken_at)}"


def rebuilt(one: Rebuilt, eye: Eye) -> str:
    """What was read back of one repo."""
    added = f"{one.added:,} of them new here" if one.added else "all known here already"
    noted = f"  {count(one.notes, 'note')}" if one.notes else ""
    line = f"{eye.repo(one.repo.name)}  {count(one.snapshots, 'snapshot')}  {added}{noted}"
    if one.was is None:
        return line
    was = clean(one.was)
    if older_of(one.repo.url):
        why = f"was {was}, which was started again after the database was lost: this is its older history"
    else:
        why = f"was {was}: another repo has that name or address, so this one is archived"
    return f"{line}  {eye.paint(why, 'warn')}"


def stored_plain(found: Sequence[Repo], eye: Eye) -> str:
    """That new backups of these repos are not encrypted, where older ones are."""
    names = ", ".join(clean(one.name) for one in found[:3]) + (", ..." if len(found) > 3 else "")
    return (
        f"{eye.paint('not sealed', 'warn')}  the recovery keys were lost as well, so new backups of {names}"
        " are stored unencrypted from now on: make or add a recovery key, prove it, and run everref keys seal"
    )


def taken_up(one: ImportedState, eye: Eye) -> str:
    """The state that was taken up, in numbers, and from when it is."""
    lines = list[str]()
    if one.aside:
        more = f"; nor could {len(one.aside) - 1} more be read" if len(one.aside) > 1 else ""
        lost = "" if one.taken_at else "; people, teams and connections were not restored"
        lines.append(f"{eye.paint('not read', 'warn')}  {clean(one.aside[0])}{more}{lost}")
    if one.taken_at:
        lines.append(f"state of {eye.time(one.taken_at)}  {_tables(one.added) or 'all known here'}")
    return "\n".join(lines)


def exported(one: Exported, eye: Eye) -> str:
    """The state that was stored."""
    return f"state of {eye.time(one.taken_at)}  {_tables(one.tables) or 'nothing in it'}  {size(one.bytes)}"


def _tables(rows: Mapping[str, int]) -> str:
    return ", ".join(count(rows[table], word) for table, word in _STATE.items() if rows.get(table))


_STATE: Final = {
    "team": "team",
    "person": "account",
    "connection": "connection",
    "repo": "repo",
    "hook": "hook",
    "audit": "audit record",
}


def migrated(applied: Sequence[str], eye: Eye) -> str:
    """Which migrations were applied."""
    return "\n".join(f"applied {name}" for name in applied) or "the database is up to date"


def limits(team: str, uses: Sequence[Use], eye: Eye) -> str:
    """What a team uses of its limits."""
    rows = [
        (one.limit.name, one.said, "set for this team" if one.own else "", "full" if one.is_full else "")
        for one in uses
    ]
    return "\n".join(table(rows))


def objective(told: Objective, eye: Eye) -> str:
    """How old a backup may be, and what is older."""
    whose = clean(told.repo or f"repositories of {told.team}")
    where = "" if told.repo is None or told.own else ", as its team says"
    lines = [f"{whose}: a backup may be {said(told.rpo)} old at most{where}"]
    lines += [f"  {clean(one)}  {eye.paint('outside its objective', 'bad')}" for one in told.outside]
    return "\n".join(lines)


def foreseen(one: Foreseen, eye: Eye) -> str:
    """Something that will soon fail, and the evidence."""
    return f"{eye.paint(clean(one.prediction.title), 'warn')}\n  {clean(one.prediction.why)}"


def nothing_foreseen(eye: Eye) -> str:
    """What there is to say where no failure is foreseen."""
    return "nothing is foreseen to fail soon"


def pinged(done: Standing, eye: Eye) -> str:
    """What a monitor answered, or why it was not pinged."""
    if not done.reasons:
        if done.ping.failing_since:
            return f"{done.ping.shown} took no ping: {eye.paint(clean(done.ping.answer or ''), 'bad')}"
        return f"pinged {done.ping.shown}, which answered {clean(done.ping.answer or '')}"
    return "\n".join(
        [f"not pinged {done.ping.shown}:", *(f"  {eye.paint(clean(one), 'bad')}" for one in done.reasons)]
    )


def channel(one: Channel, eye: Eye) -> str:
    """A place that messages go to, and whether they arrive."""
    if one.stopped_at:
        state = eye.paint(f"stopped by its reader {eye.time(one.stopped_at)}", "warn")
    elif not one.confirmed_at:
        state = eye.paint("waits to be confirmed", "warn")
    elif one.failing_since:
        state = eye.paint(f"fails since {eye.time(one.failing_since)}: {clean(one.failure or '')}", "bad")
    else:
        state = f"sent {eye.time(one.sent_at)}" if one.sent_at else "nothing sent yet"
    off = f"  without {', '.join(sorted(one.off))}" if one.off else ""
    return f"{clean(one.name)}  {one.kind}  {clean(one.shown)}  {state}{off}"


def no_channels(eye: Eye) -> str:
    """That there is no place yet."""
    return "no channels yet; everref channel --help says how to add one"


def channel_added(added: Added, eye: Eye) -> str:
    """A new place, and what has to be known about it."""
    lines = [f"{clean(added.channel.name)}  {added.channel.kind}  {clean(added.channel.shown)}"]
    if added.key:
        lines.append(channel_key(added.key, eye))
    if added.asked:
        lines.append(clean(added.asked))
    return "\n".join(lines)


def channel_key(key: str, eye: Eye) -> str:
    """The key that signs what a webhook gets."""
    return f"key {key}  shown only now"


def channel_tested(one: Channel, answer: str, eye: Eye) -> str:
    """What the other side of a test answered."""
    return f"sent to {clean(one.name)}, which answered {clean(answer)}"


def channel_removed(one: Channel, eye: Eye) -> str:
    """That nothing is sent there any more."""
    return f"{clean(one.name)} is removed"


def unpinged(team: str, eye: Eye) -> str:
    """That nobody is pinged any more."""
    return f"{clean(team)} pings no monitor any more; switch it off there too, or it raises an alarm"


def told(found: Sequence[Said], eye: Eye) -> str:
    """What people were told, newest first, each with where it went."""
    lines = []
    for one in found:
        team = f"  {clean(one.team)}" if one.team else ""
        lines.append(f"{eye.time(one.message.at)}  {clean(one.message.subject)}{team}")
        for each in one.reached:
            state = eye.paint(each.state, "bad") if each.state == "failed" else each.state
            answer = f"  {clean(each.answer)}" if each.answer else ""
            lines.append(
                f"    {clean(each.channel)}: {state}{' in a digest' if each.in_digest else ''}{answer}"
            )
        if not one.reached:
            lines.append("    nowhere: no channel wants such messages")
    return "\n".join(lines) or "nothing was said yet"


def findings(found: Sequence[Finding], eye: Eye) -> str:
    """What the doctor says, each with what to do about it."""
    lines = []
    for line, one in zip(table([(one.what, clean(one.value)) for one in found]), found, strict=True):
        lines.append(f"{eye.paint('ok', 'good') if one.ok else eye.paint('!!', 'bad')}  {line}")
        if one.advice:
            lines.append(f"    {clean(one.advice)}")
    return "\n".join(lines)
