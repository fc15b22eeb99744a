"""Why repositories need somebody, in the words that the home page and messages share."""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from mirror.core import words

# What each class of error means for one repository, and for many; `where` is the host.
_ONE: Final[Mapping[str, str]] = {
    "credentials": "{where} refuses the credentials for {repo}",
    "gone": "{repo} is gone or has moved, or {where} hides it from us",
    "blocked": "{where} blocks access to {repo}",
    "moved": "{repo} has moved to another address",
    "identity": "Another repository is at the address of {repo}",
    "network": "{where} cannot be reached for {repo}",
    "corrupt": "{where} sends damaged data for {repo}",
    "limit": "A limit stops the backup of {repo}",
    "key": "No key that is here opens the backup of {repo}",
    "ours": "Everref itself fails to back up {repo}",
}
_MANY: Final[Mapping[str, str]] = {
    "credentials": "{where} refuses the credentials for {many}",
    "gone": "{many} are gone or have moved, or {where} hides them from us",
    "blocked": "{where} blocks access to {many}",
    "moved": "{many} have moved to another address",
    "identity": "Other repositories are at the addresses of {many}",
    "network": "{where} cannot be reached",
    "corrupt": "{where} sends damaged data for {many}",
    "limit": "A limit stops the backup of {many}",
    "key": "No key that is here opens the backups of {many}",
    "ours": "Everref itself fails to back up {many}",
}
# What to do about each, for a reader who is not at the page.
_TO_DO: Final[Mapping[str, str]] = {
    "credentials": "Replace the token or the key in the repository's settings.",
    "gone": "If it has moved, change its address in its settings. If it was deleted, its backups stay.",
    "blocked": "Ask the host why; Everref tries again by itself.",
    "moved": "Change its address in its settings.",
    "identity": "Check the address in its settings: the history that is saved there stays as it is.",
    "network": "Everref tries again by itself. If it lasts, check that the host is up.",
    "corrupt": "Everref tries again by itself. If it lasts, run git fsck on the repository at its host.",
    "limit": "Everref tries again by itself. If it lasts, raise the limit or make the repository smaller.",
    "key": "Nothing is damaged: put the missing key back into SECRET_KEYS, or import the team's identity.",
    "ours": "Whoever runs Everref finds more in its log.",
    "damage": "Open the repository: its page says which moments can be restored, and how to mend it.",
    "late": "Everref catches up by itself once a worker has time. If it lasts, start more workers.",
    "unchecked": "See the status page: a worker may be stuck, or a clock wrong.",
    "behind": "A backup that takes long or waits for its turn may be why.",
    "archived": "Every backup stays and can be restored.",
    "hook": "Everref checks on a schedule instead; set the webhook up again to have pushes saved at once.",
    "over": "Raise the limit, or remove what is no longer needed.",
}


class Cause(Protocol):
    """One reason for which repositories need somebody."""

    @property
    def kind(self) -> str: ...  # damage, late, hook...; or the class of an error
    @property
    def where(self) -> str: ...  # the host, if any
    @property
    def many(self) -> int: ...
    @property
    def unsaved(self) -> int: ...  # of them: nothing was ever saved
    @property
    def repos(self) -> Sequence[tuple[str, str]]: ...  # names with what is known of each; the first ones


def repositories(number: int) -> str:
    """`1 repository`, `1,200 repositories`."""
    return "1 repository" if number == 1 else f"{number:,} repositories"


def called(forge: str, host: str) -> str:
    """A forge as people call it, with its host where it is not the cloud's."""
    product = {"github": "GitHub", "gitlab": "GitLab"}[forge]
    return product if host == f"{forge}.com" else f"{product} at {host}"


def refused(forge: str, host: str, login: str) -> str:
    """What a connection whose token is refused is called."""
    return f"{called(forge, host)} refuses {login}'s token"


def title(one: Cause) -> str:
    """The cause in a line."""
    alone = one.many == 1
    subject = one.repos[0][0] if alone else repositories(one.many)
    if one.kind == "damage":
        return f"Part of the backup of {subject} is damaged"
    if one.kind == "hook":
        return f"{one.where} sends no pushes of {subject}"
    if one.kind == "late":
        return how_late(one)
    if one.kind == "unchecked":
        return f"{subject} {'is' if alone else 'are'} no longer being checked"
    if one.kind == "behind":
        return (
            f"{subject} is outside its recovery point objective"
            if alone
            else f"{subject} are outside their recovery point objectives"
        )
    if one.kind == "archived":
        return f"{subject} is no longer at its host" if alone else f"{subject} are no longer at their hosts"
    return _failing(one)


def _failing(one: Cause) -> str:
    alone = one.many == 1
    where = one.where or ("its host" if alone else "their host")
    pattern = (_ONE if alone else _MANY).get(one.kind, "{repo} fails" if alone else "{many} fail")
    said = pattern.format(where=where, repo=one.repos[0][0], many=repositories(one.many))
    return said[0].upper() + said[1:] if not one.where and pattern.startswith("{where}") else said


def how_late(one: Cause) -> str:
    """What waits for a worker: what was never saved is not late."""
    late = one.many - one.unsaved
    if one.many == 1:
        return f"{one.repos[0][0]} is {'late' if late else 'not saved yet'}"
    how = "late" if late else "not saved yet"
    told = f"{repositories(late or one.many)} {'is' if late == 1 else 'are'} {how}"
    return f"{told}, and {one.unsaved:,} not saved yet" if late and one.unsaved else told


def detail(one: Cause) -> str:
    """What is known of a cause that concerns one repository, as a sentence; empty: its title says it all."""
    if one.many != 1 or one.kind in ("late", "unchecked", "archived") or not one.repos[0][1]:
        return ""
    return words.sentence(one.repos[0][1])


def to_do(kind: str) -> str:
    """What to do about causes of this kind."""
    return _TO_DO.get(kind, "See the repository's page.")
