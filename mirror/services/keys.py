"""Where the keys come from that credentials at rest are encrypted with."""

import os
import secrets
from pathlib import Path

from mirror.core.config import Settings
from mirror.core.keyring import Keyring


def keyring(settings: Settings, root: Path) -> Keyring | None:
    """The keys of SECRET_KEYS; beside an embedded database, a key of its own under the data directory.

    None on a server without SECRET_KEYS: nothing can be sealed there. Safe to run
    twice, and by two processes at once: the file is made whole under another name
    and then linked, so that everybody reads the key that came first.
    """
    if settings.secret_keys:
        return Keyring(settings.secret_keys)
    if settings.database_url is not None:
        return None
    path = root / "secret_keys"
    if not path.exists():
        draft = root / f".secret_keys.{os.getpid()}"
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return Keyring(tuple(path.read_text().strip().split(",")))
