"""Where a branch that was restored is at GitHub or GitLab, and where a pull or merge request of it begins.

Who calls: the page of a restore. The addresses are those that the hosts tell of:
https://docs.github.com/en/pull-requests/reference/using-query-parameters-to-create-a-pull-request and
https://gitlab.com/gitlab-org/gitlab/-/issues/15964
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlencode

from mirror.core.config import App, Product

NAMES: Final = {"github": "GitHub", "gitlab": "GitLab"}


@dataclass(frozen=True, slots=True)
class HostLinks:
    """The pages of one repository at its host."""

    product: Product
    repository: str  # its address, as a browser opens it

    @property
    def host(self) -> str:
        """The host as people call it."""
        return NAMES[self.product]

    @property
    def request(self) -> str:
        """What the host calls a request to merge."""
        return "pull request" if self.product == "github" else "merge request"

    def branch(self, name: str) -> str:
        """The page of a branch or tag."""
        between = "tree" if self.product == "github" else "-/tree"
        return f"{self.repository}/{between}/{quote(name, safe='/')}"

    def new_request(self, name: str, base: str) -> str:
        """The form of a request to merge a branch into `base`; empty: into the default branch."""
        if self.product == "github":
            into = f"{quote(base, safe='/')}..." if base else ""
            return f"{self.repository}/compare/{into}{quote(name, safe='/')}?expand=1"
        asked = {"merge_request[source_branch]": name}
        asked |= {"merge_request[target_branch]": base} if base else {}
        return f"{self.repository}/-/merge_requests/new?{urlencode(asked)}"


def of(url: str, apps: Iterable[App]) -> HostLinks | None:
    """The pages of the repository at this git address. None: its host is not one of these."""
    for app in apps:
        if url.startswith(f"{app.url.rstrip('/')}/"):
            return HostLinks(app.forge, url.rstrip("/").removesuffix(".git"))
    return None
