"""Every forge of the settings, and any other that somebody connected by a token, opened when it is asked."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

from mirror.core.config import GITHUB, GITLAB, App, Product, Settings, app_at
from mirror.forges.contract import Forge
from mirror.forges.github import GitHub
from mirror.forges.gitlab import GitLab
from mirror.forges.http import PATIENCE, Http

PUBLIC: Final = {"github": GITHUB, "gitlab": GITLAB}
PRODUCTS: Final[Mapping[Product, Callable[[App, Http, Http], Forge]]] = {"github": GitHub, "gitlab": GitLab}


def now() -> datetime:
    """This moment, aware, in UTC."""
    return datetime.now(UTC)


class Forges:
    """The forges by product and host. Connections stay open until `close`."""

    def __init__(
        self,
        apps: Sequence[App],
        *,
        allow_private: bool,
        patience: float = PATIENCE,
        clock: Callable[[], datetime] = now,
    ) -> None:
        self.apps = tuple(apps)
        self._private = allow_private
        self._patience = patience
        self._clock = clock
        self._origins: dict[str, Http] = {}

    def at(self, product: Product, host: str) -> Forge:
        """The forge of this host; one that the settings do not name is reached by https."""
        for app in self.apps:
            if (app.forge, app.host) == (product, host):
                return self.of(app)
        return self.of(app_at(product, f"https://{host}"))

    def first(self, product: Product) -> App:
        """The first host of this product in the settings; the public one where they name none."""
        return next((app for app in self.apps if app.forge == product), PUBLIC[product])

    def of(self, app: App) -> Forge:
        """This forge."""
        return PRODUCTS[app.forge](app, self._http(app, app.url), self._http(app, app.api_url))

    async def close(self) -> None:
        """Hang up everywhere."""
        for origin in self._origins.values():
            await origin.close()

    def _http(self, app: App, base: str) -> Http:
        if base not in self._origins:
            self._origins[base] = Http(
                app, base, allow_private=self._private, patience=self._patience, clock=self._clock
            )
        return self._origins[base]


@asynccontextmanager
async def opened(settings: Settings, clock: Callable[[], datetime] = now) -> AsyncIterator[Forges]:
    """The forges of these settings; nothing is asked before somebody does."""
    forges = Forges(settings.apps, allow_private=settings.allow_private_remotes, clock=clock)
    try:
        yield forges
    finally:
        await forges.close()
