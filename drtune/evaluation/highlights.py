"""The pictures that a page shows: where the candidate gained most over its base, and where it lost most."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from drtune.config import PROMPTLESS, REWARDS, Config, RewardTerm
from drtune.contracts import Highlight
from drtune.evaluation.comparison import BASE, CANDIDATE
from drtune.evaluation.gathering import IMAGES
from drtune.files.images import open_picture, resized
from drtune.files.sheets import contact_sheet
from drtune.models.miniature.places import place_of, stands_at
from drtune.rewards import bend

NUM_SHOWN = 8
"""Prompts with gains, and as many with losses."""
THUMBNAIL_SIDE = 256
"""Longer side in pixels. With four contestants a page holds 64 of them and stays below 3 MB."""
FAR = 0.8
"""Standard deviations of the base's pictures; what Cohen 1988 calls large."""
PAIRS_IN_GRID = 32
GRID_COLUMNS = 8


def highlights(
    table: pd.DataFrame, config: Config, folder: Path
) -> tuple[tuple[Highlight, ...], tuple[Highlight, ...]]:
    """The largest gains and the largest losses among the first pictures of all prompts, none twice.

    Their thumbnails are written into `folder`.
    """
    first = table[table["picture"] == 0].set_index(["contestant", "index"])
    first["tuned"] = sum(_counted(first[name], term) for name, term in config.rewards.items())
    tuned = first["tuned"].unstack("contestant")
    gains = (tuned[CANDIDATE] - tuned[BASE]).sort_values(ascending=False, kind="stable")
    count = min(2 * NUM_SHOWN, len(gains))

    def shown(index: int) -> Highlight:
        rows = first.xs(index, level="index")
        pictures = {str(contestant): Path(str(contestant)) / image for contestant, image in rows["image"].items()}
        return Highlight(
            prompt=rows["prompt"].iloc[0],
            category=rows["category"].iloc[0],
            gain=float(gains[index]),
            values={str(contestant): float(value) for contestant, value in rows["tuned"].items()},
            thumbnails={contestant: thumbnail(folder, picture) for contestant, picture in pictures.items()},
            doubts=doubts(first, index, config, folder) if gains[index] > 0 else (),
        )

    best, worst = gains.index[: count - count // 2], gains.index[::-1][: count // 2]
    return tuple(map(shown, best)), tuple(map(shown, worst))


def _counted(rewards: pd.Series[float], term: RewardTerm) -> NDArray[np.float64]:
    """What a reward adds to the sum; a relative one as it is, for its bounds are those of a difference."""
    raw_N = torch.from_numpy(rewards.to_numpy(copy=True))
    return term.weight * (raw_N if term.praise is not None else bend(raw_N, term)).numpy()


def doubts(first: pd.DataFrame, index: int, config: Config, folder: Path) -> tuple[str, ...]:
    """In what a picture that gained contradicts its prompt more than the base's does, as far as it can be told."""
    told, table = [], cast(Any, first)  # of which the types of pandas know too little
    for name in config.measured_rewards:
        if name in REWARDS and name not in PROMPTLESS:
            base = table.loc[BASE, name]
            fall = float(base[index] - table.loc[CANDIDATE, name][index])
            if fall > FAR * base.std(ddof=0) > 0:
                told.append(f"{name}, which reads the prompt, fell by {fall:.2g}")
    if config.base_model == "miniature" and (place := place_of(table.loc[(BASE, index), "prompt"])):
        before, after = (
            open_picture(folder / IMAGES / contestant / table.loc[(contestant, index), "image"])
            for contestant in (BASE, CANDIDATE)
        )
        if stands_at(before, place) and not stands_at(after, place):
            told.append(f"what stood {place} stands there no more")
    return tuple(told)


def write_grid(table: pd.DataFrame, folder: Path) -> None:
    """grid.png: the first prompts' first pictures by base and candidate, side by side."""
    first = table[(table["picture"] == 0) & (table["contestant"] == CANDIDATE)][:PAIRS_IN_GRID]
    paths = [folder / IMAGES / contestant / image for image in first["image"] for contestant in (BASE, CANDIDATE)]
    pictures = [open_picture(path).convert("RGB") for path in paths]
    captions = [f"{contestant}: {prompt}" for prompt in first["prompt"] for contestant in (BASE, CANDIDATE)]
    contact_sheet(pictures, GRID_COLUMNS, captions=captions).save(folder / "grid.png")


def thumbnail(folder: Path, picture: Path) -> str:
    """Write a small copy of a picture: PNG when it was small already, JPEG when it is reduced."""
    image = open_picture(folder / IMAGES / picture).convert("RGB")
    small = max(image.size) <= THUMBNAIL_SIDE
    path = Path("thumbnails") / picture.with_suffix(".png" if small else ".jpg")
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    resized(image, THUMBNAIL_SIDE).save(folder / path, **({"optimize": True} if small else {"quality": 85}))
    return path.as_posix()
