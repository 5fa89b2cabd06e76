"""What the tuner has to know of a base model, and what all of them share."""

from __future__ import annotations

import os
import shutil
import sys
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import Any, ClassVar, Self

import torch
from diffusers import DiffusionPipeline, ModelMixin
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor

from drtune.config import ComputeSection, TuningSamplerConfig
from drtune.errors import UserError
from drtune.models.sampler import SCHEDULE_SETTINGS, Sampler, Scheduler, make_scheduler, read_sampler

ENCODED_TOGETHER = 16
"""Prompts that are encoded as one batch, the last one filled up: their number changes the last bits, and a run must not
hang on how many updates it was asked for."""
Conditions = Mapping[str, Tensor]
"""What conditions the denoiser on B prompts: tensors (B, ...) by the names of the pipeline."""


class Base(ABC):
    """A frozen text-to-image pipeline of diffusers as the tuner sees it: prompts to conditions, latents to images.

    Latents are (B, C, H, W) for every base, whatever its pipeline takes.
    """

    pipeline_class: ClassVar[type[DiffusionPipeline]]
    network_name: ClassVar[str]
    """The part of the pipeline that denoises: `unet` or `transformer`."""
    samplers: ClassVar[tuple[str, ...]]
    """Samplers that fit its noise schedule, the default first."""
    lora_targets: tuple[str, ...]
    """Layers that get an adapter when the configuration names none."""
    embeds_guidance: bool = False
    """The network is told the guidance scale or knows but one, and is never run twice."""
    names_negative: ClassVar[bool] = False
    """The pipeline has no guidance unless it is given a negative prompt, be it empty."""
    patch: ClassVar[int] = 1
    """Side of the squares of latents that the network takes as one token."""
    folded: ClassVar[int] = 1
    """Side of the squares of the VAE's latents that are one of ours."""
    draws_alone: ClassVar[bool] = False
    """In its pipeline a picture hangs on how long the other prompts of its batch are."""
    noise_dtype: ClassVar[torch.dtype | None] = None
    """In which the pipeline draws its noise; None: in that of the conditions."""
    load_arguments: ClassVar[Mapping[str, Any]] = {}
    """For `from_pretrained`: parts of the pipeline to leave out."""
    pieces: ClassVar[Mapping[str, Any]] = {}
    """Parts of the pipeline of which less is loaded than there is, by the classes that load it."""

    def __init__(self, pipeline: DiffusionPipeline, *, height: int | None = None, width: int | None = None) -> None:
        self.pipeline = pipeline
        pipeline.set_progress_bar_config(disable=True)
        if pipeline.vae.dtype == torch.float16:  # SDXL's overflows in it, and in any the gradient of a pixel vanishes
            pipeline.vae.to(torch.float32)
        self.network: ModelMixin = getattr(pipeline, self.network_name)
        self.dtype: torch.dtype = self.network.dtype
        """Of the frozen weights; what trains may be kept in another."""
        self.factor: int = pipeline.vae_scale_factor * self.folded
        """Pixels of the image for each latent, along one side."""
        self.height = self._side("height", height)
        self.width = self._side("width", width)

    def _side(self, name: str, given: int | None) -> int:
        side = self.native_side if given is None else given
        if side % (multiple := self.side_multiple):
            raise UserError(f"{name}={side}: give a multiple of {multiple} for a {type(self.pipeline).__name__}")
        return side

    def resized(self, size: str) -> Self:
        """The same base for pictures of another of a run's sizes, such as 1216x832; it shares all but that.

        Raises:
            UserError: the size does not fit.
        """
        other, (width, height) = copy(self), map(int, size.split("x"))
        other.height = self._side(f"other_sizes={size}: height", height)
        other.width = self._side(f"other_sizes={size}: width", width)
        return other

    @property
    def native_side(self) -> int:
        """Height and width in pixels of the images that the base was made for."""
        return int(self.network.config.sample_size) * self.factor

    @property
    def side_multiple(self) -> int:
        """What height and width in pixels are multiples of."""
        return self.factor * self.patch

    @property
    def noise_levels(self) -> Sequence[float] | None:
        """Of its pipeline's steps, where they are the same whatever number of steps it is asked for."""
        return None

    @property
    def num_channels(self) -> int:
        """C, channels of the latents."""
        return int(self.network.config.in_channels)

    @property
    def latents_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.num_channels, self.height // self.factor, self.width // self.factor

    @property
    def num_tokens(self) -> int:
        """Patches of the latents."""
        return self.latents_shape[1] * self.latents_shape[2] // self.patch**2

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        device: torch.device = self.network.device
        return device

    @property
    def text_encoders(self) -> list[torch.nn.Module]:
        """Those that are not freed yet."""
        parts = self.pipeline.components.items()
        return [part for name, part in parts if name.startswith("text_encoder") and part is not None]

    @property
    def encoding_device(self) -> torch.device:
        """Where the text encoders are, which need not be where the network is."""
        return next(self.text_encoders[0].parameters()).device

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> Conditions:
        """Conditions of the prompts, by the pipeline's own text encoders, without a graph."""

    def encode_negative(self, prompt: str) -> Conditions:
        """Conditions (B = 1) of what guidance leads away from, as the pipeline itself would make them."""
        return self.encode([prompt])

    def count_truncated(self, prompts: Sequence[str]) -> int:
        """How many prompts are longer than what one of the text encoders reads."""
        parts = self.pipeline.components.items()
        tokenizers = [part for name, part in parts if name.startswith("tokenizer") and part]

        def is_truncated(prompt: str) -> bool:
            return any(
                len(tokenizer(prompt, verbose=False).input_ids) > tokenizer.model_max_length for tokenizer in tokenizers
            )

        return sum(map(is_truncated, prompts))

    @abstractmethod
    def predict(self, latents_BCHW: Tensor, timesteps_B: Tensor, conditions: Conditions, guidance: float) -> Tensor:
        """The network's output (B, C, H, W); `guidance` is read by a base that `embeds_guidance`."""

    def guide(self, negative: Tensor, conditional: Tensor, scale: float) -> Tensor:
        """Classifier-free guidance of two outputs (B, C, H, W) (Ho and Salimans 2022); 1 is without."""
        return negative + scale * (conditional - negative)

    @classmethod
    def guidance_argument(cls, guidance_scale: float) -> dict[str, float]:
        """What the pipeline itself is to be given for our scale."""
        return {"guidance_scale": guidance_scale}

    def pipeline_conditions(self, conditions: Conditions) -> dict[str, Any]:
        """Conditions as the pipeline takes them; with `negative_` before each name they are those of guidance."""
        return dict(conditions)

    def pack(self, latents_BCHW: Tensor) -> Tensor:
        """Latents as the pipeline takes and gives them."""
        return latents_BCHW

    def unpack(self, packed: Tensor) -> Tensor:
        """Latents (B, C, H, W) of what `pack` gives."""
        return packed

    def set_timesteps(self, scheduler: Scheduler, num_steps: int) -> None:
        """Set the timesteps as the pipeline itself would."""
        scheduler.set_timesteps(num_steps)

    def check_steps(self, num_steps: int) -> None:
        """See that the pipeline takes so many steps.

        Raises:
            UserError: it has noise levels of its own, and they are not as many.
        """
        if (levels := self.noise_levels) and len(levels) != num_steps:
            raise UserError(
                f"steps={num_steps}: this base has {len(levels)} noise levels of its own; give {len(levels)}, "
                "in sampler.steps and in evaluation.sampler.steps"
            )

    def sampler(self, settings: TuningSamplerConfig) -> Sampler:
        """The steps of the sampler that `settings` ask for.

        Raises:
            UserError: the base has no such sampler, its own scheduler has a noise schedule of another family, or it
                takes another number of steps.
        """
        name, eta = settings.name or self.samplers[0], settings.eta
        if name not in self.samplers or (eta and name != "ddim"):
            wanted = f"sampler.name={name}" if name not in self.samplers else f"sampler.eta={eta}"
            raise UserError(
                f"{wanted}: not for a {type(self.pipeline).__name__}; its samplers are {', '.join(self.samplers)}, "
                "and eta is for ddim"
            )
        theirs = self.pipeline.scheduler
        if (setting := SCHEDULE_SETTINGS[name]) not in theirs.config:
            raise UserError(
                f"base {self.pipeline.name_or_path}: its {type(theirs).__name__} has no {setting}, so sampler.name="
                f"{name} would be on a noise schedule that it was not trained on; give another base_model"
            )
        self.check_steps(settings.steps)
        scheduler = make_scheduler(name, theirs.config)
        self.set_timesteps(scheduler, settings.steps)
        return read_sampler(scheduler, eta)

    def final_pixels(self, latents: Tensor) -> Tensor:
        """As `pixels`, of what the pipeline gives as its last latents."""
        return self.pixels(self.unpack(latents).to(self.pipeline.vae.dtype))

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """Images (B, 3, height, width) in [0, 1]; a pixel beyond that range is clamped and has no gradient."""
        return self.pixels(latents_BCHW).clamp(0, 1)

    def pixels(self, latents_BCHW: Tensor) -> Tensor:
        """Images (B, 3, height, width) as the VAE has them: mostly in [0, 1]."""
        config = self.pipeline.vae.config
        return self._decoded(latents_BCHW / config.scaling_factor + (config.get("shift_factor") or 0.0))

    def latents_of(self, images_BCHW: Tensor) -> Tensor:
        """Latents (B, C, H, W) of images (B, 3, height, width) in [0, 1], without a graph; `pixels` is the way back."""
        config = self.pipeline.vae.config
        shift, scale = float(config.get("shift_factor") or 0.0), float(config.scaling_factor)
        return (self._encoded(images_BCHW) - shift) * scale

    def _decoded(self, latents: Tensor) -> Tensor:
        """Images, mostly in [0, 1], of the VAE's own latents."""
        vae = self.pipeline.vae
        images: Tensor = vae.decode(latents.to(vae.dtype), return_dict=False)[0]
        return images.to(latents.dtype) / 2 + 0.5

    @torch.no_grad()
    def _encoded(self, images: Tensor) -> Tensor:
        """The VAE's own latents: the mean of those that it has for an image."""
        vae = self.pipeline.vae
        latents: Tensor = vae.encode((2 * images - 1).to(vae.dtype)).latent_dist.mode()
        return latents.to(images.dtype)

    def prepare(self, compute: ComputeSection) -> None:
        """Make network and VAE ready to be tuned, after the weights that train were put on.

        Raises:
            UserError: the network is to be compiled, and there is no C++ compiler.
        """
        if compute.gradient_checkpointing:
            self.network.enable_gradient_checkpointing()
            if self.pipeline.vae._supports_gradient_checkpointing:
                self.pipeline.vae.enable_gradient_checkpointing()
        if compute.compile:
            compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
            if shutil.which(compiler) is None:
                raise UserError(
                    f"compute.compile=True: no C++ compiler {compiler} here; install one, or name it in CXX"
                )
            self.network.compile()  # where it is, so that the weights keep their names

    @contextmanager
    def encoding_on(self, device: torch.device | str) -> Iterator[None]:
        """Within, every prompt is encoded, by text encoders that are alone on the device; then their memory is free.

        The network goes there afterwards: the two together may be more than it holds.
        """
        for encoder in self.text_encoders:
            encoder.to(device)
        yield
        self.free_text_encoders()

    def free_text_encoders(self) -> None:
        """Give back the memory of the text encoders, when every prompt is encoded."""
        for name in self.pipeline.components:
            if name.startswith("text_encoder"):
                setattr(self.pipeline, name, None)


