"""One account force-pushes every branch of eight repositories of a forge: one plan, one press, one undo."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import httpx
import pytest

from mirror.core.model import HEAD, RefName, Target
from mirror.store.people import tokens
from mirror.web import templating
from mirror.web.app import application
from mirror.web.dispatch import Outside
from tests.parts.api import EVERYTHING, Program
from tests.parts.forges import WRITE, GitHub, Repository
from tests.parts.gitclient import done as git
from tests.parts.repos import Work
from tests.parts.web import ORIGIN
from tests.parts.whole import Begin, Whole, until

# arq closes its connections by the old name of that method.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")

TEAM: Final = "/teams/alice"
BRANCHES: Final[Mapping[str, int]] = {
    **{f"service-{number}": 8 for number in range(6)},
    **{f"tool-{number}": 7 for number in range(2)},
}
ALL: Final = 62
SHUT: Final = RefName(b"refs/heads/work-3")  # in the last of the repositories
RULE: Final = f"""#!/bin/sh
[ "$1" = {SHUT.decode()} ] || exit 0
echo "error: GH006: Protected branch update failed for $1."
echo "error: Cannot force-push to this branch"
exit 1
"""
UNTOLD: Final = "select count(*) from claim where open"  # what webhooks said and no sync has read yet
UNDER_WAY: Final = "select count(*) from job where asked ? 'rollback' and state in ('queued', 'running')"


def filled(whole: Whole) -> list[Repository]:
    """Alice's repositories, with a commit of its own on each branch."""
    made = whole.add(*BRANCHES)
    for repository, branches in zip(made, BRANCHES.values(), strict=True):
        main, work = repository.work.tip(), repository.work
        work.update({branch(number): work.commit(None, parents=[main]) for number in range(1, branches)})
        repository.settle()
    return made


def branch(number: int) -> RefName:
    return RefName(f"refs/heads/work-{number}".encode())


async def steal(whole: Whole, work: Work, repositories: Sequence[Repository]) -> None:
    """Mallory, who may write, force-pushes each branch to a history of its own, by stock git over HTTP."""
    mallory = whole.host.add_person("mallory")
    token = whole.host.personal_token(mallory, ("repo", "workflow"))
    for repository in repositories:
        repository.access[mallory.id] = WRITE
        names = [name for name in repository.work.refs() if name != HEAD]
        evil = [work.commit(None, message="Nothing to see", parents=[]) for _ in names]
        moves = [f"+{oid.decode()}:{name.decode()}" for oid, name in zip(evil, names, strict=True)]
        url = repository.url.replace("://", f"://mallory:{token}@", 1)
        await git("-C", work.path, "push", "-q", url, *moves)
    await whole.host.deliver()


def protect(repository: Repository) -> None:
    """Let the host refuse one branch from now on, with GitHub's words."""
    hook = repository.path / "hooks" / "update"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(RULE)
    hook.chmod(0o755)


def refs(repositories: Sequence[Repository]) -> list[dict[RefName, Target]]:
    """What the branches hold at the host."""
    return [dict(repository.work.refs()) for repository in repositories]


@asynccontextmanager
async def program(whole: Whole) -> AsyncIterator[Program]:
    """A program of Alice's that uses the API beside the forge."""
    services = whole.services
    assert services.keyring
    outside = Outside(services, whole.queue, services.keyring, ORIGIN, templating.environment())
    asked = (whole.person, whole.team, "a test's", EVERYTHING, None, whole.clock())
    bearer, _ = await tokens.make(services.db, *asked)
    transport = httpx.ASGITransport(application(outside), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
        yield Program(client, bearer)
    await outside.background.end()


async def none(whole: Whole, counted: str) -> bool:
    """Whether there are none left of what this query counts."""
    left: int = await whole.services.db.fetchval(counted)
    return left == 0


async def receipts(
    api: Program, rollback: Mapping[str, Any]
) -> dict[tuple[str, str], tuple[str, str | None]]:
    """What each ref came to, and why, by the receipts of the rollback's jobs."""
    told: dict[tuple[str, str], tuple[str, str | None]] = {}
    for repo in rollback["repos"]:
        job = await api.get(f"{TEAM}/jobs/{repo['job']}")
        told |= {(repo["repo"], ref["name"]): (ref["result"], ref["why"]) for ref in job["result"]["refs"]}
    return told


async def test_62_force_pushes_to_8_repositories_of_a_forge_are_put_back_by_one_plan_and_undone(
    github: GitHub, begin: Begin, make_work: Callable[..., Work]
) -> None:
    whole = await begin(github)
    for token in github.tokens:
        token.scopes += ("workflow",)  # without it the double has one hook that answers for every ref
    made = filled(whole)
    async with whole.working(), program(whole) as api:
        await whole.keep(*made)
        await whole.at_rest()
        before = refs(made)
        await steal(whole, make_work(), made)
        await until(partial(none, whole, UNTOLD))
        await whole.at_rest()
        found = await api.get(f"{TEAM}/changes", since="1h ago", actor="mallory")
        by_repo = Counter(one["repo"] for one in found["items"])
        assert by_repo == {f"alice/{name}": number for name, number in BRANCHES.items()}
        assert {(one["what"], one["by"]) for one in found["items"]} == {("forced", "mallory")}

        plan = await api.post(f"{TEAM}/rollbacks", {"since": "1h ago", "actor": ["mallory"]})
        assert (plan["state"], plan["refs_chosen"], len(plan["repos"])) == ("planned", ALL, len(made))
        assert {ref["state"] for repo in plan["repos"] for ref in repo["refs"]} == {"ready"}
        saved = made[0].commit("work-1", message="Alice goes on after the plan")
        protect(made[-1])
        after = refs(made)

        pushes = github.count("/git-receive-pack")
        path = f"{TEAM}/rollbacks/{plan['id']}"
        await api.post(f"{path}/begin")
        await until(partial(none, whole, UNDER_WAY))
        done = await api.get(path)
        assert done["sentence"] == "60 refs of 8 repositories put back; 2 repositories not, or only in part"
        assert github.count("/git-receive-pack") == pushes + len(made)  # all refs of one in one push
        told = await receipts(api, done)
        assert len(told) == ALL
        result, why = told.pop((made[-1].full_name, SHUT.decode()))
        assert result == "refused" and why and "GH006" in why, why
        result, why = told.pop((made[0].full_name, branch(1).decode()))
        assert result == "refused" and why and "since the plan was made" in why, why
        assert set(told.values()) == {("updated", None)}
        left = [{branch(1): saved}, *({} for _ in made[2:]), {SHUT: after[-1][SHUT]}]
        assert refs(made) == [were | other for were, other in zip(before, left, strict=True)]

        await api.post(f"{path}/undo")
        await until(partial(none, whole, UNDER_WAY))
        undone = await api.get(path)
        assert (undone["state"], undone["sentence"]) == ("undone", "8 of 8 repositories undone")
        assert refs(made) == after
        await github.deliver()
        await whole.at_rest()
