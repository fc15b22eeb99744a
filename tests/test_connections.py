"""An account is connected, its tokens stay of use, and whoever cannot use them is told once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from mirror.backup.sync import sync
from mirror.core.config import App, Settings, app_at
from mirror.core.errors import BadCredentials, EverrefError, NetworkError, NotFound, OurFault, Refused
from mirror.core.keyring import Keyring
from mirror.core.model import RepoId, Secret
from mirror.discovery import add, connections
from mirror.forges import oauth
from mirror.forges.contract import Forge, Purpose, SpentGrant, Tokens
from mirror.services import failpoints
from mirror.services.open import Services, open_services
from mirror.store import repos
from mirror.store.discovery import connections as rows
from mirror.store.discovery import credentials
from mirror.store.discovery.connections import Connection, ConnectionId
from mirror.store.people import notices, teams
from mirror.store.people.teams import TeamId
from mirror.upkeep.reencrypt import rotate
from tests.parts.forges import GitHub, GitLab, Person, Repository
from tests.test_forges_github import app_of as github_app
from tests.test_forges_gitlab import app_of as gitlab_app

Make = Callable[[], Awaitable[Services]]


class Ahead:
    """A clock that is right until it is put on."""

    def __init__(self) -> None:
        self.by = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.by


@pytest.fixture
def clock() -> Ahead:
    return Ahead()


@pytest_asyncio.fixture
async def make_edges(
    tmp_path: Path, database: str, github: GitHub, gitlab: GitLab, clock: Ahead
) -> AsyncIterator[Make]:
    """Opens Everref as one process has it: `await make_edges()`; all of them have one database."""
    settings = Settings(
        data=str(tmp_path / "data"),
        database_url=database,
        allow_private_remotes=True,
        secret_keys=("k" * 40,),
        apps=(github_app(github), gitlab_app(gitlab)),
    )
    async with AsyncExitStack() as stack:

        async def make() -> Services:
            return await stack.enter_async_context(open_services(settings, clock=clock))

        yield make


@pytest_asyncio.fixture
async def services(make_edges: Make) -> Services:
    return await make_edges()


@pytest_asyncio.fixture
async def team(services: Services) -> TeamId:
    return await teams.default(services.db)


@pytest.fixture
def alice(github: GitHub) -> Person:
    return github.add_person("alice")


@pytest.fixture
def anna(gitlab: GitLab) -> Person:
    return gitlab.add_person("anna")


async def consent(services: Services, app: App, host: GitHub | GitLab, person: Person) -> Tokens:
    """What a browser and a callback bring."""
    forge, verifier = services.forges.of(app), oauth.new_verifier()
    back = connections.callback(services.settings, app)
    url = await host.approve(forge.authorize_url("state", verifier, back, Purpose.READ), person)
    return await forge.exchange(parse_qs(urlsplit(url).query)["code"][0], verifier, back)


@pytest_asyncio.fixture
async def hub(services: Services, team: TeamId, github: GitHub, alice: Person) -> Connection:
    """Alice's GitHub, by OAuth."""
    app = services.forges.apps[0]
    return await connections.connect(services, team, None, app, await consent(services, app, github, alice))


@pytest_asyncio.fixture
async def lab(services: Services, team: TeamId, gitlab: GitLab, anna: Person) -> Connection:
    """Anna's GitLab, by OAuth, which has two tokens."""
    app = services.forges.apps[1]
    return await connections.connect(services, team, None, app, await consent(services, app, gitlab, anna))


async def row(services: Services, connection_id: ConnectionId) -> Connection:
    found = await rows.get(services.db, connection_id)
    assert found
    return found


def later(clock: Ahead, gitlab: GitLab, minutes: float) -> None:
    """Time goes by, here and there."""
    clock.by += timedelta(minutes=minutes)
    gitlab.advance(minutes * 60)


def refreshes(gitlab: GitLab) -> int:
    return gitlab.count("POST /oauth/token") - 1  # the first one exchanged the code


# Connecting


