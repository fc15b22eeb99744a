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

from mirror.config import App, Settings, app_at
from mirror.errors import BadCredentials, EverrefError, NetworkError, NotFound, OurFault, Refused
from mirror.flows import connections, request, steps
from mirror.flows.edges import Edges, open_edges
from mirror.flows.rotate import rotate
from mirror.flows.sync import sync
from mirror.forges import oauth
from mirror.forges.contract import Forge, Purpose, SpentGrant, Tokens
from mirror.keyring import Keyring
from mirror.model import RepoId, Secret
from mirror.store import connections as rows
from mirror.store import credentials, notices, repos, teams
from mirror.store.connections import Connection, ConnectionId
from mirror.store.teams import TeamId
from tests.parts.forges import GitHub, GitLab, Person, Repository
from tests.test_forges_github import app_of as github_app
from tests.test_forges_gitlab import app_of as gitlab_app

Make = Callable[[], Awaitable[Edges]]


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

        async def make() -> Edges:
            return await stack.enter_async_context(open_edges(settings, clock=clock))

        yield make


@pytest_asyncio.fixture
async def edges(make_edges: Make) -> Edges:
    return await make_edges()


@pytest_asyncio.fixture
async def team(edges: Edges) -> TeamId:
    return await teams.default(edges.db)


@pytest.fixture
def alice(github: GitHub) -> Person:
    return github.add_person("alice")


@pytest.fixture
def anna(gitlab: GitLab) -> Person:
    return gitlab.add_person("anna")


async def consent(edges: Edges, app: App, host: GitHub | GitLab, person: Person) -> Tokens:
    """What a browser and a callback bring."""
    forge, verifier = edges.forges.of(app), oauth.new_verifier()
    back = connections.callback(edges.settings, app)
    url = await host.approve(forge.authorize_url("state", verifier, back, Purpose.READ), person)
    return await forge.exchange(parse_qs(urlsplit(url).query)["code"][0], verifier, back)


@pytest_asyncio.fixture
async def hub(edges: Edges, team: TeamId, github: GitHub, alice: Person) -> Connection:
    """Alice's GitHub, by OAuth."""
    app = edges.forges.apps[0]
    return await connections.connect(edges, team, None, app, await consent(edges, app, github, alice))


@pytest_asyncio.fixture
async def lab(edges: Edges, team: TeamId, gitlab: GitLab, anna: Person) -> Connection:
    """Anna's GitLab, by OAuth, which has two tokens."""
    app = edges.forges.apps[1]
    return await connections.connect(edges, team, None, app, await consent(edges, app, gitlab, anna))


async def row(edges: Edges, connection_id: ConnectionId) -> Connection:
    found = await rows.get(edges.db, connection_id)
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
    edges: Edges, lab: Connection, team: TeamId, anna: Person
) -> None:
    assert (lab.team_id, lab.account_id, lab.login, lab.state) == (team, str(anna.id), "anna", "works")
    assert lab.scopes == ("read_user", "read_api", "read_repository") and lab.expires_at
    assert connections.missing_scopes(edges, lab, Purpose.HOOKS) == ("api",)
    token = await connections.token_for(edges, lab.id)
    kept = await edges.db.fetchrow("select sealed_access, sealed_refresh from connection")
    assert token.encode() not in kept[0] and token.encode() not in kept[1]
    assert token not in repr(await rows.kept(edges.db, lab.id))


async def test_the_same_account_is_the_same_connection(
    edges: Edges, hub: Connection, team: TeamId, github: GitHub, alice: Person
) -> None:
    app = edges.forges.apps[0]
    tokens = await consent(edges, app, github, alice)
    again = await connections.connect(edges, team, None, app, tokens)
    assert again.id == hub.id and again.version == hub.version + 1
    assert await connections.token_for(edges, hub.id) == tokens.access
    token = Tokens(github.personal_token(alice, ("repo", "read:org")))
    assert (await connections.connect(edges, team, None, app, token, "token")).id != hub.id
    assert len(await rows.of_team(edges.db, team)) == 2


