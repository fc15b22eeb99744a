"""The user names and passwords with which repos are fetched, sealed before they come here."""

import json

from mirror.keyring import Keyring
from mirror.model import RepoId, Secret
from mirror.store.database import Db, storable, transaction, translating


@translating
async def keep(db: Db, keyring: Keyring, repo_id: RepoId, secret: Secret) -> None:
    """Keep these credentials for this repo, instead of what was kept before, and try again with them."""
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

    None as well when `url` is given and is not its address any more: they are for nobody else.
    """
    sealed = await db.fetchval(
        """
        select sealed from credential join repo on repo.id = repo_id
        where repo_id = $1 and url = coalesce($2, url)
        """,
        repo_id,
        None if url is None else storable(url),
    )
    if sealed is None:
        return None
    found = json.loads(keyring.open(sealed, _context(repo_id)))
    return Secret(found["username"], found["password"])


@translating
async def forget(db: Db, repo_id: RepoId) -> None:
    """Keep no credentials for this repo any more. Safe to run twice."""
    await db.execute("delete from credential where repo_id = $1", repo_id)


@translating
async def reseal(db: Db, keyring: Keyring) -> int:
    """Seal with the newest key what an older one sealed, after which the older ones can go; returns how many.

    Safe to run twice. Raises BadKey, and changes nothing, where a key is missing.
    """
    done = 0
    async with transaction(db) as connection:
        for row in await connection.fetch("select repo_id, sealed from credential for update"):
            if not keyring.is_newest(row["sealed"]):
                context = _context(row["repo_id"])
                sealed = keyring.seal(keyring.open(row["sealed"], context), context)
                await connection.execute(
                    "update credential set sealed = $2 where repo_id = $1", row["repo_id"], sealed
                )
                done += 1
    return done


def _context(repo_id: RepoId) -> str:
    """Where a sealed text belongs: it opens in no other row."""
    return f"credential/{repo_id}"
