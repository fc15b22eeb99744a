"""GitHub and GitLab as small servers, which refuse what the real ones would: the doubles of the tests.

`github.add_person("alice")`, `github.add_repository("alice/garden")`, then `repository.commit()` is a push
that its hooks hear of, and `await github.deliver()` waits until every receiver has answered. They answer in
the test's event loop: a client that blocks it, as `git clone` does, runs in a thread (`asyncio.to_thread`).
"""

from tests.parts.forges.github import GitHub
from tests.parts.forges.gitlab import GitLab
from tests.parts.forges.serve import serving
from tests.parts.forges.world import (
    ADMIN,
    GUEST,
    MAINTAIN,
    READ,
    WRITE,
    Delivery,
    Hook,
    Move,
    Owner,
    Person,
    Repository,
    Token,
)

__all__ = [
    "ADMIN",
    "GUEST",
    "MAINTAIN",
    "READ",
    "WRITE",
    "Delivery",
    "GitHub",
    "GitLab",
    "Hook",
    "Move",
    "Owner",
    "Person",
    "Repository",
    "Token",
    "serving",
]