async def test_a_connection_knows_whose_it_is_and_keeps_its_tokens_sealed(
    services: Services, lab: Connection, team: TeamId, anna: Person
) -> None:
    assert (lab.team_id, lab.account_id, lab.login, lab.state) == (team, str(anna.id), "anna", "works")
    assert lab.scopes == ("read_user", "read_api", "read_repository") and lab.expires_at
    assert connections.missing_scopes(services, lab, Purpose.HOOKS) == ("api",)
    token = await connections.token_for(services, lab.id)
    kept = await services.db.fetchrow("select sealed_access, sealed_refresh from connection")
    assert token.encode() not in kept[0] and token.encode() not in kept[1]
    assert token not in repr(await rows.kept(services.db, lab.id))


async def test_the_same_account_is_the_same_connection(
    services: Services, hub: Connection, team: TeamId, github: GitHub, alice: Person
) -> None:
    app = services.forges.apps[0]
    tokens = await consent(services, app, github, alice)
    again = await connections.connect(services, team, None, app, tokens)
    assert again.id == hub.id and again.version == hub.version + 1
    assert await connections.token_for(services, hub.id) == tokens.access
    token = Tokens(github.personal_token(alice, ("repo", "read:org")))
    assert (await connections.connect(services, team, None, app, token, "token")).id != hub.id
    assert len(await rows.of_team(services.db, team)) == 2


async def test_connecting_twice_at_once_makes_one_connection(
    make_edges: Make, services: Services, team: TeamId, github: GitHub, alice: Person
) -> None:
    tokens = [Tokens(github.personal_token(alice, ("repo", "read:org"))) for _ in range(4)]
    places = [services, await make_edges()] * 2
    app = services.forges.apps[0]
    made = await asyncio.gather(
        *(
            connections.connect(place, team, None, app, one, "token")
            for place, one in zip(places, tokens, strict=True)
        )
    )
    assert len({one.id for one in made}) == 1
    assert await connections.token_for(services, made[0].id) in {one.access for one in tokens}


async def test_missing_scopes_are_named_and_nothing_is_kept(
    services: Services, team: TeamId, github: GitHub, alice: Person
) -> None:
    token = Tokens(github.personal_token(alice, ("gist",)))
    with pytest.raises(Refused, match="did not grant read:org, repo; connect again with the scopes"):
        await connections.connect(services, team, None, services.forges.apps[0], token, "token")
    assert await rows.of_team(services.db, team) == []


async def test_a_fine_grained_token_is_taken_as_it_is(
    services: Services, team: TeamId, github: GitHub, alice: Person
) -> None:
    token = Tokens(github.fine_grained_token(alice))
    made = await connections.connect(services, team, None, services.forges.apps[0], token, "token")
    assert made.scopes == () and connections.missing_scopes(services, made, Purpose.HOOKS) == ()


async def test_a_host_has_one_address(
    services: Services, team: TeamId, github: GitHub, alice: Person
) -> None:
    token = Tokens(github.personal_token(alice, ("repo", "read:org")))
    for url in (f"{github.url}/below", github.url.replace("127.0.0.1", "localhost")):
        with pytest.raises(Refused, match="is already configured at http"):
            await connections.connect(services, team, None, app_at("github", url), token, "token")
    assert not github.requests


async def test_nothing_is_connected_without_keys_to_seal_with(
    tmp_path: Path, database: str, github: GitHub, alice: Person
) -> None:
    settings = Settings(
        data=str(tmp_path / "other"),
        database_url=database,
        allow_private_remotes=True,
        apps=(github_app(github),),
    )
    async with open_services(settings) as services:
        team = await teams.default(services.db)
        token = Tokens(github.personal_token(alice, ("repo", "read:org")))
        with pytest.raises(OurFault, match="SECRET_KEYS"):
            await connections.connect(services, team, None, services.forges.apps[0], token, "token")


async def test_another_teams_connection_is_not_found(services: Services, hub: Connection) -> None:
    other = TeamId(
        UUID(bytes=(await services.db.fetchval("insert into team (name) values ('b') returning id")).bytes)
    )
    assert await rows.find(services.db, other, hub.id) is None
    assert await rows.find(services.db, hub.team_id, hub.id) == hub


# Refreshing


