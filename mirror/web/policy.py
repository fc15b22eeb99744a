"""The Content-Security-Policy of pages: what a browser may load, and where a page may send something."""

from urllib.parse import urlsplit

from mirror.core.config import Settings


def of_pages(settings: Settings, store: str | None = None) -> str:
    """The policy of a page; `store` is one more origin to which its script may send something.

    Forms may also lead to the forges, which ask for consent at a sign-in.
    """
    directives = {
        "default-src": ["'none'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "connect-src": ["'self'", *([store] if store else [])],
        "manifest-src": ["'self'"],
        "form-action": ["'self'", *sorted({_origin(app.url) for app in settings.apps})],
        "base-uri": ["'none'"],
        "frame-ancestors": ["'none'"],
    }
    return "; ".join(" ".join([name, *sources]) for name, sources in directives.items())


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
