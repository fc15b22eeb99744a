"""Whether a store lets pages of an origin send objects to it: the question that a browser asks first.

Who calls: `everref doctor`. https://fetch.spec.whatwg.org/#cors-preflight-fetch
"""

import aiohttp

from mirror.core.errors import NetworkError
from mirror.vault.contract import PutLink

_SECONDS = 10.0


async def lets_in(link: PutLink, origin: str) -> bool:
    """Whether a page of `origin` may use this link. Raises NetworkError where the store does not answer."""
    wanted = {name.lower() for name in link.headers}
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": ",".join(sorted(wanted)),
    }
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(_SECONDS)) as session,
            session.options(link.url, headers=asked, allow_redirects=False) as answer,
        ):
            said = answer.headers
            origins = _names(said.get("Access-Control-Allow-Origin", ""))
            methods = _names(said.get("Access-Control-Allow-Methods", "").upper())
            allowed = _names(said.get("Access-Control-Allow-Headers", "").lower())
            return (
                answer.status < 300
                and not origins.isdisjoint({origin, "*"})
                and not methods.isdisjoint({"PUT", "*"})
                and (wanted <= allowed or "*" in allowed)
            )
    except (aiohttp.ClientError, TimeoutError, OSError):
        raise NetworkError("the store does not answer the question that browsers ask first") from None


def _names(text: str) -> set[str]:
    return {name.strip() for name in text.split(",")}