async def test_a_token_is_renewed_ten_minutes_early_and_not_before(
    services: Services, lab: Connection, gitlab: GitLab, clock: Ahead
) -> None:
    first = await connections.token_for(services, lab.id)
    later(clock, gitlab, 109)
    assert await connections.token_for(services, lab.id) == first and refreshes(gitlab) == 0
    later(clock, gitlab, 2)
    second = await connections.token_for(services, lab.id)
    assert second != first and refreshes(gitlab) == 1
    assert await connections.token_for(services, lab.id) == second and refreshes(gitlab) == 1
    later(clock, gitlab, 60 * 24 * 30)
    assert await connections.token_for(services, lab.id) != second
    assert (await connections.check(services, lab.id)).login == "anna"


async def test_many_workers_at_once_refresh_once(
    make_edges: Make, services: Services, lab: Connection, gitlab: GitLab, clock: Ahead
) -> None:
    places = [services, await make_edges()]
    later(clock, gitlab, 115)
    gitlab.slow(0.05, piece="/oauth/token")
    found = await asyncio.gather(*(connections.token_for(places[n % 2], lab.id) for n in range(12)))
    assert len(set(found)) == 1 and refreshes(gitlab) == 1
    forge = services.forges.at("gitlab", lab.host)
    assert (await forge.account(found[0])).login == "anna"