def shift_of(scheduler: Scheduler, num_tokens: int) -> float:
    """mu, which shifts a flow's schedule towards the noise (Esser et al. 2024, arXiv 2403.03206, section 5.3.2).

    It is linear in the number of tokens; a schedule without dynamic shifting does not read it.
    """
    config = scheduler.config
    sizes = config.base_image_seq_len, config.max_image_seq_len
    return float(calculate_shift(num_tokens, *sizes, config.base_shift, config.max_shift))


class EncodedPrompts:
    """The conditions of many prompts, each encoded once and kept on disk; main memory holds one batch of them.

    They are read onto the device of the network.

    They take their own size there, which `drtune plan` tells: for FLUX.1 in bf16 4 MiB a prompt, 38 GiB for 9,600.
    Their file has no name, and is gone with the process.

    Args:
        base: Its text encoders are not needed any more afterwards.
        prompts: Texts by any numbers.
        folder: Where the file is; by default among temporary files.
        batch_size: Prompts that are encoded together.

    Raises:
        UserError: the disk has not enough room.
    """

    def __init__(
        self,
        base: Base,
        prompts: Mapping[int, str],
        folder: Path | None = None,
        batch_size: int = ENCODED_TOGETHER,
    ) -> None:
        self.base = base
        self.rows = {index: row for row, index in enumerate(prompts)}
        self.file = TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 # lives as long as this
        weakref.finalize(self, self.file.close)
        texts = list(prompts.values())
        for start in range(0, len(texts), batch_size):
            batch = texts[start : start + batch_size]
            conditions = base.encode(batch + [""] * (batch_size - len(batch)))
            if start == 0:
                self.one = {name: tensor[0].to("meta") for name, tensor in conditions.items()}
                self.size = sum(tensor.nbytes for tensor in self.one.values())
                _refuse_little_room(self.size * len(texts), len(texts), folder)
            parts = [tensor.cpu().reshape(batch_size, -1).view(torch.uint8) for tensor in conditions.values()]
            rest = torch.cat(parts, dim=1)[: len(batch)].flatten().numpy().data
            while rest:  # without a buffer, which could still be full when the file is closed
                rest = rest[self.file.write(rest) :]

    def __getitem__(self, indices: Sequence[int]) -> Conditions:
        """The conditions of some prompts as one batch, where the network is."""
        records = torch.empty(len(indices), self.size, dtype=torch.uint8)
        for index, record in zip(indices, records.numpy(), strict=True):
            self.file.seek(self.rows[index] * self.size)
            self.file.readinto(record)
        parts = records.split([tensor.nbytes for tensor in self.one.values()], dim=1)
        return {
            name: part.clone(memory_format=torch.contiguous_format)
            .view(one.dtype)
            .view(-1, *one.shape)
            .to(self.base.device)
            for (name, one), part in zip(self.one.items(), parts, strict=True)
        }


def _refuse_little_room(needed: int, count: int, folder: Path | None) -> None:
    place, fix = (folder, "give another output") if folder else (gettempdir(), "name another place in TMPDIR")
    if needed > (free := shutil.disk_usage(place).free):
        raise UserError(
            f"{place}: {count} encoded prompts take {needed / 2**30:.1f} GiB there, and its disk has "
            f"{free / 2**30:.1f}; free some space, or {fix}"
        )
