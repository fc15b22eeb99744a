"""The user names and passwords with which repos are fetched, sealed before they come here."""

import json

from mirror.core.keyring import Keyring
from mirror.core.model import RepoId, Secret
from mirror.store.database import Db, storable, translating


@translating
async def keep(db: Db, keyring: Keyring, repo_id: RepoId, secret: Secret) -> None:
    """Store these credentials for this repo, replacing earlier ones, and try again with them."""
    plain = json.dumps({"username": secret.username, "password": secret.password}).encode()
    await db.execute(
        """
        with kept as (
          insert into credential (repo_id, sealed) values ($1, $2)
          on conflict (repo_id) do update set sealed = excluded.sealed
          returning repo_id
        )
        update repo set retry_at = failed_at from kept where id = kept.repo_id and failure_class is not null
        """,
        repo_id,
        keyring.seal(plain, _context(repo_id)),
    )


@translating
async def of(db: Db, keyring: Keyring, repo_id: RepoId, url: str | None = None) -> Secret | None:
    """The credentials kept for this repo, None if there are none. Raises BadKey.

    None as well if `url` is given and is no longer its address: they are for no other host.
    """
    sealed = await db.fetchval(
        """
        select sealed from credential join repo on repo.id = repo_id
        where repo_id = $1 and url = coalesce($2, url)
        """,
        repo_id,
        None if url is None else storable(url),
    )
    return None if sealed is None else opened(keyring, repo_id, sealed)


def opened(keyring: Keyring, repo_id: RepoId, sealed: bytes) -> Secret:
    """Open the sealed credentials of this repo. Raises BadKey."""
    found = json.loads(keyring.open(sealed, _context(repo_id)))
    return Secret(found["username"], found["password"])


@translating
async def has(db: Db, repo_id: RepoId) -> bool:
    """Whether credentials of its own are kept for this repo."""
    return await db.fetchval("select true from credential where repo_id = $1", repo_id) is not None


@translating
async def forget(db: Db, repo_id: RepoId) -> None:
    """Delete this repo's credentials. Safe to run twice."""
    await db.execute("delete from credential where repo_id = $1", repo_id)


def _context(repo_id: RepoId) -> str:
    """The context of a sealed text, which opens in no other row."""
    return f"credential/{repo_id}"