async def test_connecting_twice_at_once_makes_one_connection(
    make_edges: Make, edges: Edges, team: TeamId, github: GitHub, alice: Person
) -> None:
    tokens = [Tokens(github.personal_token(alice, ("repo", "read:org"))) for _ in range(4)]
    places = [edges, await make_edges()] * 2
    app = edges.forges.apps[0]
    made = await asyncio.gather(
        *(
            connections.connect(place, team, None, app, one, "token")
            for place, one in zip(places, tokens, strict=True)
        )
    )
    assert len({one.id for one in made}) == 1
    assert await connections.token_for(edges, made[0].id) in {one.access for one in tokens}


async def test_missing_scopes_are_named_and_nothing_is_kept(
    edges: Edges, team: TeamId, github: GitHub, alice: Person
) -> None:
    token = Tokens(github.personal_token(alice, ("gist",)))
    with pytest.raises(Refused, match="no read:org, repo; connect with the scopes read:org, repo"):
        await connections.connect(edges, team, None, edges.forges.apps[0], token, "token")
    assert await rows.of_team(edges.db, team) == []


async def test_a_fine_grained_token_is_taken_as_it_is(
    edges: Edges, team: TeamId, github: GitHub, alice: Person
) -> None:
    token = Tokens(github.fine_grained_token(alice))
    made = await connections.connect(edges, team, None, edges.forges.apps[0], token, "token")
    assert made.scopes == () and connections.missing_scopes(edges, made, Purpose.HOOKS) == ()


async def test_a_host_has_one_address(edges: Edges, team: TeamId, github: GitHub, alice: Person) -> None:
    token = Tokens(github.personal_token(alice, ("repo", "read:org")))
    for url in (f"{github.url}/below", github.url.replace("127.0.0.1", "localhost")):
        with pytest.raises(Refused, match="is reached at http"):
            await connections.connect(edges, team, None, app_at("github", url), token, "token")
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
    async with open_edges(settings) as edges:
        team = await teams.default(edges.db)
        token = Tokens(github.personal_token(alice, ("repo", "read:org")))
        with pytest.raises(OurFault, match="SECRET_KEYS"):
            await connections.connect(edges, team, None, edges.forges.apps[0], token, "token")


async def test_another_teams_connection_is_not_found(edges: Edges, hub: Connection) -> None:
    other = TeamId(
        UUID(bytes=(await edges.db.fetchval("insert into team (name) values ('b') returning id")).bytes)
    )
    assert await rows.find(edges.db, other, hub.id) is None
    assert await rows.find(edges.db, hub.team_id, hub.id) == hub


# Refreshing


async def test_a_token_is_renewed_ten_minutes_early_and_not_before(
    edges: Edges, lab: Connection, gitlab: GitLab, clock: Ahead
) -> None:
    first = await connections.token_for(edges, lab.id)
    later(clock, gitlab, 109)
    assert await connections.token_for(edges, lab.id) == first and refreshes(gitlab) == 0
    later(clock, gitlab, 2)
    second = await connections.token_for(edges, lab.id)
    assert second != first and refreshes(gitlab) == 1
    assert await connections.token_for(edges, lab.id) == second and refreshes(gitlab) == 1
    later(clock, gitlab, 60 * 24 * 30)
    assert await connections.token_for(edges, lab.id) != second
    assert (await connections.check(edges, lab.id)).login == "anna"


async def test_many_workers_at_once_refresh_once(
    make_edges: Make, edges: Edges, lab: Connection, gitlab: GitLab, clock: Ahead
) -> None:
    places = [edges, await make_edges()]
    later(clock, gitlab, 115)
    gitlab.slow(0.05, piece="/oauth/token")
    found = await asyncio.gather(*(connections.token_for(places[n % 2], lab.id) for n in range(12)))
    assert len(set(found)) == 1 and refreshes(gitlab) == 1
    forge = edges.forges.at("gitlab", lab.host)
    assert (await forge.account(found[0])).login == "anna"


