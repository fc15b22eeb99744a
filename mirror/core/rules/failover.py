"""Failover: the git configuration with which clones go on fetching, from Everref, while a host is down.

git replaces the beginning of an address by another one before it connects (`url.<base>.insteadOf`), for
fetches and for pushes alike, and for pushes alone by `pushInsteadOf`, which goes before it. So two lines
send fetches of everything below an address to Everref and leave pushes where they were:
https://git-scm.com/docs/git-config#Documentation/git-config.txt-urltbasegtinsteadOf
"""

import shlex
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import quote, unquote, urlsplit

_HOME: Final = "/./"  # how the path of an ssh address begins that is meant from the account's home directory
_NAME: Final = "-._~!$&'()*+,;=:@"  # what stays as it is in a part of a repo's name in an address


@dataclass(frozen=True, slots=True)
class Named:
    """A repo: what it is called here, and its address at its host."""

    name: str
    url: str  # without credentials


@dataclass(frozen=True, slots=True)
class Rule:
    """What git is to replace at the beginning of an address, and by what."""

    base: str  # at Everref
    prefixes: tuple[str, ...]  # at the host: one for each way to write the same place
    names: tuple[str, ...]  # of the repos that it leads to Everref, in order
    one: bool  # it is the whole address of one repo; else that of a folder of them


def base_of(origin: str, team: str) -> str:
    """The address below which Everref serves a team's repos, with a slash at its end."""
    return f"{origin.rstrip('/')}/git/{quote(team)}/"


def clone_url(origin: str, team: str, name: str) -> str:
    """The address from which git clones a repo of the team as it was last backed up."""
    return base_of(origin, team) + quoted(name)


def quoted(name: str) -> str:
    """A repo's name, or its beginning, as a part of an address."""
    return "/".join(quote(part, safe=_NAME) for part in name.split("/"))


def can_fail_over(url: str) -> bool:
    """Whether clones fetch from this address over a network, so that git can be led away from it."""
    return "://" in url and "#" not in url  # a path, a repo without a remote, or an older history


def rules(base: str, repos: Iterable[Named], both: Collection[str] = ()) -> list[Rule]:
    """The fewest rules that lead every one of these repos to its own address below `base`.

    One for each folder at a host of which the names here end as they do there, then one for each repo
    that none of these leads to the right place. `both`: hosts that serve the same path by https and ssh.
    Two repos whose addresses differ in `.git` alone cannot both be led: the second is in no rule.
    """
    repos = sorted((one for one in repos if can_fail_over(one.url)), key=lambda one: (one.url, one.name))
    folders: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for one in repos:
        folder, last = _split(one.url)
        above, _, name = one.name.rpartition("/")
        if unquote(last) == name:
            folders[folder][base + quoted(f"{above}/" if above else "")] += 1
    chosen = [Rule(_elected(votes), _written(folder, both), (), False) for folder, votes in folders.items()]
    found = _index(chosen)
    # One that is led astray gets a rule of its own, which may be the beginning of another one's address.
    while wrong := [one for one in repos if not _leads(found, base, one) and _bare(one.url) not in found]:
        for one in wrong:
            chosen.append(Rule(base + quoted(one.name), _written(_bare(one.url), both), (), True))
            for prefix in chosen[-1].prefixes:
                found.setdefault(prefix, chosen[-1])
    names: defaultdict[Rule, list[str]] = defaultdict(list)
    for one in repos:
        if _leads(found, base, one):
            names[found[_longest(found, one.url)]].append(one.name)
    return [replace(rule, names=tuple(sorted(names[rule]))) for rule in chosen if names[rule]]


def _elected(votes: Mapping[str, int]) -> str:
    return min(votes, key=lambda place: (-votes[place], place))


def replaced(chosen: Sequence[Rule], url: str) -> str:
    """The address that git uses in place of this one: the longest prefix counts."""
    return _replaced(_index(chosen), url)


