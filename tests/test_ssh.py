"""Hosts that are reached by ssh: a real sshd whose account runs git-shell."""

from pathlib import Path

import pytest

from mirror.backup import sync as syncing
from mirror.backup.sync import Synced
from mirror.core.errors import BadCredentials, NetworkError, Refused, RemoteGone, UsageError
from mirror.core.model import HEAD, Remote, Secret
from mirror.discovery import add
from mirror.git import address, ssh
from mirror.restore import restore
from mirror.services import ssh_access
from mirror.store.discovery import ssh as rows
from mirror.store.people import teams
from tests.parts.everref import Mirror
from tests.parts.repos import Work, refs_of, run_git
from tests.parts.sshd import Sshd


async def let_in(mirror: Mirror, sshd: Sshd) -> None:
    team = await teams.default(mirror.services.db)
    sshd.let_in((await ssh_access.team_key(mirror.services, team)).public)


async def again(mirror: Mirror, done: Synced) -> Synced:
    return await syncing.sync(mirror.services, done.repo.id)


async def test_a_repository_behind_ssh_is_backed_up_and_every_push_after(
    mirror: Mirror, sshd: Sshd, work: Work
) -> None:
    await let_in(mirror, sshd)
    work.commit()
    first = await mirror.backup(sshd.url(work.path))
    assert first.new and await mirror.refs(first.repo, 1) == refs_of(work.path)
    assert not (await again(mirror, first)).new
    work.commit("topic")
    second = await again(mirror, first)
    assert second.snapshot.number == 2 and await mirror.refs(first.repo, 2) == refs_of(work.path)


async def test_a_server_without_protocol_2_is_backed_up_too(mirror: Mirror, sshd: Sshd, work: Work) -> None:
    sshd.restart(without="AcceptEnv GIT_PROTOCOL")
    await let_in(mirror, sshd)
    work.commit()
    done = await mirror.backup(sshd.url(work.path))
    work.commit()
    assert (await again(mirror, done)).snapshot.number == 2
    assert await mirror.refs(done.repo, 2) == refs_of(work.path)


async def test_an_empty_repository_behind_ssh_is_backed_up(mirror: Mirror, sshd: Sshd, work: Work) -> None:
    await let_in(mirror, sshd)
    done = await mirror.backup(sshd.url(work.path))
    assert done.new and set(await mirror.refs(done.repo, 1)) <= {HEAD}


async def test_a_host_that_lacks_the_key_says_what_to_add(mirror: Mirror, sshd: Sshd, work: Work) -> None:
    work.commit()
    with pytest.raises(BadCredentials, match="add the deploy key at the host"):
        await mirror.backup(sshd.url(work.path), "r")
    await let_in(mirror, sshd)
    assert (await mirror.backup(sshd.url(work.path), "r")).new


