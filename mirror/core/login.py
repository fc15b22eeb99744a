"""How git signs in at a host over HTTP: the user name for a token that was given without one.

Who calls: git/upstream and git/push, for every request that takes credentials along.
"""

from base64 import b64encode
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from mirror.core.model import Remote

ANY: Final = "oauth2"  # GitLab's own; Gitea and Forgejo take any, Azure DevOps any that is not empty

# A host (or what is below it, after a dot), how the token begins, and the user name. The first row counts.
# https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/authenticating-as-a-github-app-installation
# https://docs.gitlab.com/api/oauth2/#access-git-over-https-with-access-token
# https://support.atlassian.com/bitbucket-cloud/docs/using-api-tokens/ and /using-access-tokens/; the prefixes
# ATAT (of a person) and ATCT (of a repository, project or workspace) as Atlassian's staff named them in 2025.
# https://learn.microsoft.com/azure/devops/repos/git/auth-overview#personal-access-tokens
_USERS: Final[Sequence[tuple[str, tuple[str, ...], str]]] = (
    ("", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"), "x-access-token"),
    ("github.com", ("",), "x-access-token"),
    (".ghe.com", ("",), "x-access-token"),
    ("bitbucket.org", ("ATAT",), "x-bitbucket-api-token-auth"),
    ("bitbucket.org", ("",), "x-token-auth"),
)


def user_of(host: str, token: str) -> str:
    """The user name that this host documents for such a token."""
    for place, prefixes, user in _USERS:
        there = host.endswith(place) if place.startswith(".") else place in ("", host)
        if there and token.startswith(prefixes):
            return user
    return ANY


def authorization(remote: Remote) -> str | None:
    """The value of the Authorization header. None: there are no credentials."""
    if remote.secret is None:
        return None
    user, token = remote.secret.username, remote.secret.password
    pair = f"{user or user_of(urlsplit(remote.url).hostname or '', token)}:{token}"
    return "Basic " + b64encode(pair.encode()).decode()