def by_spelling(chosen: Sequence[Rule]) -> tuple[list[Rule], list[Rule]]:
    """The rules for addresses as Everref has them, and those for other ways to write the same."""
    first = [replace(rule, prefixes=rule.prefixes[:1]) for rule in chosen]
    others = [replace(rule, prefixes=rule.prefixes[1:]) for rule in chosen if rule.prefixes[1:]]
    return first, others


def switch_on(chosen: Sequence[Rule]) -> list[str]:
    """The commands that let git fetch from Everref; pushes go where they went. Twice does no harm."""
    return [
        line
        for rule in chosen
        for prefix in rule.prefixes
        for line in (
            _config("--add", f"url.{rule.base}.insteadOf", prefix),
            _config("--add", f"url.{prefix}.pushInsteadOf", prefix),
        )
    ]


def switch_off(chosen: Sequence[Rule]) -> list[str]:
    """The commands that take back what `switch_on` gave, and nothing else."""
    return [
        line
        for rule in chosen
        for prefix in rule.prefixes
        for line in (
            _config("--fixed-value", "--unset-all", f"url.{rule.base}.insteadOf", prefix),
            _config("--fixed-value", "--unset-all", f"url.{prefix}.pushInsteadOf", prefix),
        )
    ]


def as_file(found: Sequence[Rule]) -> str:
    """The same as a file, which `include.path` of git's configuration can name."""
    sections = []
    for rule in found:
        sections.append((rule.base, "insteadOf", rule.prefixes))
        sections += [(prefix, "pushInsteadOf", (prefix,)) for prefix in rule.prefixes]
    return "".join(
        f"[url {_string(place)}]\n" + "".join(f"\t{key} = {_string(value)}\n" for value in values)
        for place, key, values in sections
    )


def _config(*words: str) -> str:
    return shlex.join(["git", "config", "--global", *words])


def _string(text: str) -> str:
    """A quoted string of git's configuration: https://git-scm.com/docs/git-config#_syntax"""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _index(chosen: Iterable[Rule]) -> dict[str, Rule]:
    """The rules by what they replace; of two that replace the same, git takes the first."""
    found: dict[str, Rule] = {}
    for rule in chosen:
        for prefix in rule.prefixes:
            found.setdefault(prefix, rule)
    return found


def _longest(found: Mapping[str, Rule], url: str) -> str:
    """The longest prefix of this address that is replaced; empty: none is."""
    return next((url[:end] for end in range(len(url), 0, -1) if url[:end] in found), "")


def _replaced(found: Mapping[str, Rule], url: str) -> str:
    prefix = _longest(found, url)
    return found[prefix].base + url.removeprefix(prefix) if prefix else url


def _leads(found: Mapping[str, Rule], base: str, one: Named) -> bool:
    """Whether these rules lead a repo's address to it, with and without .git at its end."""
    right = base + quoted(one.name)
    bare = _bare(one.url)
    return _replaced(found, bare) == right and _replaced(found, f"{bare}.git") == f"{right}.git"


def _bare(url: str) -> str:
    return url.removesuffix(".git")


def _split(url: str) -> tuple[str, str]:
    """The folder of an address, with the slash, and what is below it, without .git."""
    above, _, last = _bare(url).rpartition("/")
    return f"{above}/", last


def _written(url: str, both: Collection[str]) -> tuple[str, ...]:
    """Every way to write an address, or its beginning: as it is first, then as people clone it, too."""
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.port is None and parts.netloc in both:
        path = parts.path.removeprefix("/")
        return url, f"git@{parts.netloc}:{path}", f"ssh://git@{parts.netloc}/{path}"
    if parts.scheme != "ssh" or parts.port is not None:
        return (url,)
    if parts.path.startswith(_HOME):
        return url, f"{parts.netloc}:{unquote(parts.path.removeprefix(_HOME))}"
    if parts.hostname not in both:
        return url, f"{parts.netloc}:{unquote(parts.path)}"
    path = parts.path.removeprefix("/")
    return url, f"{parts.netloc}:{path}", f"https://{parts.hostname}/{path}"
