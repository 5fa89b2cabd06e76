"""What an evaluation is given, looked at before torch is imported or anything is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from drtune.config import Config, differences, load_config
from drtune.contracts import CONFIG, PromptSet, TunedModel
from drtune.errors import UserError
from drtune.evaluation.places import check_reference
from drtune.files.output import claimed
from drtune.prompts.compositional import read_tasks
from drtune.rewards.files import check_own


def check_inputs(
    model_folder: str | Path,
    prompts_folder: str | Path,
    out: str | Path,
    champion: str | Path | None,
    references: Mapping[str, str],
    *,
    overwrite: bool,
) -> None:
    """Refuse models, prompts and references that are not there, and a taken output; arguments as of `evaluate`.

    Raises:
        UserError: naming the first of them.
    """
    inputs = [model_folder, prompts_folder, champion, *references.values()]
    with claimed(out, "EvaluationReport", overwrite=overwrite, inputs=inputs):
        pass  # free now; asked again, and held, by what writes there
    TunedModel.load(model_folder)
    if champion is not None:
        TunedModel.load(champion)
    PromptSet.load(prompts_folder)
    for name, place in references.items():
        check_reference(name, place)


def overridden(model_folder: str | Path, overrides: Sequence[str]) -> Config:
    """The configuration of a tuned model with overrides of its evaluation, its pictures' size, and where weights are.

    Raises:
        UserError: an override is wrong, changes something else, or names a reward or compositional prompts whose file
            cannot be used.
    """
    path = Path(model_folder) / CONFIG
    tuned, config = load_config(path), load_config(path, overrides)
    settable = ("evaluation", "reward_checkpoints", "height", "width")
    if elsewhere := differences(config.model_copy(update={key: getattr(tuned, key) for key in settable}), tuned):
        raise UserError(
            f"--set {elsewhere[0]}: the model is tuned already; only evaluation.*, reward_checkpoints.*, height and "
            "width can be set now"
        )
    check_own(config.measured_rewards, Path(model_folder))
    if file := config.evaluation.capability.file:
        read_tasks(file)
    return config