async def test_a_crash_between_answer_and_commit_asks_for_a_new_consent_and_no_more(
    services: Services, lab: Connection, gitlab: GitLab, clock: Ahead, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(*args: object) -> bool:
        raise SystemError("killed")

    later(clock, gitlab, 115)
    with monkeypatch.context() as patched:
        patched.setattr(rows, "renew", crash)
        with pytest.raises(SystemError):
            await connections.token_for(services, lab.id)
    assert refreshes(gitlab) == 1 and (await row(services, lab.id)).state == "works"
    with pytest.raises(SpentGrant, match="connect again"):
        await connections.token_for(services, lab.id)
    stopped = await row(services, lab.id)
    assert stopped.state == "reauth" and stopped.why and "connect again" in stopped.why
    for _ in range(3):
        with pytest.raises(BadCredentials, match="connect again"):
            await connections.token_for(services, lab.id)
    assert refreshes(gitlab) == 2


async def test_a_cancelled_refresh_is_carried_to_its_end(
    services: Services, lab: Connection, gitlab: GitLab, clock: Ahead, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered, go_on, renew = asyncio.Event(), asyncio.Event(), rows.renew

    async def waiting(*args: Any) -> bool:
        answered.set()
        await go_on.wait()
        return await renew(*args)

    monkeypatch.setattr(rows, "renew", waiting)
    later(clock, gitlab, 115)
    task = asyncio.create_task(connections.token_for(services, lab.id))
    await answered.wait()
    task.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    kept = await row(services, lab.id)
    assert (kept.state, kept.version) == ("works", lab.version + 1)
    await connections.check(services, lab.id)
    assert refreshes(gitlab) == 1


async def test_while_tokens_are_refreshed_no_connection_to_the_database_is_held(
    services: Services, lab: Connection, gitlab: GitLab, clock: Ahead, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge = type(services.forges.at("gitlab", lab.host))
    refresh, idle = forge.refresh, []

    async def watched(*args: Any) -> Tokens:
        idle.append((services.db.get_idle_size(), services.db.get_size()))
        return await refresh(*args)

    monkeypatch.setattr(forge, "refresh", watched)
    later(clock, gitlab, 115)
    await connections.token_for(services, lab.id)
    [(free, all_of_them)] = idle
    assert free == all_of_them


async def test_a_new_pair_is_kept_although_the_database_was_away_for_a_while(
    services: Services, lab: Connection, gitlab: GitLab, clock: Ahead, monkeypatch: pytest.MonkeyPatch
) -> None:
    renew, away = rows.renew, iter([NetworkError("the database does not answer")] * 2)

    async def late(*args: Any) -> bool:
        if (error := next(away, None)) is not None:
            raise error
        return await renew(*args)

    monkeypatch.setattr(rows, "renew", late)
    monkeypatch.setattr(connections, "SAVING", (0, 0, 0))
    later(clock, gitlab, 115)
    await connections.token_for(services, lab.id)
    assert (await connections.check(services, lab.id)).version == lab.version + 1
    assert refreshes(gitlab) == 1


async def test_a_run_that_lost_its_lease_uses_the_pair_that_another_one_got(
    services: Services, lab: Connection, gitlab: GitLab, clock: Ahead, monkeypatch: pytest.MonkeyPatch
) -> None:
    renew, first = rows.renew, list[bool]()

    async def overtaken(db: Any, connection_id: Any, version: int, *args: Any) -> bool:
        if not first:
            first.append(await renew(db, connection_id, version, *args))
        return await renew(db, connection_id, version, *args)

    monkeypatch.setattr(rows, "renew", overtaken)
    later(clock, gitlab, 115)
    token = await connections.token_for(services, lab.id)
    assert first == [True] and (await row(services, lab.id)).version == lab.version + 1
    assert (await services.forges.at("gitlab", lab.host).account(token)).login == "anna"


@pytest.mark.parametrize("fault", ["500", "silence", "limit"])
async def test_a_forge_that_is_away_changes_nothing(
    services: Services,
    lab: Connection,
    gitlab: GitLab,
    clock: Ahead,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    later(clock, gitlab, 115)
    before = await row(services, lab.id)
    if fault == "silence":
        monkeypatch.setattr("mirror.forges.http.WHOLE", 0.1)
        gitlab.slow(30, piece="/oauth/token")
    else:
        gitlab.fail(500 if fault == "500" else 429, piece="/oauth/token", headers={"Retry-After": "90"})
    with pytest.raises(EverrefError) as raised:
        await connections.token_for(services, lab.id)
    assert not raised.value.permanent
    assert await row(services, lab.id) == before
    monkeypatch.undo()
    clock.by += timedelta(minutes=2)
    if fault != "silence":  # there the forge may have spent the token
        assert await connections.token_for(services, lab.id)


async def test_a_withdrawn_grant_stops_its_own_connection_alone(
    services: Services, lab: Connection, hub: Connection, gitlab: GitLab, clock: Ahead
) -> None:
    gitlab.revoke(await connections.token_for(services, lab.id))
    with pytest.raises(BadCredentials, match="connect again"):
        await connections.check(services, lab.id)
    assert (await row(services, lab.id)).state == "reauth"
    asked = len(gitlab.requests)
    with pytest.raises(BadCredentials):
        await connections.check(services, lab.id)
    assert len(gitlab.requests) == asked
    assert (await connections.check(services, hub.id)).state == "works"
    [told] = await notices.open_of(services.db, lab.team_id)
    assert (told.kind, told.message) == ("connection", (await row(services, lab.id)).why)


async def test_a_refusal_of_an_old_token_does_not_stop_the_new_one(
    make_edges: Make, services: Services, lab: Connection, gitlab: GitLab
) -> None:
    """Another worker renewed the pair while this one's second token was refused."""
    other = await make_edges()
    asked = []

    async def ask(forge: Forge, token: str) -> None:
        asked.append(token)
        if len(asked) == 2:
            await connections.token_for(other, lab.id, refused=token)
        raise BadCredentials("no")

    with pytest.raises(BadCredentials):
        await connections.asking(services, lab.id, ask)
    assert len(set(asked)) == 2 and refreshes(gitlab) == 2
    assert (await connections.check(services, lab.id)).state == "works"


async def test_a_token_that_ran_out_too_early_is_renewed_once(
    services: Services, lab: Connection, gitlab: GitLab
) -> None:
    gitlab.expire(await connections.token_for(services, lab.id))
    assert (await connections.check(services, lab.id)).state == "works"
    assert refreshes(gitlab) == 1


async def test_one_refusal_that_was_none_stops_nothing(
    services: Services, hub: Connection, github: GitHub
) -> None:
    github.fail(401, piece="/user")
    assert (await connections.check(services, hub.id)).state == "works"


async def test_connecting_again_brings_a_stopped_connection_back(
    services: Services, hub: Connection, team: TeamId, github: GitHub, alice: Person
) -> None:
    github.revoke(await connections.token_for(services, hub.id))
    with pytest.raises(BadCredentials):
        await connections.check(services, hub.id)
    app = services.forges.apps[0]
    again = await connections.connect(services, team, None, app, await consent(services, app, github, alice))
    assert (again.id, again.state, again.why) == (hub.id, "works", None)


async def test_a_check_keeps_what_changed_at_the_forge(
    services: Services, hub: Connection, github: GitHub, alice: Person
) -> None:
    alice.login = github.owners[0].login = "alice-liddell"
    checked = await connections.check(services, hub.id)
    assert checked.login == "alice-liddell" and checked.version == hub.version


async def test_a_deleted_account_is_told_in_one_line(
    services: Services, hub: Connection, github: GitHub, alice: Person
) -> None:
    github.forget(alice)
    with pytest.raises(BadCredentials, match="connect again"):
        await connections.check(services, hub.id)
    with pytest.raises(NotFound):
        await connections.check(services, ConnectionId(uuid4()))


# Signing in


async def test_eleven_sign_ins_leave_the_connection_working(
    services: Services, hub: Connection, github: GitHub, alice: Person
) -> None:
    """FAULTS: GitHub revokes the oldest of more than ten tokens of the same person, app and scopes."""
    app = services.forges.apps[0]
    for _ in range(11):
        tokens = await consent(services, app, github, alice)
        account = await services.forges.of(app).account(tokens.access)
        used = await connections.signed_in(services, app, account, tokens)
        assert used and used.id == hub.id
    assert (await connections.check(services, hub.id)).state == "works"


async def test_a_sign_in_that_nobody_needs_leaves_no_token_behind(
    services: Services, lab: Connection, gitlab: GitLab, anna: Person
) -> None:
    app = services.forges.apps[1]
    tokens = await consent(services, app, gitlab, anna)
    account = await services.forges.of(app).account(tokens.access)
    assert await connections.signed_in(services, app, account, tokens) is None
    assert gitlab.live(tokens.access) is None
    assert (await connections.check(services, lab.id)).state == "works"


async def test_a_sign_in_brings_a_stopped_connection_back(
    services: Services, lab: Connection, gitlab: GitLab, anna: Person
) -> None:
    gitlab.revoke(await connections.token_for(services, lab.id))
    with pytest.raises(BadCredentials):
        await connections.check(services, lab.id)
    app = services.forges.apps[1]
    tokens = await consent(services, app, gitlab, anna)
    account = await services.forges.of(app).account(tokens.access)
    used = await connections.signed_in(services, app, account, tokens)
    assert used and (used.id, used.state) == (lab.id, "works")
    assert await connections.token_for(services, lab.id) == tokens.access


# What git is given


async def repo_of(services: Services, repository: Repository, connection: Connection | None) -> RepoId:
    repo = await add.repo_for(services, repository.url, None)
    await services.db.execute(
        "update repo set connection_id = $2 where id = $1", repo.id, connection and connection.id
    )
    return repo.id


async def test_a_private_repository_is_backed_up_by_its_connection(
    services: Services, lab: Connection, gitlab: GitLab, clock: Ahead
) -> None:
    meadow = gitlab.add_repository("anna/meadow", private=True)
    repo_id = await repo_of(services, meadow, None)
    with pytest.raises(EverrefError):
        await sync(services, repo_id)
    await repo_of(services, meadow, lab)
    later(clock, gitlab, 300)
    assert (await sync(services, repo_id)).new


async def test_a_token_that_runs_out_during_a_fetch_is_renewed_and_the_fetch_goes_on(
    services: Services, lab: Connection, gitlab: GitLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    meadow = gitlab.add_repository("anna/meadow", private=True)
    repo_id = await repo_of(services, meadow, lab)
    tokens = [await connections.token_for(services, lab.id)]

    def listed(step: str) -> None:
        if step == "sync: listed" and tokens:
            gitlab.expire(tokens.pop())

    monkeypatch.setattr(failpoints, "reached", listed)
    assert (await sync(services, repo_id)).new and not tokens
    assert refreshes(gitlab) == 1


async def test_a_repo_waits_for_its_connection_and_goes_on_with_it(
    services: Services, lab: Connection, team: TeamId, gitlab: GitLab, anna: Person
) -> None:
    meadow = gitlab.add_repository("anna/meadow", private=True)
    repo_id = await repo_of(services, meadow, lab)
    gitlab.revoke(await connections.token_for(services, lab.id))
    with pytest.raises(BadCredentials, match="connect again"):
        await sync(services, repo_id)
    assert await repos.is_held(services.db, repo_id)
    assert (await row(services, lab.id)).state == "reauth"
    asked = len(gitlab.requests)
    with pytest.raises(BadCredentials):
        await sync(services, repo_id)
    assert len(gitlab.requests) == asked
    app = services.forges.apps[1]
    await connections.connect(services, team, None, app, await consent(services, app, gitlab, anna))
    assert not await repos.is_held(services.db, repo_id)
    assert (await sync(services, repo_id)).new


async def test_a_repo_of_its_own_credentials_is_fetched_with_those(
    services: Services, hub: Connection, github: GitHub
) -> None:
    garden = github.add_repository("alice/garden", private=True)
    repo_id = await repo_of(services, garden, hub)
    token = await connections.token_for(services, hub.id)
    assert (await add.remote_of(services, repo_id, garden.url)).secret == Secret("x-access-token", token)
    assert services.keyring
    await credentials.keep(services.db, services.keyring, repo_id, Secret("me", "own"))
    assert (await add.remote_of(services, repo_id, garden.url)).secret == Secret("me", "own")


@pytest.mark.parametrize("url", ["https://evil.example.com/alice/garden.git", "http://127.0.0.1:1/a/b.git"])
async def test_a_token_goes_to_its_own_forge_alone(
    services: Services, hub: Connection, github: GitHub, url: str
) -> None:
    repo_id = await repo_of(services, github.add_repository("alice/garden"), hub)
    assert (await add.remote_of(services, repo_id, url)).secret is None


# Disconnecting


async def test_disconnecting_ends_the_grant_and_keeps_the_backups(
    services: Services, hub: Connection, github: GitHub
) -> None:
    garden = github.add_repository("alice/garden", private=True)
    repo_id = await repo_of(services, garden, hub)
    await sync(services, repo_id)
    token = await connections.token_for(services, hub.id)
    await connections.disconnect(services, hub.id)
    await connections.disconnect(services, hub.id)
    assert github.live(token) is None and await rows.get(services.db, hub.id) is None
    assert await services.db.fetchval("select connection_id from repo where id = $1", repo_id) is None
    assert await services.db.fetchval("select count(*) from snapshot where repo_id = $1", repo_id) == 1


async def test_a_token_that_a_person_made_stays_theirs(
    services: Services, team: TeamId, github: GitHub, alice: Person
) -> None:
    value = github.personal_token(alice, ("repo", "read:org"))
    made = await connections.connect(services, team, None, services.forges.apps[0], Tokens(value), "token")
    await connections.disconnect(services, made.id)
    assert github.live(value) and await rows.of_team(services.db, team) == []


async def test_disconnecting_from_a_forge_that_is_away_is_disconnecting(
    services: Services, lab: Connection, gitlab: GitLab
) -> None:
    gitlab.fail(503, piece="/oauth/revoke")
    await connections.disconnect(services, lab.id)
    assert await rows.get(services.db, lab.id) is None


# Keys


async def test_tokens_are_sealed_anew_with_another_key(
    services: Services, lab: Connection, hub: Connection
) -> None:
    token = await connections.token_for(services, lab.id)
    both = Keyring(("n" * 40, "k" * 40))
    assert [key.sealed > 0 for key in (await rotate(services.db, both)).keys] == [True, False]
    kept = await rows.kept(services.db, lab.id)
    assert kept and kept.opened(Keyring(("n" * 40,)))[0] == token


async def test_a_sealed_token_opens_in_no_other_row(
    services: Services, lab: Connection, hub: Connection
) -> None:
    await services.db.execute(
        """
        update connection set sealed_access = other.sealed_access from connection as other
        where connection.id = $1 and other.id = $2
        """,
        hub.id,
        lab.id,
    )
    with pytest.raises(EverrefError, match="changed or moved"):
        await connections.token_for(services, hub.id)


async def test_no_error_of_a_forge_tells_a_token(
    services: Services, lab: Connection, gitlab: GitLab, clock: Ahead
) -> None:
    token = await connections.token_for(services, lab.id)
    gitlab.fail(500, times=2, piece="/", body=f'{{"message": "{token}"}}')
    with pytest.raises(NetworkError) as raised:
        await connections.check(services, lab.id)
    assert token not in str(raised.value)
