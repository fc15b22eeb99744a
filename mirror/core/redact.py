"""Removing every known secret from the lines that go to standard error."""

import re
from collections.abc import Mapping, Sequence
from urllib.parse import unquote, urlsplit

_USERINFO = re.compile(r"(?<=://)[^/\s@'\"]*@")
_SECRET_URLS = ("DATABASE_URL", "REDIS_URL", "VAULT_URL", "SMTP_URL")
_SECRET_TEXTS = ("SECRET_KEYS", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "PING_URL")
_SHORTEST = 4  # shorter ones would tear ordinary words apart


class Redactor:
    """Knows the secrets of this call and takes them out of text."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()

    def add(self, secret: str) -> None:
        """Never show this text, nor what it stands for when it is percent-encoded."""
        self._secrets |= {text for text in (secret, unquote(secret)) if len(text) >= _SHORTEST}

    def learn(self, env: Mapping[str, str], argv: Sequence[str]) -> None:
        """Find the secrets that the environment and the arguments hold."""
        for name in _SECRET_TEXTS:
            for text in env.get(name, "").split(","):
                self.add(text.strip())
        for name in _SECRET_URLS:
            self.add_url(env.get(name, ""), user_alone=False)
        for url in argv:
            self.add_url(url)

    def add_url(self, url: str, *, user_alone: bool = True) -> None:
        """Never show the password of this URL, nor a lone user name: forges take tokens as such.

        Not `user_alone`: a server of ours takes none, and its user is called like many other things.
        """
        try:
            found = urlsplit(url)
            password, user = found.password, found.username
        except ValueError:
            password = user = None
        self.add(password or (user if user_alone else "") or "")
        start, _, rest = url.partition("://")
        userinfo, at, _ = rest.rpartition("@")
        if start and at and ":" in userinfo.partition("/")[0]:  # also a password with a bare slash in it
            self.add(userinfo)
            self.add(userinfo.partition(":")[2])

    def __call__(self, text: str) -> str:
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        return _USERINFO.sub("***@", text)
