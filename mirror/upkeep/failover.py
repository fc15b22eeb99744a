"""Proving that git would fetch from here while a host is down: `git ls-remote` through a team's lines.

Who calls: `everref doctor --failover`. It asks our own door only, with a token that works for minutes.
"""

import base64
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from mirror.core import refs as ref_rules
from mirror.core.errors import EverrefError, NotFound
from mirror.core.model import HEAD, RefName, Refs, Repo, Snapshot, Target
from mirror.core.rules import failover
from mirror.core.rules.failover import Rule
from mirror.core.rules.roles import Role
from mirror.core.words import ago, count
from mirror.git.disk import finish
from mirror.people import accounts, operator
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.backup import history, snapshots
from mirror.store.database import transaction
from mirror.store.people import teams, tokens
from mirror.store.people.teams import Team
from mirror.upkeep.doctor import Finding

TRIED: Final = 20  # repos that are asked for, one for each rule first
GOOD_FOR: Final = timedelta(minutes=10)  # the token of one check
SECONDS: Final = 60.0  # for git to list one repo
_NAME: Final = "everref doctor"


async def check(
    services: Services, origin: str, team: Team, rules: Sequence[Rule], only: Repo | None = None
) -> list[Finding]:
    """Ask for one repo of each rule, or for this one, by its host's address, as machines with the lines do.

    What git lists must be what the latest snapshot has. Raises NotFound where no rule leads to `only`.
    """
    names = [rule.names[0] for rule in rules][:TRIED] if only is None else [only.name]
    if only is not None and not any(only.name in rule.names for rule in rules):
        direct = failover.clone_url(origin, team.name, only.name)
        raise NotFound(f"git cannot be led from {only.url} to Everref; clone {direct}")
    found = list[Finding]()
    async with _token(services, team) as token, _configuration(services, rules) as file:
        for name in names:
            repo = await repos.by_name(services.db, team.id, name)
            if repo is not None:
                found.append(await _checked(services, origin, rules, repo, token, file))
    return found


async def _checked(
    services: Services, origin: str, rules: Sequence[Rule], repo: Repo, token: str, file: Path
) -> Finding:
    """What git lists for the repo's own address, compared with its latest snapshot."""
    leads_to = failover.replaced(rules, repo.url)
    before = await snapshots.latest(services.db, repo.id)
    if before is None:
        advice = f"it can be fetched from here once it is backed up: everref backup {repo.url}"
        return Finding(repo.name, "nothing is saved yet", False, advice)
    try:
        listed = await _listed(services, origin, repo.url, token, file)
    except EverrefError as error:
        advice = f"make sure that Everref runs at {origin}, and that this machine reaches it there"
        return Finding(repo.name, f"git cannot list {leads_to}: {error}", False, advice)
    after = await snapshots.latest(services.db, repo.id) or before
    for snapshot in (before, after):  # one may be taken meanwhile
        if listed == await _refs(services, repo, snapshot):
            as_of = await repos.protected_as_of(services.db, repo.id) or snapshot.taken_at
            words = f"git fetches {count(len(listed), 'ref')} from {leads_to}"
            return Finding(repo.name, f"{words}, as of {ago(as_of, services.clock())}", True)
    return Finding(
        repo.name,
        f"git lists {count(len(listed), 'ref')} at {leads_to}, and not those of {after.label}",
        False,
        "another service may answer at this address: check BASE_URL",
    )


async def _refs(services: Services, repo: Repo, snapshot: Snapshot) -> Refs:
    """The refs of the snapshot that git lists by name and id."""
    found = await history.refs_at(services.db, repo.id, snapshot.number)
    return {
        name: target for name, target in found.items() if name != HEAD and not ref_rules.is_symbolic(target)
    }


async def _listed(services: Services, origin: str, url: str, token: str, file: Path) -> Refs:
    """What `git ls-remote` says for the host's own address on a machine with these lines."""
    given = base64.b64encode(f"everref:{token}".encode()).decode()
    scheme = urlsplit(origin).scheme
    told = await services.git.run(
        "ls-remote",
        "--refs",
        "--",
        url,
        timeout=SECONDS,
        env={"GIT_CONFIG_GLOBAL": str(file), "GIT_ALLOW_PROTOCOL": scheme},
        env_config={
            f"protocol.{scheme}.allow": "always",
            f"http.{origin}/.extraHeader": f"Authorization: Basic {given}",
        },
    )
    lines = (line.split(b"\t", 1) for line in told.splitlines())
    return {RefName(name): Target(oid) for oid, name in lines}


@asynccontextmanager
async def _configuration(services: Services, rules: Sequence[Rule]) -> AsyncIterator[Path]:
    """The lines as the file that a machine would include."""
    file = services.disk.root / f".failover-{secrets.token_hex(8)}"
    await finish(lambda: file.write_text(failover.as_file(rules), encoding="utf-8"))
    try:
        yield file
    finally:
        await finish(lambda: file.unlink(missing_ok=True))


@asynccontextmanager
async def _token(services: Services, team: Team) -> AsyncIterator[str]:
    """An API token to read, of an owner of the team; revoked at the end, and after GOOD_FOR in any case."""
    db, now = services.db, services.clock()
    if team.name == teams.DEFAULT:
        owner = (await accounts.first_owner(db, now)).id
    else:
        owners = [one.person_id for one in await teams.members(db, team.id) if one.role is Role.OWNER]
        if not owners:
            raise NotFound(f"nobody owns {team.name}, so no token can be made to try it with")
        owner = owners[0]
    async with transaction(db) as connection:
        raw, made = await tokens.make(connection, owner, team.id, _NAME, ["read"], now + GOOD_FOR, now)
        await operator.did(connection, team.id, "token.add", _NAME, {"scopes": ["read"]}, now)
    try:
        yield raw
    finally:
        async with transaction(db) as connection:
            if await tokens.revoke(connection, team.id, made.id, services.clock()):
                await operator.did(connection, team.id, "token.revoke", _NAME, {}, services.clock())