async def test_a_crash_between_answer_and_commit_asks_for_a_new_consent_and_no_more(
    edges: Edges, lab: Connection, gitlab: GitLab, clock: Ahead, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(*args: object) -> bool:
        raise SystemError("killed")

    later(clock, gitlab, 115)
    with monkeypatch.context() as patched:
        patched.setattr(rows, "renew", crash)
        with pytest.raises(SystemError):
            await connections.token_for(edges, lab.id)
    assert refreshes(gitlab) == 1 and (await row(edges, lab.id)).state == "works"
    with pytest.raises(SpentGrant, match="connect again"):
        await connections.token_for(edges, lab.id)
    stopped = await row(edges, lab.id)
    assert stopped.state == "reauth" and stopped.why and "connect again" in stopped.why
    for _ in range(3):
        with pytest.raises(BadCredentials, match="connect again"):
            await connections.token_for(edges, lab.id)
    assert refreshes(gitlab) == 2


async def test_a_cancelled_refresh_is_carried_to_its_end(
    edges: Edges, lab: Connection, gitlab: GitLab, clock: Ahead, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered, go_on, renew = asyncio.Event(), asyncio.Event(), rows.renew

    async def waiting(*args: Any) -> bool:
        answered.set()
        await go_on.wait()
        return await renew(*args)

    monkeypatch.setattr(rows, "renew", waiting)
    later(clock, gitlab, 115)
    task = asyncio.create_task(connections.token_for(edges, lab.id))
    await answered.wait()
    task.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    kept = await row(edges, lab.id)
    assert (kept.state, kept.version) == ("works", lab.version + 1)
    await connections.check(edges, lab.id)
    assert refreshes(gitlab) == 1


async def test_while_tokens_are_refreshed_no_connection_to_the_database_is_held(
    edges: Edges, lab: Connection, gitlab: GitLab, clock: Ahead, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge = type(edges.forges.at("gitlab", lab.host))
    refresh, idle = forge.refresh, []

    async def watched(*args: Any) -> Tokens:
        idle.append((edges.db.get_idle_size(), edges.db.get_size()))
        return await refresh(*args)

    monkeypatch.setattr(forge, "refresh", watched)
    later(clock, gitlab, 115)
    await connections.token_for(edges, lab.id)
    [(free, all_of_them)] = idle
    assert free == all_of_them


async def test_a_new_pair_is_kept_although_the_database_was_away_for_a_while(
    edges: Edges, lab: Connection, gitlab: GitLab, clock: Ahead, monkeypatch: pytest.MonkeyPatch
) -> None:
    renew, away = rows.renew, iter([NetworkError("the database does not answer")] * 2)

    async def late(*args: Any) -> bool:
        if (error := next(away, None)) is not None:
            raise error
        return await renew(*args)

    monkeypatch.setattr(rows, "renew", late)
    monkeypatch.setattr(connections, "SAVING", (0, 0, 0))
    later(clock, gitlab, 115)
    await connections.token_for(edges, lab.id)
    assert (await connections.check(edges, lab.id)).version == lab.version + 1
    assert refreshes(gitlab) == 1


async def test_a_run_that_lost_its_lease_uses_the_pair_that_another_one_got(
    edges: Edges, lab: Connection, gitlab: GitLab, clock: Ahead, monkeypatch: pytest.MonkeyPatch
) -> None:
    renew, first = rows.renew, list[bool]()

    async def overtaken(db: Any, connection_id: Any, version: int, *args: Any) -> bool:
        if not first:
            first.append(await renew(db, connection_id, version, *args))
        return await renew(db, connection_id, version, *args)

    monkeypatch.setattr(rows, "renew", overtaken)
    later(clock, gitlab, 115)
    token = await connections.token_for(edges, lab.id)
    assert first == [True] and (await row(edges, lab.id)).version == lab.version + 1
    assert (await edges.forges.at("gitlab", lab.host).account(token)).login == "anna"


@pytest.mark.parametrize("fault", ["500", "silence", "limit"])
async def test_a_forge_that_is_away_changes_nothing(
    edges: Edges,
    lab: Connection,
    gitlab: GitLab,
    clock: Ahead,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    later(clock, gitlab, 115)
    before = await row(edges, lab.id)
    if fault == "silence":
        monkeypatch.setattr("mirror.forges.http.WHOLE", 0.1)
        gitlab.slow(30, piece="/oauth/token")
    else:
        gitlab.fail(500 if fault == "500" else 429, piece="/oauth/token", headers={"Retry-After": "90"})
    with pytest.raises(EverrefError) as raised:
        await connections.token_for(edges, lab.id)
    assert not raised.value.permanent
    assert await row(edges, lab.id) == before
    monkeypatch.undo()
    clock.by += timedelta(minutes=2)
    if fault != "silence":  # there the forge may have spent the token
        assert await connections.token_for(edges, lab.id)


async def test_a_withdrawn_grant_stops_its_own_connection_alone(
    edges: Edges, lab: Connection, hub: Connection, gitlab: GitLab, clock: Ahead
) -> None:
    gitlab.revoke(await connections.token_for(edges, lab.id))
    with pytest.raises(BadCredentials, match="connect again"):
        await connections.check(edges, lab.id)
    assert (await row(edges, lab.id)).state == "reauth"
    asked = len(gitlab.requests)
    with pytest.raises(BadCredentials):
        await connections.check(edges, lab.id)
    assert len(gitlab.requests) == asked
    assert (await connections.check(edges, hub.id)).state == "works"
    [told] = await notices.open_of(edges.db, lab.team_id)
    assert (told.kind, told.message) == ("connection", (await row(edges, lab.id)).why)


async def test_a_refusal_of_an_old_token_does_not_stop_the_new_one(
    make_edges: Make, edges: Edges, lab: Connection, gitlab: GitLab
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
        await connections.asking(edges, lab.id, ask)
    assert len(set(asked)) == 2 and refreshes(gitlab) == 2
    assert (await connections.check(edges, lab.id)).state == "works"


async def test_a_token_that_ran_out_too_early_is_renewed_once(
    edges: Edges, lab: Connection, gitlab: GitLab
) -> None:
    gitlab.expire(await connections.token_for(edges, lab.id))
    assert (await connections.check(edges, lab.id)).state == "works"
    assert refreshes(gitlab) == 1


async def test_one_refusal_that_was_none_stops_nothing(edges: Edges, hub: Connection, github: GitHub) -> None:
    github.fail(401, piece="/user")
    assert (await connections.check(edges, hub.id)).state == "works"


async def test_connecting_again_brings_a_stopped_connection_back(
    edges: Edges, hub: Connection, team: TeamId, github: GitHub, alice: Person
) -> None:
    github.revoke(await connections.token_for(edges, hub.id))
    with pytest.raises(BadCredentials):
        await connections.check(edges, hub.id)
    app = edges.forges.apps[0]
    again = await connections.connect(edges, team, None, app, await consent(edges, app, github, alice))
    assert (again.id, again.state, again.why) == (hub.id, "works", None)


async def test_a_check_keeps_what_changed_at_the_forge(
    edges: Edges, hub: Connection, github: GitHub, alice: Person
) -> None:
    alice.login = github.owners[0].login = "alice-liddell"
    checked = await connections.check(edges, hub.id)
    assert checked.login == "alice-liddell" and checked.version == hub.version


async def test_a_deleted_account_is_told_in_one_line(
    edges: Edges, hub: Connection, github: GitHub, alice: Person
) -> None:
    github.forget(alice)
    with pytest.raises(BadCredentials, match="connect again"):
        await connections.check(edges, hub.id)
    with pytest.raises(NotFound):
        await connections.check(edges, ConnectionId(uuid4()))


# Signing in


async def test_eleven_sign_ins_leave_the_connection_working(
    edges: Edges, hub: Connection, github: GitHub, alice: Person
) -> None:
    """FAULTS: GitHub revokes the oldest of more than ten tokens of the same person, app and scopes."""
    app = edges.forges.apps[0]
    for _ in range(11):
        tokens = await consent(edges, app, github, alice)
        account = await edges.forges.of(app).account(tokens.access)
        used = await connections.signed_in(edges, app, account, tokens)
        assert used and used.id == hub.id
    assert (await connections.check(edges, hub.id)).state == "works"


async def test_a_sign_in_that_nobody_needs_leaves_no_token_behind(
    edges: Edges, lab: Connection, gitlab: GitLab, anna: Person
) -> None:
    app = edges.forges.apps[1]
    tokens = await consent(edges, app, gitlab, anna)
    account = await edges.forges.of(app).account(tokens.access)
    assert await connections.signed_in(edges, app, account, tokens) is None
    assert gitlab.live(tokens.access) is None
    assert (await connections.check(edges, lab.id)).state == "works"


async def test_a_sign_in_brings_a_stopped_connection_back(
    edges: Edges, lab: Connection, gitlab: GitLab, anna: Person
) -> None:
    gitlab.revoke(await connections.token_for(edges, lab.id))
    with pytest.raises(BadCredentials):
        await connections.check(edges, lab.id)
    app = edges.forges.apps[1]
    tokens = await consent(edges, app, gitlab, anna)
    account = await edges.forges.of(app).account(tokens.access)
    used = await connections.signed_in(edges, app, account, tokens)
    assert used and (used.id, used.state) == (lab.id, "works")
    assert await connections.token_for(edges, lab.id) == tokens.access


# What git is given


async def repo_of(edges: Edges, repository: Repository, connection: Connection | None) -> RepoId:
    repo = await request.repo_for(edges, repository.url, None)
    await edges.db.execute(
        "update repo set connection_id = $2 where id = $1", repo.id, connection and connection.id
    )
    return repo.id


async def test_a_private_repository_is_backed_up_by_its_connection(
    edges: Edges, lab: Connection, gitlab: GitLab, clock: Ahead
) -> None:
    meadow = gitlab.add_repository("anna/meadow", private=True)
    repo_id = await repo_of(edges, meadow, None)
    with pytest.raises(EverrefError):
        await sync(edges, repo_id)
    await repo_of(edges, meadow, lab)
    later(clock, gitlab, 300)
    assert (await sync(edges, repo_id)).new


async def test_a_token_that_runs_out_during_a_fetch_is_renewed_and_the_fetch_goes_on(
    edges: Edges, lab: Connection, gitlab: GitLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    meadow = gitlab.add_repository("anna/meadow", private=True)
    repo_id = await repo_of(edges, meadow, lab)
    tokens = [await connections.token_for(edges, lab.id)]

    def listed(step: str) -> None:
        if step == "sync: listed" and tokens:
            gitlab.expire(tokens.pop())

    monkeypatch.setattr(steps, "reached", listed)
    assert (await sync(edges, repo_id)).new and not tokens
    assert refreshes(gitlab) == 1


async def test_a_repo_waits_for_its_connection_and_goes_on_with_it(
    edges: Edges, lab: Connection, team: TeamId, gitlab: GitLab, anna: Person
) -> None:
    meadow = gitlab.add_repository("anna/meadow", private=True)
    repo_id = await repo_of(edges, meadow, lab)
    gitlab.revoke(await connections.token_for(edges, lab.id))
    with pytest.raises(BadCredentials, match="connect again"):
        await sync(edges, repo_id)
    assert await repos.is_held(edges.db, repo_id)
    assert (await row(edges, lab.id)).state == "reauth"
    asked = len(gitlab.requests)
    with pytest.raises(BadCredentials):
        await sync(edges, repo_id)
    assert len(gitlab.requests) == asked
    app = edges.forges.apps[1]
    await connections.connect(edges, team, None, app, await consent(edges, app, gitlab, anna))
    assert not await repos.is_held(edges.db, repo_id)
    assert (await sync(edges, repo_id)).new


async def test_a_repo_of_its_own_credentials_is_fetched_with_those(
    edges: Edges, hub: Connection, github: GitHub
) -> None:
    garden = github.add_repository("alice/garden", private=True)
    repo_id = await repo_of(edges, garden, hub)
    token = await connections.token_for(edges, hub.id)
    assert (await request.remote_of(edges, repo_id, garden.url)).secret == Secret("x-access-token", token)
    assert edges.keyring
    await credentials.keep(edges.db, edges.keyring, repo_id, Secret("me", "own"))
    assert (await request.remote_of(edges, repo_id, garden.url)).secret == Secret("me", "own")


@pytest.mark.parametrize("url", ["https://evil.example.com/alice/garden.git", "http://127.0.0.1:1/a/b.git"])
async def test_a_token_goes_to_its_own_forge_alone(
    edges: Edges, hub: Connection, github: GitHub, url: str
) -> None:
    repo_id = await repo_of(edges, github.add_repository("alice/garden"), hub)
    assert (await request.remote_of(edges, repo_id, url)).secret is None


# Disconnecting


async def test_disconnecting_ends_the_grant_and_keeps_the_backups(
    edges: Edges, hub: Connection, github: GitHub
) -> None:
    garden = github.add_repository("alice/garden", private=True)
    repo_id = await repo_of(edges, garden, hub)
    await sync(edges, repo_id)
    token = await connections.token_for(edges, hub.id)
    await connections.disconnect(edges, hub.id)
    await connections.disconnect(edges, hub.id)
    assert github.live(token) is None and await rows.get(edges.db, hub.id) is None
    assert await edges.db.fetchval("select connection_id from repo where id = $1", repo_id) is None
    assert await edges.db.fetchval("select count(*) from snapshot where repo_id = $1", repo_id) == 1


async def test_a_token_that_a_person_made_stays_theirs(
    edges: Edges, team: TeamId, github: GitHub, alice: Person
) -> None:
    value = github.personal_token(alice, ("repo", "read:org"))
    made = await connections.connect(edges, team, None, edges.forges.apps[0], Tokens(value), "token")
    await connections.disconnect(edges, made.id)
    assert github.live(value) and await rows.of_team(edges.db, team) == []


async def test_disconnecting_from_a_forge_that_is_away_is_disconnecting(
    edges: Edges, lab: Connection, gitlab: GitLab
) -> None:
    gitlab.fail(503, piece="/oauth/revoke")
    await connections.disconnect(edges, lab.id)
    assert await rows.get(edges.db, lab.id) is None


# Keys


async def test_tokens_are_sealed_anew_with_another_key(
    edges: Edges, lab: Connection, hub: Connection
) -> None:
    token = await connections.token_for(edges, lab.id)
    both = Keyring(("n" * 40, "k" * 40))
    assert [key.sealed > 0 for key in (await rotate(edges.db, both)).keys] == [True, False]
    kept = await rows.kept(edges.db, lab.id)
    assert kept and kept.opened(Keyring(("n" * 40,)))[0] == token


async def test_a_sealed_token_opens_in_no_other_row(edges: Edges, lab: Connection, hub: Connection) -> None:
    await edges.db.execute(
        """
        update connection set sealed_access = other.sealed_access from connection as other
        where connection.id = $1 and other.id = $2
        """,
        hub.id,
        lab.id,
    )
    with pytest.raises(EverrefError, match="changed or moved"):
        await connections.token_for(edges, hub.id)


async def test_no_error_of_a_forge_tells_a_token(
    edges: Edges, lab: Connection, gitlab: GitLab, clock: Ahead
) -> None:
    token = await connections.token_for(edges, lab.id)
    gitlab.fail(500, times=2, piece="/", body=f'{{"message": "{token}"}}')
    with pytest.raises(NetworkError) as raised:
        await connections.check(edges, lab.id)
    assert token not in str(raised.value)
