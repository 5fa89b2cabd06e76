"""`drtune.tune`: a pipeline, prompts and a reward in, a `Result` out, by the trainer that everything else uses."""

from __future__ import annotations

import atexit
import gc
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from drtune.config import load_config
from drtune.contracts import MANIFEST
from drtune.errors import UserError
from drtune.files.local import read_given, write_text
from drtune.files.output import claimed, unless_begun
from drtune.models.index import read_index
from drtune.models.start import read_start
from drtune.prompts.datasets import is_prepared, source_of
from drtune.prompts.prepare import PROBLEMS, prepare
from drtune.python.functions import reward_file
from drtune.python.pipelines import base_name
from drtune.python.result import Result
from drtune.python.words import in_python, overrides
from drtune.training.checks import base_commit, check_start
from drtune.training.trainer import train

Prompts = Sequence[str | Mapping[str, str]]
RewardLike = str | Callable[..., Any]


def tune(
    base: DiffusionPipeline | str,
    *,
    prompts: Prompts | str | Path,
    reward: RewardLike | Mapping[RewardLike, Any] | None = None,
    eval_prompts: Prompts | None = None,
    config: str | Path | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **settings: Any,
) -> Result:
    """Tune a text-to-image pipeline on a reward, in this process; the pipeline that is given stays as it is.

    Args:
        base: a pipeline of diffusers, or its name: a hub id, a folder, or "miniature".
        prompts: to tune on: texts, or mappings with `text`, `category` and `split`; or a prompts file, a
            PromptSet, or a data set of the hub by its name, "hf://datasets/owner/name".
        reward: a reward's name, "file.py:function", or a function `(images_BCHW, prompts) -> (B,)`; several by their
            weights: {"preference": 1.0, my_reward: 0.5}. None: as the configuration has it.
        eval_prompts: held out, to look at and to evaluate on; None: about one in six of `prompts`.
        config: a YAML file with what differs from the defaults.
        out: folder of the tuned model, with what belongs to it beside it; None: a temporary one, which goes when
            Python ends.
        resume: go on from the newest checkpoint in `out`.
        overwrite: replace what stands at `out`.
        settings: any of `drtune config`: steps=80, sampler={"steps": 4}, optimizer={"learning_rate": 1e-4}.

    Raises:
        UserError: something given cannot be used, or the training diverges.
        KeyboardInterrupt: it was interrupted, and its state is saved.

    >>> result = drtune.tune("miniature", prompts=["a red circle", "a blue square"], reward="symmetry",
    ...                      eval_prompts=["a green star"], steps=20)
    """
    place = _temporary() if out is None else Path(out)
    with in_python(place), ExitStack() as held:
        if "WORLD_SIZE" in os.environ:
            raise UserError("drtune.tune: is for one process; with torchrun start -m drtune.training.worker")
        if resume and overwrite:
            raise UserError("--resume keeps what stands at the output, --overwrite replaces it; give one of them")
        if reward is not None:
            rewards = reward if isinstance(reward, Mapping) else {reward: {}}
            settings = {"rewards": rewards} | settings
        inputs = [prompts if isinstance(prompts, str | Path) else None, config if overwrite else None]
        with claimed(place, "TrainingRun", overwrite=overwrite or resume, inputs=inputs):  # before anything is written
            if not (resume and place.exists()):
                beside = (Path(f"{place}.{kind}") for kind in ("prompts", "prompts.jsonl", "rewards"))
                held.enter_context(unless_begun(place, *beside))
            write = partial(_write, goes_on=resume, overwrite=overwrite)
            name_of = partial(reward_file, folder=Path(f"{place}.rewards"), write=write)
            if not isinstance(base, str):
                base = base_name(base, settings.get("base_revision"))
            tree = load_config(config, [*overrides({"base_model": base} | settings, name_of)])
            if tree.process_count != 1:
                raise UserError(f"processes={tree.process_count}: drtune.tune is one; `drtune train` starts several")
            check_start(tree)
            read_index(tree.base_model, base_commit(tree, place if resume else None))
            read_start(tree)
            prompt_set = _prompt_set(prompts, eval_prompts, place, write, goes_on=resume, overwrite=overwrite)
        train(tree, prompt_set, place, resume=resume, overwrite=overwrite)
        gc.collect()  # the memory of the trainer, before pictures are drawn
        return Result(place, prompt_set)


def _temporary() -> Path:
    """A place in a folder that is removed when Python ends, and not before: an interrupted run may go on in it."""
    folder = tempfile.mkdtemp(prefix="drtune-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder) / "run"


def _write(file: Path, text: str, *, goes_on: bool, overwrite: bool) -> None:
    """Write a file, unless it stands there already as it should."""
    if not file.is_file() or read_given(file) != text.encode():
        if goes_on and file.exists():
            raise UserError(
                f"{file}: not what the run began with; give the same again, or start again with --overwrite instead of "
                "--resume"
            )
        with claimed(file, None, overwrite=overwrite):
            write_text(file, text)


def _prompt_set(
    given: Prompts | str | Path,
    held_out: Prompts | None,
    place: Path,
    write: Callable[[Path, str], None],
    *,
    goes_on: bool,
    overwrite: bool,
) -> Path:
    """The folder of the PromptSet to train on; lists and raw files are prepared beside the place of the run."""
    if isinstance(given, str | Path):
        if held_out is not None:
            raise UserError("eval_prompts: go with a list of prompts; a file says by its field split what is held out")
        if (Path(given) / MANIFEST).exists():
            return Path(given)
        source: str | Path = given
    else:
        source = Path(f"{place}.prompts.jsonl")
        records = _sides(given, held_out)
        write(source, "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records))
    folder = Path(f"{place}.prompts")
    if is_prepared(source, folder, goes_on=goes_on):
        return folder
    try:
        prompt_set = prepare(source_of(source), folder, overwrite=overwrite)
    except UserError as error:
        short = held_out is None and not isinstance(given, str | Path)
        raise UserError(f"{error}; or give eval_prompts" if short and "is for eval" in str(error) else error) from None
    if prompt_set.problems:
        warnings.warn(f"{prompt_set.told}; {folder / PROBLEMS} names each", stacklevel=3)
    return folder


def _sides(given: Prompts, held_out: Prompts | None) -> Iterable[object]:
    """Records of a prompts file; their side is stated where two lists are given."""
    if held_out is None:
        return given
    sides = {"eval": held_out, "train": given}
    return [
        {"split": side, **(prompt if isinstance(prompt, Mapping) else {"text": prompt})}
        for side, prompts in sides.items()
        for prompt in prompts
    ]
