"""How a server is started (Dockerfile, compose.yaml, deploy/): pinned, few rights, no secret in sight."""

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import yaml  # type: ignore[import-untyped]
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError

from mirror.core import config
from tests.parts.redis import older_redis
from tests.parts.s3 import free_ports
from tests.parts.whole import until
from tests.test_documents import ELSEWHERE, Asked

ROOT: Final = Path(__file__).parents[1]
DOCKERFILE: Final = (ROOT / "Dockerfile").read_text()
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
OURS: Final = {"release", "web", "hooks", "worker"}
UNITS: Final = sorted((ROOT / "deploy" / "systemd").glob("everref-*.service"))
HARDENING: Final = ROOT / "deploy" / "systemd" / "everref-.service.d" / "hardening.conf"
RUN: Final = ROOT / "deploy" / "systemd" / "run"
PINNED: Final = re.compile(r"[a-z]+:[\w.-]+@sha256:[0-9a-f]{64}")
SECRETS: Final = (
    "DATABASE_URL",
    "REDIS_URL",
    "SECRET_KEYS",
    "METRICS_TOKEN",
    "GITHUB_CLIENT_SECRET",
    "GITLAB_CLIENT_SECRET",
)
EACH: Final = pytest.mark.parametrize("name", sorted(SERVICES))


def known_settings() -> set[str]:
    """What the environment may say: every setting, its _FILE twin, and what libraries read themselves."""
    asked = Asked()
    config.from_env(asked, lambda _: "", "data")
    return (
        asked.names | {f"{name}_FILE" for name in asked.names} | ELSEWHERE | {"AWS_SHARED_CREDENTIALS_FILE"}
    )


# Downloads


def test_every_image_is_named_by_what_it_is() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.M)
    others = [one["image"] for name, one in SERVICES.items() if name not in OURS]
    assert len(bases) == len(others) == 2
    assert [one for one in bases + others if not PINNED.fullmatch(one)] == []


def test_the_image_takes_nothing_from_an_index_whose_hash_it_does_not_know() -> None:
    installs = re.findall(r"\bpip .*?install (.*?)(?= \\|$)", DOCKERFILE, re.M)
    assert len(installs) == 3
    for one in installs:
        assert "--no-deps" in one and ("--require-hashes" in one or "--no-index" in one), one


def pins(lock: Path) -> dict[str, set[str]]:
    """Each package with its version, and the hashes that it may have."""
    blocks = re.split(r"^(?=\S+==)", lock.read_text(), flags=re.M)[1:]
    return {block.split()[0]: set(re.findall(r"--hash=(sha256:\w+)", block)) for block in blocks}


@pytest.mark.parametrize("name", ["server.lock", "build.lock"])
def test_the_image_has_the_versions_that_are_tested(name: str) -> None:
    tested, shipped = pins(ROOT / "requirements.lock"), pins(ROOT / "deploy" / name)
    assert shipped and all(shipped.values())
    assert {one: hashes for one, hashes in shipped.items() if not hashes <= tested.get(one, set())} == {}


def test_the_image_has_every_package_that_is_needed_and_no_other() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    open_ = [Requirement(one) for one in project["dependencies"] + extras["fast"]]
    needed: set[tuple[str, str]] = set()
    while open_:
        one = open_.pop()
        for extra in one.extras | {""}:
            mark = (canonicalize_name(one.name), extra)
            if mark in needed or (one.marker and not one.marker.evaluate({"extra": ""})):
                continue
            needed.add(mark)
            for text in metadata.requires(one.name) or []:
                further = Requirement(text)
                if further.marker is None or further.marker.evaluate({"extra": extra}):
                    further.marker = None
                    open_.append(further)
    shipped = {
        canonicalize_name(one.partition("==")[0].partition("[")[0])
        for one in pins(ROOT / "deploy" / "server.lock")
    }
    assert shipped == {name for name, _ in needed}


