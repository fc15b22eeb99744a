"""What each git host refuses of a push, as far as that is known: refs of its own, and how much comes at once.

Who calls: core/rules/mirrors for what is pushed to a mirror, and restore/mirroring for how much at once.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from mirror.core.refs import is_hidden

_GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Profile:
    """What a host is known to refuse. Of a host that is not known, only what all refuse is left out."""

    name: str
    own: tuple[bytes, ...] = ()  # beginnings of refs that mean something else there, besides refs.HIDDEN
    push_bytes: int | None = None  # of one push; None: no limit is known

    def refuses(self, name: bytes) -> bool:
        """Whether a push of this ref would be refused, or would do something else than write it."""
        return is_hidden(name) or name.startswith(self.own)


GENERIC: Final = Profile("a git server")

# refs/pull/* is hidden there ("deny updating a hidden ref"). One push takes 2 GiB:
# https://docs.github.com/en/get-started/using-git/troubleshooting-the-2-gb-push-limit
GITHUB: Final = Profile("GitHub", push_bytes=2 * _GIB)

# refs/merge-requests, keep-around, pipelines, environments, tmp and remotes are hidden from receive-pack:
# https://gitlab.com/gitlab-org/gitaly/-/merge_requests/3426. GitLab.com takes 5 GB in one push, others what
# their admin has set: https://gitlab.com/gitlab-com/gl-infra/production/-/issues/1810
GITLAB: Final = Profile("GitLab", push_bytes=5_000_000_000)

# receive.hideRefs is refs/pull/ (modules/git/git.go), and refs/for and its like open pull requests:
# https://docs.gitea.com/usage/agit
GITEA: Final = Profile("Gitea", (b"refs/for/", b"refs/draft/", b"refs/for-review/"))

# One push takes 3.5 GB: https://bitbucket.org/blog/git-push-size-limits-are-coming-to-bitbucket-cloud-starting-april-4th-2022
BITBUCKET: Final = Profile("Bitbucket", (b"refs/pull-requests/",), 3_500_000_000)

_BY_HOST: Final = {
    "github.com": GITHUB,
    "gitlab.com": GITLAB,
    "bitbucket.org": BITBUCKET,
    "codeberg.org": GITEA,
    "gitea.com": GITEA,
}
_BY_PRODUCT: Final = {"github": GITHUB, "gitlab": GITLAB}


def profile_of(url: str, product: str | None = None) -> Profile:
    """The profile of the host of this address; `product` is what its connection says that it runs."""
    host = (urlsplit(url).hostname or "").lower()
    found = _BY_HOST.get(host) or _BY_PRODUCT.get(product or "")
    if found is None and host.partition(".")[0] in ("gitea", "forgejo"):
        return GITEA
    return found or GENERIC


# git index-pack's own words where receive.maxInputSize is exceeded: git-receive-pack(1).
TOO_LARGE: Final = re.compile("pack exceeds maximum allowed size")

# What hosts say of a ref that they refused, and what to do about it.
_ADVICE: Final = (
    (re.compile("hidden ref"), "the host keeps this name for itself"),
    (
        re.compile(
            "GH006|[Pp]rotected branch|protected (by|ref)|not allowed to force.push|branch is protected"
        ),
        "it is protected at the mirror: unprotect it there, or let this account push to it, by force too",
    ),
    (
        re.compile("GH001|file size limit|exceeds .{0,40}(file|blob) size|larger than the .{0,20}limit"),
        "a file in it is larger than the host takes; it has to go from the history, or to Git LFS",
    ),
    (
        re.compile("GH013|[Rr]epository rule violations|push declined due to"),
        "a rule of the mirror forbids it: change the rule there, or let this account bypass it",
    ),
    (
        re.compile("denying non-fast-forward|non-fast-forward"),
        "the mirror takes no force-pushes: allow them there",
    ),
    (re.compile("deletion prohibited|denyDelet|refusing to delete"), "the mirror does not let it be deleted"),
    (TOO_LARGE, "the host takes no push this large"),
)


def advice(why: str, remarks: Iterable[str] = ()) -> str:
    """Why a host refused a ref, with what to do about it where that is known."""
    words = " ".join((why, *remarks))
    found = next((said for pattern, said in _ADVICE if pattern.search(words)), None)
    return f"{found} ({why})" if found else why


Refuses = Callable[[bytes], bool]
