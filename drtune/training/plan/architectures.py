"""A base without weights: every part built by its own class, on tensors that have a shape and no content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import diffusers
import torch
import transformers
from diffusers import SchedulerMixin
from torch import Tensor
from transformers import BatchEncoding, PreTrainedModel

from drtune.config import Config
from drtune.errors import UserError
from drtune.models.base import Base
from drtune.models.loading import BASES, DTYPES
from drtune.training.plan.published import configs_of


class Ruler:
    """Stands in for a tokenizer, or a processor with one: every prompt is as long as it may be."""

    added_tokens_encoder: Mapping[str, int] = {}

    def __init__(self, model_max_length: int) -> None:
        self.model_max_length = model_max_length

    def __call__(
        self, prompts: str | list[str], *, padding: Any, max_length: int | None = None, **_: Any
    ) -> BatchEncoding:
        """Token ids (B, L), all zero; one token where the prompts are not padded."""
        length = (max_length or self.model_max_length) if padding == "max_length" else 1
        tokens = torch.zeros(1 if isinstance(prompts, str) else len(prompts), length, dtype=torch.int64)
        return BatchEncoding({"input_ids": tokens, "attention_mask": tokens})

    @property
    def tokenizer(self) -> Ruler:
        """That of a processor."""
        return self

    def apply_chat_template(self, _messages: list[Any], *, tokenize: bool = False, **_: Any) -> str | list[list[int]]:
        """A text of no matter which length, or no tokens of one."""
        return [[]] if tokenize else ""

    def encode(self, _text: str) -> list[int]:
        """One token."""
        return [0]

    def tokenize(self, _prompt: str) -> list[str]:
        """No tokens: nothing in a prompt stands for a textual inversion."""
        return []


class OneStep:
    """Stands in for a scheduler, all of which look at values: one step that adds the output to the latents."""

    order = 1
    init_noise_sigma = 1.0

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config

    def set_timesteps(self, _steps: int = 1, device: Any = None, sigmas: Any = None, mu: Any = None) -> None:  # noqa: ARG002
        """The one timestep, whatever is asked for."""
        self.timesteps = torch.tensor([0.0], device=device)  # of which a plan knows the number

    def set_begin_index(self, _index: int) -> None:
        """Nothing: there is but one."""

    def scale_model_input(self, latents: Tensor, _timestep: Tensor) -> Tensor:
        """The latents as they are."""
        return latents

    def step(self, output: Tensor, _timestep: Tensor, latents: Tensor, **_: Any) -> tuple[Tensor]:
        """The next latents, in their own precision."""
        return ((latents + output).to(latents.dtype),)


def shell(config: Config) -> Base:
    """The base of a configuration, on the device `meta`.

    Raises:
        UserError: the architecture is neither known nor in a local folder, is no base that can be tuned, or the size
            does not fit.
    """
    configs = configs_of(config.base_model)
    index = configs["model_index"]
    kind = index["_class_name"]
    if kind not in BASES:
        raise UserError(f"base_model={config.base_model!r}: is a {kind}; one of {', '.join(BASES)} can be tuned")
    precision = config.compute.precision
    network_precision = "fp32" if config.weights == "full" else precision
    parts: dict[str, Any] = {}
    with torch.device("meta"):
        for name, value in index.items():
            if name in configs:
                its_precision = network_precision if name == BASES[kind].network_name else precision
                library, part_kind = value
                parts[name] = _part(library, part_kind, configs[name], DTYPES[its_precision])
            elif not name.startswith("_"):
                left_out = isinstance(value, list) and all(word is None or isinstance(word, str) for word in value)
                parts[name] = None if left_out else value  # else it is a setting
    return BASES[kind](BASES[kind].pipeline_class(**parts), height=config.height, width=config.width)


def _part(library: str, kind: str, config: Mapping[str, Any], dtype: torch.dtype) -> Any:
    if "Tokenizer" in kind or "Processor" in kind:
        return Ruler(config["model_max_length"])
    part_class = getattr(diffusers if library == "diffusers" else transformers, kind)
    if issubclass(part_class, SchedulerMixin):
        with torch.device("cpu"):
            return part_class.from_config(config)
    if issubclass(part_class, PreTrainedModel):
        part = part_class(part_class.config_class.from_dict(dict(config)))
    else:
        part = part_class.from_config(config)
    part.to(dtype).requires_grad_(False).eval()
    for module in part.modules():  # what is not loaded stays as it was made
        for name in module._non_persistent_buffers_set:
            if (buffer := module._buffers[name]) is not None and buffer.is_floating_point():
                module._buffers[name] = buffer.float()
    if dtype == torch.float16:  # in which T5 overflows; from_pretrained sees to it
        for name, module in part.named_modules():
            if name.rpartition(".")[2] in (part_class._keep_in_fp32_modules or ()):
                module.float()
    return part


def give_content(module: torch.nn.Module) -> None:
    """Put fresh tensors of the current mode in place of those on `meta`; what was shared stays shared."""
    made: dict[int, Tensor] = {}
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    if id(tensor) not in made:
                        made[id(tensor)] = _fresh(tensor)
                    tensors[name] = made[id(tensor)]  # type: ignore[assignment]  # a parameter for a parameter


def _fresh(tensor: Tensor) -> Tensor:
    content = torch.empty(tensor.shape, dtype=tensor.dtype)
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(content, requires_grad=tensor.requires_grad)
    return content