def test_digests_are_renewed_by_asking_the_registry(tmp_path: Path) -> None:
    for name in ("Makefile", "Dockerfile", "compose.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    docker = tmp_path / "docker"
    docker.write_text(
        '#!/bin/sh\n[ "$1 $2 $3" = "buildx imagetools inspect" ] || exit 1\n'
        'echo "\\"sha256:$(printf %064d 7)\\""\n'
    )
    docker.chmod(0o755)
    subprocess.run(
        ["make", "digests"],
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        check=True,
        capture_output=True,
    )
    renewed = (tmp_path / "Dockerfile").read_text() + (tmp_path / "compose.yaml").read_text()
    assert len(PINNED.findall(renewed)) == 4
    assert renewed.count("@sha256:" + "7".zfill(64)) == 4


# compose.yaml


@EACH
def test_a_service_has_no_right_that_it_does_not_need(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"] and "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True and "privileged" not in service
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"])


@EACH
def test_a_service_has_a_limit_of_memory_and_of_processes(name: str) -> None:
    assert re.fullmatch(r"[1-9]\d*[mg]", SERVICES[name]["mem_limit"])
    assert SERVICES[name]["pids_limit"] <= 1024
    for tmpfs in SERVICES[name].get("tmpfs", []):
        assert "size=" in tmpfs, "memory without a limit"


@EACH
def test_a_service_that_goes_on_says_whether_it_is_well(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check == {"disable": True} if name == "release" else check["test"][0] in ("CMD", "CMD-SHELL")
    if name in OURS - {"release"}:
        assert check["test"] == ["CMD", "everref-healthcheck"]


HEALTHCHECK: Final = ROOT / "deploy" / "healthcheck"


def test_the_image_says_what_it_is_and_whether_it_is_well() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    labels = dict(re.findall(r'org\.opencontainers\.image\.([\w.]+)="([^"]*)"', DOCKERFILE))
    assert labels.keys() >= {
        "title",
        "description",
        "licenses",
        "version",
        "revision",
        "created",
        "base.name",
    }
    assert (labels["description"], labels["licenses"]) == (project["description"], project["license"])
    assert re.search(r"^ARG VERSION=(\S+)", DOCKERFILE, re.M)[1] == project["version"]  # type: ignore[index]
    assert labels["base.name"].rpartition("/")[2] in re.findall(r"^FROM ([^@]+)@", DOCKERFILE, re.M)
    assert re.search(r'^HEALTHCHECK .* CMD \["everref-healthcheck"\]$', DOCKERFILE, re.M)
    assert "COPY --chmod=755 deploy/healthcheck /usr/local/bin/everref-healthcheck" in DOCKERFILE
    assert "!deploy/healthcheck" in (ROOT / ".dockerignore").read_text().splitlines()


def is_well(tmp_path: Path, command: str, **env: str) -> bool:
    """What the image's check says of a container that runs this command."""
    (tmp_path / "cmdline").write_text("\0".join(["tini", "--", *command.split(), ""]))
    done = subprocess.run(
        [sys.executable, HEALTHCHECK, tmp_path / "cmdline"],
        env={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **env},
        capture_output=True,
        text=True,
    )
    assert "arq" in done.stderr or "Traceback" not in done.stderr, done.stderr
    return done.returncode == 0


def test_a_command_is_well_and_a_program_that_does_not_answer_is_not(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    assert is_well(tmp_path, "everref migrate")
    for program in ("mirror.web", "hooks"):
        assert not is_well(tmp_path, f"python -m {program}", PORT=str(port)), program
    nowhere = {"REDIS_URL": f"redis://127.0.0.1:{port}", "EVERREF_DATA": str(tmp_path)}
    assert not is_well(tmp_path, "python -m mirror.worker", **nowhere)


def test_nobody_outside_reaches_the_database_or_the_queue() -> None:
    inside = [name for name, one in SERVICES.items() if one["networks"] == ["inside"]]
    assert inside == ["postgres", "redis"]
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    published = {name: one["ports"] for name, one in SERVICES.items() if "ports" in one}
    assert published.keys() == {"web", "hooks"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


@EACH
def test_no_secret_is_in_an_environment_or_an_argument(name: str) -> None:
    service = SERVICES[name]
    for setting, value in service.get("environment", {}).items():
        if name in OURS:
            assert setting in known_settings(), setting
        secret = re.search("PASSWORD|SECRET|KEY|TOKEN|DATABASE_URL|REDIS_URL|CREDENTIALS", setting)
        if secret and not setting.startswith("EVERREF_TEAM_"):
            assert setting.endswith("_FILE"), setting
            assert value.removeprefix("/run/secrets/") in service["secrets"], setting
    assert "requirepass " not in str(service.get("command", ""))
    assert set(service.get("secrets", [])) <= COMPOSE["secrets"].keys()


def test_every_setting_is_handed_on_but_those_that_the_image_decides() -> None:
    handed = {name.removesuffix("_FILE") for name in SERVICES["web"]["environment"]}
    asked = {name for name in known_settings() if not name.endswith("_FILE")}
    assert asked - handed == {"PORT", "EVERREF_DATA", "EVERREF_GIT", "EVERREF_DEBUG", "EVERREF_TEAM"}


def test_the_proxy_on_the_host_is_the_one_that_is_believed() -> None:
    (subnet,) = COMPOSE["networks"]["outside"]["ipam"]["config"]
    assert (
        SERVICES["web"]["environment"]["FORWARDED_ALLOW_IPS"]
        == f"${{FORWARDED_ALLOW_IPS:-{subnet['gateway']}}}"
    )


def test_what_an_image_is_built_from_holds_no_secret() -> None:
    taken = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert not [one for one in taken if "secrets" in one or one == "deploy"]
    assert "deploy/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


# Secrets


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    made = tmp_path / "secrets"
    make_secrets(made)
    return made


def make_secrets(place: Path, **env: str) -> None:
    script = ROOT / "deploy" / "secrets.sh"
    subprocess.run(["sh", str(script), str(place)], env={"PATH": os.environ["PATH"], **env}, check=True)


def test_every_secret_is_a_file_that_others_of_the_machine_do_not_reach(secrets: Path) -> None:
    files = {path.name for path in secrets.iterdir()}
    assert files == COMPOSE["secrets"].keys()
    assert {one["file"] for one in COMPOSE["secrets"].values()} == {
        f"deploy/secrets/{name}" for name in files
    }
    assert secrets.stat().st_mode & 0o777 == 0o700


def test_secrets_are_settings_that_a_server_takes(secrets: Path) -> None:
    env = {f"{name}_FILE": str(secrets / name.lower()) for name in SECRETS}
    settings = config.from_env(env, lambda path: Path(path).read_text(), "data")
    assert settings.database_url and settings.redis_url and settings.secret_keys
    assert settings.metrics_token is None
    assert len({settings.database_url, settings.redis_url, *settings.secret_keys}) == 3


def test_secrets_that_are_there_stay_and_those_of_the_environment_are_taken(tmp_path: Path) -> None:
    place = tmp_path / "secrets"
    make_secrets(
        place,
        SECRET_KEYS="k" * 40,
        POSTGRES_PASSWORD="pw",
        AWS_ACCESS_KEY_ID="id",
        AWS_SECRET_ACCESS_KEY="s3",
    )
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    assert before["secret_keys"] == b"k" * 40 + b"\n"
    assert before["database_url"] == b"postgresql://everref:pw@postgres/everref\n"
    assert b"aws_access_key_id = id\naws_secret_access_key = s3\n" in before["aws_credentials"]
    make_secrets(place, SECRET_KEYS="other" * 10)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before


def test_redis_has_the_password_by_which_it_is_reached(tmp_path: Path) -> None:
    for name, env in {
        "given": {"REDIS_URL": "redis://:a.pass-word@localhost"},
        "made": {"REDIS_HOST": "localhost"},
    }.items():
        make_secrets(tmp_path / name, **env)
        password = (tmp_path / name / "redis_conf").read_text().splitlines()[0].removeprefix("requirepass ")
        assert (tmp_path / name / "redis_url").read_text() == f"redis://:{password}@localhost\n"


async def test_redis_has_a_password_that_no_argument_shows(secrets: Path, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    program = older_redis()
    more = ("--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path))
    server = await asyncio.create_subprocess_exec(
        program, secrets / "redis_conf", *more, stdout=subprocess.DEVNULL
    )
    try:
        url = (secrets / "redis_url").read_text().strip()
        password = url.removeprefix("redis://:").removesuffix("@redis")
        await until(lambda: listens(port))
        async with Redis(port=port) as stranger:
            with pytest.raises(AuthenticationError):
                await stranger.ping()
        async with Redis.from_url(url.replace("@redis", f"@127.0.0.1:{port}")) as ours:
            assert await ours.ping()
        assert password.encode() not in arguments(server.pid)
        check = SERVICES["redis"]["healthcheck"]["test"][1].replace("$$", "$")
        check = check.replace("/run/secrets", str(secrets)).replace(
            "redis-cli", f"{program.with_name('redis-cli')} -p {port}"
        )
        asked = await asyncio.create_subprocess_shell(check)
        assert await asked.wait() == 0
        asked = await asyncio.create_subprocess_shell(check.replace("redis_conf", "metrics_token"))
        assert await asked.wait() == 1
    finally:
        server.kill()
        await server.wait()


def arguments(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


async def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# systemd


def lines(path: Path) -> Iterator[tuple[str, str]]:
    for line in path.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            yield name, value


def test_every_unit_is_hardened_by_the_same_lines() -> None:
    told = set(lines(HARDENING))
    assert told >= {
        ("ProtectSystem", "strict"),
        ("PrivateTmp", "yes"),
        ("NoNewPrivileges", "yes"),
        ("CapabilityBoundingSet", ""),
        ("RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX"),
        ("SystemCallFilter", "@system-service"),
        ("ReadWritePaths", "/var/lib/everref"),
        ("User", "everref"),
    }
    assert {unit.stem for unit in UNITS} == {
        "everref-hooks",
        "everref-migrate",
        "everref-web",
        "everref-worker",
    }
    for unit in UNITS:
        own = dict(lines(unit))
        assert re.fullmatch(r"[1-9]\d*[MG]", own["MemoryMax"])
        assert not own.keys() & {name for name, _ in told} - {"After", "Environment"}, (
            "a unit softens what all have"
        )


def test_units_name_settings_that_there_are_and_hand_secrets_over_as_files() -> None:
    loaded = {value.partition(":")[0] for name, value in lines(HARDENING) if name == "LoadCredential"}
    named = dict(value.split("=", 1) for name, value in lines(HARDENING) if name == "Environment")
    assert named.keys() - {"PATH", "PYTHONDONTWRITEBYTECODE"} <= known_settings()
    assert {value.removeprefix("%d/") for value in named.values() if value.startswith("%d/")} == loaded
    assert {f"{name}_FILE" for name in SECRETS} <= named.keys()


async def test_after_a_boot_the_tables_wait_for_the_database(empty_database: str, tmp_path: Path) -> None:
    command = dict(lines(ROOT / "deploy" / "systemd" / "everref-migrate.service"))["ExecStart"].split()
    assert command[0] == "/opt/everref/bin/everref"
    at = urlsplit(empty_database)
    asked = parse_qs(at.query)
    tries = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A server that is not there for the first two who ask, then PostgreSQL."""
        nonlocal tries
        tries += 1
        if tries > 2:
            from_it, to_it = await asyncio.open_unix_connection(
                f"{asked['host'][0]}/.s.PGSQL.{asked.get('port', ['5432'])[0]}"
            )
            async with asyncio.TaskGroup() as both:
                both.create_task(carry(reader, to_it))
                both.create_task(carry(from_it, writer))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        running = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mirror.cli", *command[1:]),
            env={
                "DATABASE_URL": f"postgresql://{at.username}@127.0.0.1:{port}{at.path}",
                "PATH": os.environ["PATH"],
                "EVERREF_DATA": str(tmp_path),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        said, _ = await asyncio.wait_for(running.communicate(), 60)
    assert running.returncode == 0 and said.startswith(b"applied 001"), said


async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while piece := await source.read(1 << 16):
        sink.write(piece)
        await sink.drain()
    sink.close()


CALL: Final = ("sign-in", "restore", "acme/api", "--bundle", "a b$c.bundle")


def test_a_command_runs_with_what_the_units_have(secrets: Path, tmp_path: Path) -> None:
    """As `everref-run`; a double of systemd-run does what systemd.exec(5) says of credentials and of $."""
    tool = tmp_path / "systemd-run"
    tool.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        f"json.dump(sys.argv[1:], open({str(tmp_path / 'asked')!r}, 'w'))\n"
    )
    tool.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    env = {"PATH": path, "EVERREF_CONF": str(HARDENING)}
    subprocess.run(["sh", str(RUN), *CALL], env=env, check=True)
    asked: list[str] = json.loads((tmp_path / "asked").read_text())
    options, command = asked[: asked.index("--")], asked[asked.index("--") + 1 :]
    properties = [one.removeprefix("--property=") for one in options if one.startswith("--property=")]
    told = [f"{name}={value}" for name, value in lines(HARDENING) if name not in ("After", "Wants")]
    assert properties == [one for one in told if "=%d/" not in one]
    command = [one.replace("${CREDENTIALS_DIRECTORY}", str(secrets)).replace("$$", "$") for one in command]
    assert command[0] == "/usr/bin/env" and command[-len(CALL) - 1 :] == ["/opt/everref/bin/everref", *CALL]
    given = dict(one.split("=", 1) for one in command[1 : -len(CALL) - 1])
    settings = config.from_env(given, lambda path: Path(path).read_text(), "data")
    assert settings.database_url and settings.redis_url and settings.secret_keys
    bare = subprocess.run(["sh", str(RUN)], env=env, capture_output=True, text=True)
    assert bare.returncode == 2 and "everref-run sign-in" in bare.stderr


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("compose", ["BASE_URL=https://", "docker compose exec web everref sign-in", "deploy/secrets.sh"]),
        (
            "systemd",
            ["BASE_URL=https://", "everref-run sign-in", "createuser everref", "requirepass", "install git"],
        ),
    ],
)
def test_the_way_to_a_server_ends_signed_in(part: str, words: list[str]) -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    block = page.partition(f"## On a server, with {part}")[2].partition("```")[2].partition("```")[0]
    assert [one for one in words if one not in block] == []


@pytest.mark.parametrize("name", ["web", "hooks"])
def test_only_this_machine_reaches_what_a_unit_listens_on(name: str) -> None:
    at = dict(lines(ROOT / "deploy" / "systemd" / f"everref-{name}.socket"))["ListenStream"]
    assert at.startswith("127.0.0.1:")


@pytest.mark.parametrize(("name", "path"), [("web", "/readyz"), ("hooks", "/hooks/github/none")])
async def test_a_unit_serves_on_the_socket_that_it_is_handed(
    name: str, path: str, database: str, redis_url: str, tmp_path: Path
) -> None:
    command = dict(lines(ROOT / "deploy" / "systemd" / f"everref-{name}.service"))["ExecStart"].split()
    assert command[0] == "/opt/everref/bin/python" and command[-2:] == ["--listen", "3"]
    env = {
        "DATABASE_URL": database,
        "REDIS_URL": redis_url,
        "SECRET_KEYS": "k" * 40,
        "PATH": os.environ["PATH"],
    }
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = await asyncio.create_subprocess_exec(
            *(sys.executable, *command[1:-1], str(listener.fileno())),
            env=env | {"EVERREF_DATA": str(tmp_path)},
            pass_fds=(listener.fileno(),),
        )
        try:
            async with httpx.AsyncClient(timeout=60) as client:
                answer = await client.get(f"http://127.0.0.1:{listener.getsockname()[1]}{path}")
            assert answer.status_code == {"web": 200, "hooks": 405}[name]
            port, program = str(listener.getsockname()[1]), SERVICES[name]["command"]
            assert await asyncio.to_thread(is_well, tmp_path, program, PORT=port)
        finally:
            running.kill()
            await running.wait()


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_finds_nothing_wrong_with_a_unit_and_little_exposed(unit: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    env = {"PATH": os.environ["PATH"], "SYSTEMD_UNIT_PATH": f"{unit.parent}:"}
    told = subprocess.run([analyze, "verify", str(unit)], env=env, capture_output=True, text=True).stderr
    assert [line for line in told.splitlines() if "is not executable" not in line] == []
    command = [analyze, "security", "--offline=true", "--threshold=20", str(unit)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
