"""Where references are, before they are opened: names and places as they are typed, and whether anything is there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

from drtune.errors import UserError
from drtune.files.folders import check_place

RESERVED = ("base", "candidate", "champion")
"""Names that a reference cannot have."""


def read_places(given: Iterable[str]) -> dict[str, str]:
    """Places by name, of references as they are typed.

    Raises:
        UserError: one is not NAME=PLACE, two have one name, or a name cannot be a reference's.

    >>> read_places(["midjourney=references/mj.zip"])
    {'midjourney': 'references/mj.zip'}
    """
    places: dict[str, str] = {}
    for text in given:
        name, _, place = text.partition("=")
        if not name or not place:
            raise UserError(f"reference {text!r}: wanted NAME=PLACE, as in midjourney=references/mj.zip")
        if name in places:
            raise UserError(f"reference {name}: two have this name; give each its own")
        places[name] = place
        check_reference(name)
    return places


def check_reference(name: str, place: str | None = None, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse what would only be found out when the reference is opened, without fetching anything.

    Args:
        name: of the reference.
        place: a folder or an archive: a path, or s3://bucket/prefix; None: the name alone is looked at.
        environment: what the keys of S3 are read from.

    Raises:
        UserError: the name cannot be a reference's, or there is nothing at the place.
    """
    if not re.fullmatch(r"[a-z0-9]+([-._][a-z0-9]+)*", name) or name in RESERVED:
        raise UserError(
            f"reference {name!r}: wanted lower-case letters, digits and dashes, and not {', '.join(RESERVED)}"
        )
    if place is not None:
        check_place(f"reference {name}", place, environment)
