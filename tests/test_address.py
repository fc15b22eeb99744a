"""Addresses are read as people write them, and none leads into the network that only we can reach."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from mirror.core.errors import EverrefError, NetworkError, NotFound, UsageError
from mirror.core.model import Remote, Secret
from mirror.git.address import CheckedResolver, check, name_from_url, parse_remote, pinned
from mirror.git.run import Git
from mirror.git.upstream import connect
from mirror.net import reach
from mirror.net.reach import is_public
from tests.parts.githttp import GitServer
from tests.parts.repos import Work


@pytest.mark.parametrize(
    ("text", "url", "secret"),
    [
        ("https://example.org/a/b.git", "https://example.org/a/b.git", None),
        ("HTTPS://Example.ORG:443/a/b/", "https://example.org/a/b", None),
        (" https://example.org:8443/a ", "https://example.org:8443/a", None),
        ("https://example.org./a", "https://example.org/a", None),
        ("https://alice:s%40cret@example.org/a", "https://example.org/a", Secret("alice", "s@cret")),
        ("https://alice@example.org/a", "https://example.org/a", Secret("alice", "")),
        ("https://:token@example.org/a", "https://example.org/a", Secret("", "token")),
        ("https://example.org/with space/\u00e9", "https://example.org/with%20space/%C3%A9", None),
        ("https://b\u00fccher.example/a", "https://xn--bcher-kva.example/a", None),
        ("https://[2606:4700::1111]:8443/a", "https://[2606:4700::1111]:8443/a", None),
    ],
)
def test_an_address_is_split_from_its_credentials(text: str, url: str, secret: Secret | None) -> None:
    assert parse_remote(text, allow_private=False) == Remote(url, secret)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "https://",
        "https:///owner/name",
        "https://example.org",
        "https://example.org/",
        "https://example.org/a?b=c",
        "https://example.org/a#b",
        "https://example.org:99999/a",
        "https://example.org:22/a",
        "https://example.org:0/a",
        "https://exa mple.org/a",
        "https://[::1/a",
        "https://example.org/a\nHost: evil",
        "https://%31%32%37.0.0.1/a",
        "http://example.org/a",
        "ssh://git:secret@example.org/a",
        "git://example.org/a",
        "ftp://example.org/a",
        "ext::sh -c touch% /tmp/pwned",
        "file:///etc",
        "/etc",
        "relative/path",
        "--upload-pack=touch pwned",
    ],
)
def test_what_is_no_https_address_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_remote(text, allow_private=False)
    assert len(str(error.value)) > 20


@pytest.mark.parametrize(
    "text",
    ["ftp://alice:canary@example.org/a", "https://alice:canary@/a", "https://alice:canary@example.org:x/a"],
)
def test_no_message_repeats_credentials(text: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_remote(text, allow_private=True)
    assert "canary" not in str(error.value)


def test_http_is_for_our_own_network_only() -> None:
    assert parse_remote("http://localhost:3000/a/b", allow_private=True).url == "http://localhost:3000/a/b"
    assert parse_remote("http://localhost:80/a/b", allow_private=True).url == "http://localhost/a/b"


@pytest.mark.parametrize("bare", [True, False])
def test_a_path_is_made_absolute(bare: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Work(tmp_path / "some where", bare=bare).path
    monkeypatch.chdir(tmp_path)
    for text in (
        str(path),
        "some where",
        "./some where/",
        path.as_uri(),
        "file://localhost" + path.as_uri()[7:],
    ):
        assert parse_remote(text, allow_private=True) == Remote(str(path))


def test_a_path_without_a_repository_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is nothing at"):
        parse_remote(str(tmp_path / "none"), allow_private=True)
    with pytest.raises(UsageError, match="is not a git repository"):
        parse_remote(str(tmp_path), allow_private=True)
    (tmp_path / "file").touch()
    for path in ("file", "file/below"):
        with pytest.raises(UsageError):
            parse_remote(str(tmp_path / path), allow_private=True)


async def test_where_paths_are_not_taken_nothing_tells_what_is_there(tmp_path: Path) -> None:
    Work(tmp_path / "repository")
    (tmp_path / "file").touch()
    (tmp_path / "example.org:a").touch()
    said = set()
    for path in ("repository", "file", "file/below", "none", "", "../none", "example.org:a/../none"):
        for text in (f"{tmp_path}/{path}", f"file://{tmp_path}/{path}", f"file://host{tmp_path}/{path}"):
            for private in (True, False):
                with pytest.raises(UsageError) as error:
                    parse_remote(text, private, paths=False)
                said.add(str(error.value))
    assert len(said) == 1
    assert parse_remote("example.org:a", True, paths=False).url == "ssh://git@example.org/./a"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://example.org/owner/name.git", "owner/name"),
        ("https://example.org/group/sub/name", "sub/name"),
        ("https://example.org/name.git", "name"),
        ("https://example.org/with%20space/%C3%A9t%C3%A9", "with space/\u00e9t\u00e9"),
        ("/srv/git/project.git", "project"),
        ("/srv/git/project/.git", "project"),
        ("/srv/git/project", "project"),
    ],
)
def test_a_repo_is_named_after_its_address(url: str, name: str) -> None:
    assert name_from_url(url) == name


PRIVATE = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.1",
    "192.0.0.9",
    "192.31.196.1",
    "192.52.193.1",
    "192.88.99.1",
    "192.175.48.1",
    "::ffff:192.88.99.1",
    "64:ff9b::192.88.99.1",
    "2002:c058:6301::1",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "2001::1",
    "2001:1::1",
    "2001:3::1",
    "2001:4:112::1",
    "2001:20::1",
    "2001:1ff::1",
    "2620:4f:8000::1",
    "3fff::1",
    "5f00::1",
    "2001:db8::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%1",
    "fec0::1",
    "ff02::1",
    "not an address",
]


@pytest.mark.parametrize("text", PRIVATE)
def test_private_addresses_are_known_in_every_disguise(text: str) -> None:
    assert not is_public(text)


@pytest.mark.parametrize(
    "text",
    [
        "93.184.216.34",
        "192.88.98.1",
        "2001:200::1",
        "2606:4700::1111",
        "::ffff:93.184.216.34",
        "64:ff9b::5db8:d822",
    ],
)
def test_public_addresses_are_public(text: str) -> None:
    assert is_public(text)


LOOPBACKS = [
    "localhost",
    "LOCALHOST",
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "0x7f.1",
    "017700000001",
    "0177.0.0.1",
    "0177.0.0.01",
    "127.0.0.1.",
    "0",
    "0.0.0.0",
    "0x0",
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:127.0.0.1]",
    "[::127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[2002:7f00:1::]",
    "[fe80::1]",
    "[fd00::1]",
    "169.254.169.254",
    "0xa9fea9fe",
    "2852039166",
    "0251.0376.0251.0376",
    "10.0.0.1",
    "192.168.0.1",
    "172.16.0.1",
    "100.64.0.1",
]


@pytest.mark.parametrize("host", LOOPBACKS)
async def test_no_spelling_of_a_private_host_is_dialled(
    host: str, git_server: GitServer, work: Work, tmp_path: Path
) -> None:
    url = f"https://{host}:{git_server.port}/remote.git"
    with pytest.raises(EverrefError):
        async with connect(
            Git("git", str(tmp_path)), parse_remote(url, False), allow_private=False
        ) as upstream:
            await upstream.ls_refs()
    with pytest.raises(EverrefError):
        await check(parse_remote(url, False).url, allow_private=False)
    assert git_server.requests == []


def scripted(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> None:
    """A name server that says these addresses, one list after the other, and then the last for ever."""
    left = list(answers)

    def getaddrinfo(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        found = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


async def test_one_private_address_among_many_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, ["93.184.216.34", "10.0.0.1"])
    with pytest.raises(NetworkError, match="cannot be reached"):
        await check("https://example.org/a", allow_private=False)
    with pytest.raises(OSError, match="cannot be reached"):
        await CheckedResolver(allow_private=False).resolve("example.org", 443)
    assert await check("https://example.org/a", allow_private=True) == ["93.184.216.34", "10.0.0.1"]


async def test_a_name_that_changes_its_mind_after_the_check_is_not_followed(
    monkeypatch: pytest.MonkeyPatch, git_server: GitServer, tmp_path: Path
) -> None:
    scripted(monkeypatch, ["93.184.216.34"], ["127.0.0.1"])
    url = f"https://rebinding.example:{git_server.port}/remote.git"
    await check(url, allow_private=False)
    async with connect(Git("git", str(tmp_path)), Remote(url), allow_private=False) as upstream:
        with pytest.raises(NetworkError, match="cannot be reached"):
            await upstream.ls_refs()
    assert git_server.requests == []


async def test_our_own_public_address_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reach.is_ours("127.0.0.1") and not reach.is_ours("93.184.216.34")
    monkeypatch.setattr(reach, "is_public", lambda text: True)
    with pytest.raises(NetworkError):
        await check("https://127.0.0.1/a", allow_private=False)


async def test_a_name_that_is_nobodys_and_a_private_one_read_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nobody(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    said = []
    for answer in (nobody, lambda *_, **__: [(socket.AF_INET, 1, 6, "", ("10.0.0.1", 443))]):
        monkeypatch.setattr(socket, "getaddrinfo", answer)
        with pytest.raises(NetworkError) as error:
            await check("https://example.org/a", allow_private=False)
        said.append(str(error.value))
    assert said[0] == said[1]


async def test_git_dials_what_was_checked(git_server: GitServer, work: Work, tmp_path: Path) -> None:
    tip = work.commit()
    url = f"http://pinned.example:{git_server.port}/remote.git"
    config = {"protocol.http.allow": "always", **pinned(url, ["127.0.0.1"])}
    git = Git("git", str(tmp_path))
    answer = await git.run(
        "ls-remote", "--end-of-options", url, env_config=config, env={"GIT_ALLOW_PROTOCOL": "http"}
    )
    assert tip.decode() in answer.decode()


def test_a_path_and_an_address_in_digits_have_nothing_to_pin() -> None:
    assert pinned("/srv/git/a", []) == {}
    assert pinned("https://[2606:4700::1111]/a", ["2606:4700::1111"]) == {}
    assert pinned("https://example.org/a", ["1.1.1.1", "2606::1"]) == {
        "http.curloptResolve": "example.org:443:1.1.1.1,[2606::1]"
    }


async def test_a_path_needs_no_check() -> None:
    assert await check(os.getcwd(), allow_private=False) == []
