"""Sweeps: the same run with every combination of some settings, and one table of what came of each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import pandas as pd

from components.decide.gains import Gain
from drtune.errors import UserError
from drtune.files.local import sha256_bytes
from drtune.files.markdown import table

MOST = 100
"""Runs of one sweep: more is more likely a slip than what somebody wants to pay for."""
_BETWEEN = re.compile(r",(?![^\[{]*[\]}])")
"""A comma that is not within brackets."""
_CAVEAT = """\
Gains over the base on held-out prompts, with 95 % intervals over these prompts; nothing is said of another seed. The
best of {count} is flattered by having been chosen for it: train it with other seeds (`drtune seeds run`), or evaluate
it on other prompts, before its number is relied on.
"""


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: the settings that make it what it is, by their keys."""

    settings: Mapping[str, str]

    @property
    def overrides(self) -> list[str]:
        """As a run takes them."""
        return [f"{key}={value}" for key, value in self.settings.items()]

    @property
    def folder(self) -> str:
        """The name of its folder, which stays what it is when others join the sweep.

        >>> Cell({"optimizer.learning_rate": "1e-4", "method.trained_steps": "2"}).folder
        'optimizer.learning_rate=1e-4,method.trained_steps=2'
        """
        return re.sub(r"[^\w.=+,-]+", "_", ",".join(self.overrides))

    @property
    def model(self) -> str:
        """The name under which its model is published."""
        return f"sweep-{sha256_bytes(self.folder.encode())[:12]}"


@dataclass(frozen=True)
class Row:
    """What came of a cell."""

    settings: Mapping[str, str]
    outcome: str
    """In one line: published, refused and why, or failed and why."""
    gains: Mapping[str, Gain] = field(default_factory=dict)

    def __str__(self) -> str:
        told = [f"{name} {gain}" for name, gain in self.gains.items()]
        return "\n  ".join([" ".join(f"{key}={value}" for key, value in self.settings.items()), *told, self.outcome])


def cells_of(varied: Sequence[str]) -> list[Cell]:
    """Every combination of the values of `KEY=A,B,...`, the first key slowest.

    Raises:
        UserError: there is no key or value, one is given twice, or there are too many combinations.
    """
    values: dict[str, list[str]] = {}
    for one in varied:
        key, _, text = one.partition("=")
        found = [value.strip() for value in _BETWEEN.split(text)]
        if not key or not all(found):
            raise UserError(f"vary {one!r}: wanted KEY=A,B,..., such as optimizer.learning_rate=1e-4,3e-4")
        if key in values or len(set(found)) < len(found):
            raise UserError(f"vary {one!r}: something is given twice; name each key and each value once")
        values[key] = found
    cells = [dict(zip(values, combination, strict=True)) for combination in product(*values.values())]
    if len(cells) > MOST:
        raise UserError(f"vary: makes {len(cells)} runs, at most {MOST} in one sweep; vary less at once")
    return list(map(Cell, cells))


def page_of(rows: Sequence[Row]) -> str:
    """All rows as a table in Markdown, in their order."""
    rewards = list(dict.fromkeys(name for row in rows for name in row.gains))
    heads = [*rows[0].settings, *rewards, "outcome"]
    lines = [[*row.settings.values(), *(str(row.gains.get(name, "")) for name in rewards), row.outcome] for row in rows]
    return f"# Sweep\n\n{table([heads, *lines], numbers=False)}\n\n{_CAVEAT.format(count=len(rows))}"


def table_of(rows: Sequence[Row]) -> pd.DataFrame:
    """The same in numbers: a column for each setting, and for each reward its gain and the ends of its interval."""
    return pd.DataFrame(
        [
            {**row.settings, "outcome": row.outcome}
            | {
                f"{name}{part}": value
                for name, gain in row.gains.items()
                for part, value in (("_gain", gain.mean), ("_low", gain.low), ("_high", gain.high))
            }
            for row in rows
        ]
    )
