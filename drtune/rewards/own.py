"""Your own reward: a function in a file, named `file.py:function` (docs/rewards.md)."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from drtune.errors import UserError
from drtune.files.local import sha256_bytes
from drtune.rewards.files import read_own

PROBE_SIDE = 256


class OwnReward:
    """A function `(images_BCHW, prompts) -> (B,)` from a file, tried on two random images as soon as it is loaded.

    Raises:
        UserError: there is no such function; it raises, and then its traceback is shown; what it returns is not one
            floating-point score an image; or no gradient reaches the images and `differentiable` is on.
    """

    def __init__(self, name: str, file: Path, *, differentiable: bool) -> None:
        self.name = name
        self.file = file.absolute()
        source = read_own(name, self.file)
        self.provenance = f"{file.name} sha256 {sha256_bytes(source)}"
        self.function = self._load(source, name.rpartition(":")[2])
        self._try(differentiable)

    def __call__(self, images_BCHW: Tensor, prompts: Sequence[str], /) -> Tensor:
        """Rewards (B,), as `Reward`."""
        try:
            result = self.function(images_BCHW, list(prompts))
        except SystemExit:
            raise UserError(f"reward {self.name}: ends the program; raise an exception instead of sys.exit") from None
        return self._checked(result, len(images_BCHW))

    def _load(self, source: bytes, function_name: str) -> Callable[[Tensor, list[str]], Any]:
        module = ModuleType(f"drtune_own_{sha256_bytes(str(self.file).encode())[:12]}")
        module.__file__ = str(self.file)
        sys.modules[module.__name__] = module  # where dataclasses and pickle look a class's module up
        try:
            exec(compile(source, self.file, "exec"), vars(module))  # exactly what was digested, and no __pycache__
        except Exception as error:
            raise UserError(f"reward {self.name}: {self.file} fails to load:\n{self._traceback(error)}") from None
        if function_name not in vars(module):
            raise UserError(f"reward {self.name}: {self.file} has no {function_name}; name a function that is there")
        found = vars(module)[function_name]
        if not callable(found):
            raise UserError(f"reward {self.name}: {function_name} is a {type(found).__name__}, wanted a function")
        function: Callable[[Tensor, list[str]], Any] = found
        return function

    def _try(self, differentiable: bool) -> None:
        generator = torch.Generator().manual_seed(0)
        images_BCHW = torch.rand(2, 3, PROBE_SIDE, PROBE_SIDE, generator=generator).requires_grad_()
        try:
            result = self.function(images_BCHW, ["a red circle", "a photo of a cat"])
            gradient = _gradient(result, images_BCHW) if differentiable else None
        except (Exception, SystemExit) as error:
            raise UserError(
                f"reward {self.name}: fails on images of shape {tuple(images_BCHW.shape)}:\n{self._traceback(error)}"
            ) from None
        self._checked(result, len(images_BCHW))
        if differentiable and gradient is None:
            raise UserError(
                f"reward {self.name}: is not differentiable, no gradient reaches the images; compute it with "
                "differentiable torch operations, without no_grad, detach, item or numpy"
            )

    def _checked(self, result: Any, batch: int) -> Tensor:
        if not isinstance(result, Tensor):
            raise UserError(
                f"reward {self.name}: returns a {type(result).__name__}, wanted a tensor of shape ({batch},) "
                f"for {batch} images"
            )
        if result.shape != (batch,):
            raise UserError(
                f"reward {self.name}: returns shape {tuple(result.shape)}, wanted ({batch},) for {batch} images: "
                "one score each"
            )
        if not result.is_floating_point():
            raise UserError(f"reward {self.name}: returns {result.dtype}, wanted floating point")
        return result

    def _traceback(self, error: BaseException) -> str:
        """The traceback from the first line in the user's own file on."""
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename != str(self.file):
            trace = trace.tb_next
        return "".join(traceback.format_exception(type(error), error, trace)).rstrip()


def _gradient(result: Any, images_BCHW: Tensor) -> Tensor | None:
    if not isinstance(result, Tensor) or not result.requires_grad:
        return None
    (gradient,) = torch.autograd.grad(result.sum(), images_BCHW, allow_unused=True)
    return gradient
