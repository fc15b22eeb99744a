"""A failure as JSON: apart from all other shapes, as it is told also where nothing else was loaded."""

from typing import Any


def error(kind: str, origin: str, message: str, retry: bool) -> dict[str, Any]:
    """Any failure, as it goes to standard error."""
    return {"error": {"class": kind, "origin": origin, "message": message, "retry": retry}}
