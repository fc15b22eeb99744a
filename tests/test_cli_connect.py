"""Connecting by the command line: a token in, repositories kept with hooks, quiet and clear."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.parts.forges import GitHub
from tests.test_cli import Everref, surroundings


@pytest.fixture
def everref(tmp_path: Path, database: str, github: GitHub) -> Everref:
    """The command beside a GitHub."""
    env = surroundings(tmp_path) | {"DATABASE_URL": database, "SECRET_KEYS": "k" * 40}
    return Everref(env | {"GITHUB_URL": github.url, "ALLOW_PRIVATE_REMOTES": "1"}, tmp_path)


async def test_an_account_is_connected_and_what_matches_is_kept(everref: Everref, github: GitHub) -> None:
    alice = github.add_person("alice")
    garden = github.add_repository("alice/garden")
    github.add_repository("alice/shed")
    github.add_repository("alice/gate")
    token = github.personal_token(alice, ("repo", "read:org"))
    words = ("connect", "--forge", "github", "--token-file", "-")
    done = await asyncio.to_thread(everref, *words, "--only", "*/g*", stdin=token)
    host = github.url.partition("://")[2]
    assert done.out.splitlines() == [
        f"{host} as alice  sees 3 repos, 2 chosen  */g*",
        "  alice/garden  webhook made",
        "  alice/gate    webhook made",
        "if everref up is running, their first backups begin now; otherwise run everref sweep",
    ]
    assert token not in done.out + done.err and len(garden.hooks) == 1
    done = await asyncio.to_thread(everref, *words, "--everything", "--json", stdin=token)
    found = json.loads(done.out)
    assert (found["login"], found["repositories"], found["kept"]) == ("alice", 3, 3)
    (chosen,) = found["chosen"]
    assert chosen | {"repo_id": ""} == {
        "repo_id": "",
        "repo": "alice/shed",
        "hook": "registered",
        "why": None,
    }
    done = await asyncio.to_thread(everref.json, "connections")
    (row,) = map(json.loads, done.out.splitlines())
    assert (row["host"], row["state"], row["everything"], row["kept"]) == (host, "works", True, 3)
    done = await asyncio.to_thread(everref, "connections")
    assert done.out == f"{host} as alice  sees 3 repos, 3 chosen  everything, new ones too\n"
    done = await asyncio.to_thread(everref, "sweep", "-q")
    done = await asyncio.to_thread(everref.json, "repos")
    assert [json.loads(line)["state"] for line in done.out.splitlines()] == ["protected"] * 3


async def test_a_token_without_its_scopes_connects_nothing(everref: Everref, github: GitHub) -> None:
    token = github.personal_token(github.add_person("alice"), ("read:org",))
    words = ("connect", "--forge", "github", "--token-file", "-")
    done = await asyncio.to_thread(everref, *words, stdin=token, code=1)
    assert "did not grant repo" in done.err and token not in done.err
    assert "nothing is connected" in (await asyncio.to_thread(everref, "connections")).out


def test_a_token_must_be_given(everref: Everref) -> None:
    assert "--token-file says where" in everref("connect", "--forge", "github", code=2).err
