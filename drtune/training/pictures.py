"""Real pictures as starting points: one of each prompt to train on, which is encoded when an update asks for it."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from contextlib import ExitStack

import torch
from PIL import Image, ImageOps
from torch import Tensor

from drtune.config import Config
from drtune.errors import UserError
from drtune.files.folders import opened
from drtune.files.images import UnusablePictureError, open_picture, to_tensor
from drtune.files.local import sha256_bytes, sha256_file
from drtune.models.base import Base
from drtune.prompts.pictured import manifest_of, matched
from drtune.prompts.prepare import PreparedPrompts

KEY = "method.pictures"


def pictures_of(config: Config, prompts: PreparedPrompts) -> RealPictures | None:
    """Those that `method.pictures` names, for the prompts to train on; None: a run starts from sampled ones."""
    if not config.method.pictures:
        return None
    return RealPictures(config.method.pictures, [prompt.text for prompt in prompts.train])


class RealPictures:
    """The first picture that a manifest names for each prompt, letter case aside.

    What was fetched or unpacked is kept among temporary files, and is gone with the process.

    Args:
        place: what `method.pictures` says.
        prompts: those to train on.

    Raises:
        UserError: there is nothing at the place, no manifest in it, or no picture of a prompt.
    """

    def __init__(self, place: str, prompts: Sequence[str]) -> None:
        held = ExitStack()
        weakref.finalize(self, held.close)
        self.shown_place = f"{KEY}={place}"
        folder = held.enter_context(opened(KEY, place))
        entries = [entry for entry in matched(folder, manifest_of(self.shown_place, folder)) if not entry.problem]
        first = {entry.prompt.casefold(): folder / entry.image for entry in reversed(entries)}
        if lacking := [prompt for prompt in prompts if prompt.casefold() not in first]:
            raise UserError(
                f"{self.shown_place}: has no picture of {len(lacking)} of the {len(prompts)} prompts to train on, such "
                f"as {lacking[0]!r}; prepare the prompts from its own manifest"
            )
        self.paths = [first[prompt.casefold()] for prompt in prompts]
        self.sha256 = sha256_bytes(repr([*map(sha256_file, self.paths)]).encode())
        """Of which picture belongs to which prompt."""

    def check(self, indices: Iterable[int]) -> None:
        """Open the pictures of some prompts, so that none is found broken on the way.

        Raises:
            UserError: one cannot be opened.
        """
        for index in indices:
            self._open(index)

    def latents(self, base: Base, indices: Sequence[int]) -> Tensor:
        """Latents (B, C, H, W) of the pictures of some prompts, cut to the base's proportions around their centres."""
        size = (base.width, base.height)
        pictures = (ImageOps.fit(self._open(index).convert("RGB"), size, Image.Resampling.LANCZOS) for index in indices)
        # One by one: encoding then never holds more than the decoding that follows it.
        return torch.cat([base.latents_of(to_tensor([picture]).to(base.device)) for picture in pictures])

    def _open(self, index: int) -> Image.Image:
        try:
            return open_picture(self.paths[index])
        except UnusablePictureError as error:
            name = self.paths[index].name
            raise UserError(f"{self.shown_place}: {name}: {error}; mend it, or take it out with its prompt") from None
