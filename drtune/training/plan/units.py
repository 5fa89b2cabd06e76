"""Bytes as people write them."""

from __future__ import annotations

import re

from drtune.errors import UserError

UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def parse_bytes(text: str) -> int:
    """Bytes from a number with a unit.

    Raises:
        UserError: it is none.

    >>> parse_bytes("80GiB")
    85899345920
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kKMGT]i?B)", text)
    if match is None or match[2] not in UNITS or not (size := int(float(match[1]) * UNITS[match[2]])):
        raise UserError(f"{text!r} is no size of memory: give a number above zero and a unit, as in 80GiB or 24GB")
    return size


def unit_of(largest: int) -> str:
    """The unit in which sizes up to this one are told: GiB, or MiB where a GiB is too coarse."""
    return "GiB" if largest >= UNITS["GiB"] else "MiB"


def in_unit(size: int, unit: str) -> str:
    """Bytes as a number of units.

    >>> in_unit(85899345920, "GiB")
    '80.00'
    """
    return f"{size / UNITS[unit]:,.2f}"
