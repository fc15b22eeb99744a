"""Where the next page of a list that is ordered by time begins: the time and the id of the last row shown."""

from datetime import datetime
from uuid import UUID

from mirror.core.errors import NotFound


def after(at: datetime, number: UUID) -> str:
    """The cursor of the page after this row, for an address."""
    return f"{at.isoformat()}_{number}"


def read(text: str | None, page: str) -> tuple[datetime, UUID] | None:
    """Where a page begins; None: it is the first. Raises NotFound, which says what `page` that is."""
    if not text:
        return None
    at, _, number = text.partition("_")
    try:
        moment = datetime.fromisoformat(at)
        if moment.tzinfo is None:
            raise ValueError("a time without a zone")
        return moment, UUID(number)
    except ValueError:
        raise NotFound(f"there is no such page of {page}") from None
