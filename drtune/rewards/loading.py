"""Published networks from their files: a whole one or an error that says in one line what is wrong with the file."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from drtune.errors import UserError
from drtune.rewards.weights import fetch, sha256_of_all, weights_of

Model = TypeVar("Model", bound=PreTrainedModel)
Built = TypeVar("Built")


def network_from_hub(
    kind: type[Model], reward: str, repository: str, digest: str | None = None, checkpoint: Path | None = None
) -> tuple[Model, str]:
    """A network of a hub repository in single precision, and its file's sha256 to be told with the scores.

    Args:
        kind: its class, which takes what it needs of the file.
        reward: the name of the reward that asks.
        repository: on the hub, with `model.safetensors` and `config.json` in it.
        digest: what the file of the hub must have, as in `weights_of`.
        checkpoint: in its place, likewise.

    Raises:
        UserError: the files are not to be had, or are no such network.
    """
    beside = ("config.json",)
    path, told = weights_of(reward, repository, "model.safetensors", digest, beside=beside, checkpoint=checkpoint)
    with refused(reward, path):
        config = kind.config_class.from_pretrained(path.parent)
        model = _loaded(kind, torch.float32, None, config=config, state_dict=load_file(path))
    return model, told


def from_shards(
    kind: type[Model], reward: str, repository: str, revision: str, checkpoint: Path | None = None
) -> tuple[Model, str]:
    """A network of a hub repository whose weights are in several files, in their precision; and their sha256 together.

    Args:
        kind: as in `network_from_hub`; the published `generation_config.json` is loaded with it.
        reward: the name of the reward that asks.
        repository: on the hub, with `model.safetensors.index.json`, the files that it names, and `config.json` in it.
        revision: the commit of the repository.
        checkpoint: a folder in its place.

    Raises:
        UserError: the files are not to be had, or are no such network.
    """
    index = "model.safetensors.index.json"
    about = (index, "config.json", "generation_config.json")
    folder = fetch(reward, repository, about, revision, checkpoint)
    try:
        files = sorted({str(file) for file in json.loads((folder / index).read_bytes())["weight_map"].values()})
    except (ValueError, LookupError, TypeError, AttributeError):
        files = []
    if not files:
        raise UserError(f"reward {reward}: {folder / index} names no weights; take another copy of it")
    fetch(reward, repository, files, revision, checkpoint)
    together = sha256_of_all(folder / file for file in files)
    with refused(reward, folder):
        model = _loaded(kind, "auto", folder)
    return model, f"{files[0]} and the {len(files) - 1} after it sha256 {together}"


@contextmanager
def refused(reward: str, path: Path, wrong: str = "cannot be loaded") -> Iterator[None]:
    """Within, what goes wrong with the file is told as a user's mistake, with what it is that is `wrong`."""
    try:
        yield
        return
    except pickle.UnpicklingError:  # torch's own words advise to run what is in it
        problem = "it is damaged, or holds more than tensors"
    except (OSError, RuntimeError, EOFError, LookupError, TypeError, ValueError, SafetensorError) as error:
        problem = str(error).splitlines()[0]
    raise UserError(f"reward {reward}: {path} {wrong} ({problem}); take another copy of it")


def _loaded(
    kind: type[Model], dtype: torch.dtype | str, folder: Path | None, *, surplus: bool = True, **settings: Any
) -> Model:
    """The network of a folder, or of the `config` and `state_dict` in `settings`.

    Raises:
        ValueError: a weight is missing, of the wrong shape, or, unless a `surplus` is let pass, unknown.
    """
    loaded: tuple[Model, dict[str, Any]] = kind.from_pretrained(
        folder,
        use_safetensors=True,
        dtype=dtype,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are reported, and refused below
        **settings,
    )
    model, report = loaded
    problems = [f"{key} is {tuple(found)}, not {tuple(wanted)}" for key, found, wanted in report["mismatched_keys"]]
    problems += [f"{key} is missing" for key in report["missing_keys"]]
    problems += [] if surplus else [f"{key} is no weight of it" for key in report["unexpected_keys"]]
    problems += report["error_msgs"]
    if problems:
        others = f", and {len(problems) - 1} more such" if len(problems) > 1 else ""
        raise ValueError(min(problems) + others)
    return in_own_memory(model)


def from_pickle(reward: str, path: Path, kind: str, build: Callable[[Any], Built]) -> Built:
    """What `build` makes of a pickled checkpoint. It is read as tensors alone, so that nothing in it can run.

    Raises:
        UserError: it is no checkpoint of that kind.
    """
    with refused(reward, path, f"is no {kind} checkpoint"):
        return build(torch.load(path, map_location="cpu", weights_only=True))


def num_heads(width: int, head_width: int) -> int:
    """How many attention heads of that width there are.

    Raises:
        ValueError: they do not fit.
    """
    if width % head_width:
        raise ValueError(f"attention {width} wide cannot have heads {head_width} wide, which its weights do not tell")
    return width // head_width


def under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights whose names begin so, by the rest of their names."""
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def filled(
    kind: type[Model],
    config: PretrainedConfig,
    weights: Mapping[str, Tensor],
    dtype: torch.dtype = torch.float32,
    **settings: Any,
) -> Model:
    """A network with these weights, in that precision.

    Raises:
        ValueError: a weight is missing, unknown or of the wrong shape.
    """
    return _loaded(kind, dtype, None, surplus=False, config=config, state_dict=weights, **settings)


def in_own_memory(model: Model) -> Model:
    """The network with its weights in memory of their own.

    Mapped from a file they lie at any address, where some kernels sum in another order than at the round ones of a
    copy: a score's last bits would hang on whether the weights were ever cast to another precision and back.
    """
    for weight in model.parameters():
        weight.data = weight.data.clone()
    return model
