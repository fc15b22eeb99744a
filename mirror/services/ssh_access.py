"""Preparing access to a host by ssh: the team's key, made when first needed, and the host's pinned keys.

Who calls: code that is about to connect to a remote (discovery/add for sources, restore/target for targets).
"""

import base64
import hashlib
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from mirror.core.errors import NetworkError, OurFault
from mirror.core.model import Remote, Repo, SshAccess
from mirror.git import address
from mirror.git import ssh as client
from mirror.services.open import Services
from mirror.store.discovery import remotes, ssh
from mirror.store.discovery.ssh import PinnedHost, TeamKey
from mirror.store.people.teams import TeamId


async def ready(services: Services, team_id: TeamId, remote: Remote) -> Remote:
    """The remote with its ssh keys; a remote that is not reached by ssh is returned unchanged.

    Credentials given for an ssh address are a person's own private
    key; otherwise the team's key is used. A host that the team meets for the first time is
    pinned to the keys that it shows now, unless its keys are published
    ones. Safe to run twice, also at the same time: the first run's keys count.
    """
    if not address.is_ssh(remote.url):
        return remote
    key = remote.secret.password if remote.secret else (await team_key(services, team_id)).private
    return replace(remote, ssh=SshAccess(key, await _host_keys(services, team_id, remote.url)))


async def ready_for(services: Services, repo: Repo, remote: Remote) -> Remote:
    """`ready` with the key of the repo's team."""
    return await ready(services, (await remotes.get(services.db, repo.id)).team_id, remote)


async def known_key(services: Services, team_id: TeamId) -> str | None:
    """The public half of the team's key. None: none was made yet."""
    found = await ssh.key_of(services.db, services.keyring, team_id) if services.keyring else None
    return None if found is None else found.public


async def pinned(services: Services, team_id: TeamId, url: str) -> PinnedHost | None:
    """The pinned keys of the host of an ssh address. None: the team has none for it."""
    host, port = client.place(url)
    return await ssh.host(services.db, team_id, host, port)


async def forget(services: Services, team_id: TeamId, url: str) -> bool:
    """Forget the pinned keys of an ssh host: the keys it shows next are pinned. False: it had none.

    Every repo of the team at that host is tried again at once.
    """
    host, port = client.place(url)
    return await ssh.forget_host(services.db, team_id, host, port, services.clock())


async def team_key(services: Services, team_id: TeamId) -> TeamKey:
    """The team's key, made if it has none. Raises OurFault if secrets cannot be stored."""
    if services.keyring is None:
        raise OurFault("an ssh key cannot be stored: set SECRET_KEYS (32 random characters or more)")
    found = await ssh.key_of(services.db, services.keyring, team_id)
    if found is not None:
        return found
    made = new_key(f"everref-{str(team_id)[:8]}")
    if await ssh.keep_key(services.db, services.keyring, team_id, made, services.clock()):
        return made
    found = await ssh.key_of(services.db, services.keyring, team_id)
    if found is None:
        raise OurFault("the team was removed while its ssh key was made; nothing was stored")
    return found


def new_key(comment: str) -> TeamKey:
    """A new ed25519 pair."""
    made = Ed25519PrivateKey.generate()
    public = made.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    private = made.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    return TeamKey(f"{public} {comment}", private)


def fingerprint(key: str) -> str:
    """A key's fingerprint as ssh-keygen -l shows it: SHA256:..."""
    raw = base64.b64decode(key.split()[1])
    return "SHA256:" + base64.b64encode(hashlib.sha256(raw).digest()).decode().rstrip("=")


async def _host_keys(services: Services, team_id: TeamId, url: str) -> tuple[str, ...]:
    host, port = client.place(url)
    known = await ssh.host(services.db, team_id, host, port)
    if known is not None:
        return known.keys
    keys = client.KNOWN.get(host) if port == address.SSH_PORT else None
    if keys is None:
        checked = await address.check(url, services.settings.allow_private_remotes)
        keys = await client.host_keys(services.git, url, client.nearest(checked))
    if await ssh.pin(services.db, team_id, host, port, keys, services.clock()):
        services.progress.note(f"pinned the host keys of {host}: {', '.join(map(fingerprint, keys))}")
        return keys
    known = await ssh.host(services.db, team_id, host, port)
    if known is None:
        raise NetworkError(f"somebody removed the pinned keys of {host} meanwhile; try again")
    return known.keys