async def test_a_key_of_somebodys_own_is_used_instead(
    mirror: Mirror, sshd: Sshd, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    work.commit()
    own = ssh_access.new_key("mine")
    sshd.let_in(own.public)
    repo = await add.repo_for(mirror.services, sshd.url(work.path), "r", Secret("", own.private))
    assert (await syncing.sync(mirror.services, repo.id)).new
    assert "PRIVATE KEY" not in caplog.text


async def test_a_key_with_a_passphrase_is_told_in_a_line(mirror: Mirror, sshd: Sshd, work: Work) -> None:
    work.commit()
    repo = await add.repo_for(mirror.services, sshd.url(work.path), "r", Secret("", "no key at all"))
    with pytest.raises(BadCredentials, match="without a passphrase"):
        await syncing.sync(mirror.services, repo.id)


async def test_a_host_that_shows_another_key_gets_nothing_until_the_old_one_is_forgotten(
    mirror: Mirror, sshd: Sshd, work: Work
) -> None:
    await let_in(mirror, sshd)
    work.commit()
    done = await mirror.backup(sshd.url(work.path))
    team = await teams.default(mirror.services.db)
    pinned = await rows.host(mirror.services.db, team, "127.0.0.1", sshd.port)
    assert pinned and [ssh_access.fingerprint(one) for one in pinned.keys] == [sshd.fingerprint()]
    sshd.change_host_key()
    with pytest.raises(Refused, match="a different host key than the pinned one"):
        await again(mirror, done)
    assert await rows.forget_host(mirror.services.db, team, "127.0.0.1", sshd.port, mirror.clock())
    assert not (await again(mirror, done)).new


async def test_what_is_not_there_or_not_answering_has_its_own_words(
    mirror: Mirror, sshd: Sshd, work: Work, tmp_path: Path
) -> None:
    await let_in(mirror, sshd)
    with pytest.raises(RemoteGone, match="the repository does not exist"):
        await mirror.backup(sshd.url(tmp_path / "nothing.git"), "gone")
    sshd.stop()
    with pytest.raises(NetworkError, match="the ssh connection|offers no ssh"):
        await mirror.backup(sshd.url(work.path), "away")


async def test_a_moment_is_restored_to_a_host_behind_ssh(
    mirror: Mirror, sshd: Sshd, work: Work, tmp_path: Path
) -> None:
    await let_in(mirror, sshd)
    work.commit()
    work.commit("topic")
    done = await mirror.backup(work)
    goal = tmp_path / "goal.git"
    run_git("init", "--quiet", "--bare", goal)
    team = await teams.default(mirror.services.db)
    to = await ssh_access.ready(mirror.services, team, Remote(sshd.url(goal)))
    restored = await restore.to_remote(mirror.services, done.repo, done.snapshot, to)
    assert restored.verified and refs_of(goal) == refs_of(work.path)


@pytest.mark.parametrize(
    ("text", "url", "path"),
    [
        ("git@github.com:acme/api.git", "ssh://git@github.com/acme/api.git", "/acme/api.git"),
        ("github.com:acme/api.git", "ssh://git@github.com/acme/api.git", "/acme/api.git"),
        ("ssh://git@e.example:2222/srv/api.git", "ssh://git@e.example:2222/srv/api.git", "/srv/api.git"),
        ("ssh://e.example:22/api", "ssh://git@e.example/api", "/api"),
        ("ann@e.example:api.git", "ssh://ann@e.example/./api.git", "api.git"),
        ("ann@e.example:~bob/api.git", "ssh://ann@e.example/./~bob/api.git", "~bob/api.git"),
        ("ann@e.example:/srv/a b.git", "ssh://ann@e.example/srv/a%20b.git", "/srv/a b.git"),
        ("ann@[::1]:api.git", "ssh://ann@[::1]/./api.git", "api.git"),
    ],
)
def test_ssh_addresses_are_kept_as_one_url(text: str, url: str, path: str) -> None:
    remote = address.parse_remote(text, allow_private=True)
    assert (remote.url, remote.secret) == (url, None)
    assert ssh.remote_path(url) == path
    assert address.parse_remote(url, allow_private=True).url == url


@pytest.mark.parametrize(
    "text",
    [
        "ssh://git:secret@e.example/api.git",
        "ssh://-oProxyCommand=touch@e.example/api.git",
        "ssh://git@-oProxyCommand=touch/api.git",
        "git@-oProxyCommand=touch:api.git",
        "-oProxyCommand=touch@e.example:api.git",
        "ssh://git@e.example",
        "ssh://git@e.example/api.git?x",
        "ssh://git@e.example:99999/api.git",
        "ssh://git@e.example/a%00b.git",
    ],
)
def test_ssh_addresses_that_are_none_are_told_in_a_line(text: str) -> None:
    with pytest.raises(UsageError) as raised:
        address.parse_remote(text, allow_private=False)
    assert "secret" not in str(raised.value)


def test_a_private_address_is_not_reached_by_ssh_either(mirror: Mirror) -> None:
    assert address.name_from_url("ssh://git@e.example/./api.git") == "api"
    assert address.name_from_url("ssh://git@github.com/acme/api.git") == "acme/api"
