"""What came of a training, with all that its folder holds within reach."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from diffusers import DiffusionPipeline
from PIL import Image

from drtune.config.sections import validated
from drtune.contracts import MANIFEST, CurvePoint, EvaluationReport, RegistryEntry, read_curve
from drtune.errors import UserError
from drtune.evaluation import run, seeds
from drtune.files.images import open_picture
from drtune.files.local import replacing, write_text
from drtune.files.output import claimed
from drtune.models.loading import DEVICE, load_base, quiet_libraries
from drtune.models.sample_set import SampleSettings, write_sample_set
from drtune.models.tuned import open_tuned, put_on
from drtune.prompts.prepare import open_prompts
from drtune.prompts.shots import choose_prompts
from drtune.publishing import REGISTRY
from drtune.publishing.decision import write_decision
from drtune.publishing.policy import Policy
from drtune.publishing.registry import Registry
from drtune.python.page import page
from drtune.python.words import in_python, overrides
from drtune.training.history import read_metrics
from drtune.training.mirror import as_kept_at
from drtune.training.summary import SUMMARY

NUM_SHOWN = 8
"""Held-out prompts of which pictures are shown."""


class Result:
    """A tuned model in its folder, and the prompts that it was tuned on; a notebook shows pictures before and after.

    `drtune.tune` returns one; any run of `drtune train` becomes one by its folder.

    >>> drtune.Result("runs/mine").pipe("a red circle, on a white background").images[0]

    Raises:
        UserError: there is no tuned model, or its files are not those that its manifest names.
    """

    def __init__(self, folder: str | Path, prompts: str | Path | None = None) -> None:
        self.folder = Path(folder)
        """Of the tuned model; reports and decisions stand beside it."""
        self.prompts_folder = Path(prompts) if prompts else self._beside("prompts")
        """Of the PromptSet."""
        with in_python():
            self.model, self.config = open_tuned(self.folder)
            self.prompts = open_prompts(self.prompts_folder)
            """Its sides are `train` and `eval`."""

    def __repr__(self) -> str:
        return f"Result({str(self.folder)!r}: {self.model.step} updates, reward {self.model.reward:.3f})"

    def _repr_html_(self) -> str:
        return page(self.shown, self.before, self.after, read_metrics(self.folder), self.curve)

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """A row an update (`drtune.training.history.UpdateMetrics`), and a column for each reward by its short name."""
        rows = [asdict(update) for update in read_metrics(self.folder)]
        parts = pd.DataFrame([row.pop("rewards") for row in rows]).rename(columns=short_name)
        return pd.concat([pd.DataFrame(rows), parts], axis=1).set_index("step")

    @cached_property
    def curve(self) -> list[CurvePoint]:
        """What all rewards gave the same samples, on the way: `step`, and `rewards` by name."""
        return read_curve(self.folder)

    @property
    def shown(self) -> list[str]:
        """The held-out prompts of `before` and `after`, at most eight."""
        return [prompt.text for prompt in choose_prompts(self.prompts.eval, NUM_SHOWN)]

    @property
    def before(self) -> list[Image.Image]:
        """Pictures of the prompts `shown` by the base, from noise of seed 0, at the settings of the evaluation."""
        return self._pictures[False]

    @property
    def after(self) -> list[Image.Image]:
        """Pictures of the same prompts from the same noise by the tuned model."""
        return self._pictures[True]

    @cached_property
    def _pictures(self) -> dict[bool, list[Image.Image]]:
        with in_python(), TemporaryDirectory(prefix="drtune-") as scratch:
            out = Path(scratch) / "pictures"
            drawn = write_sample_set(self.shown, out, SampleSettings(compare=True), model_folder=self.folder)
            return {
                tuned: [open_picture(out / picture.file) for picture in drawn.pictures if picture.tuned is tuned]
                for tuned in (False, True)
            }

    @cached_property
    def pipe(self) -> DiffusionPipeline:
        """The base's pipeline with the tuned weights in it, on the GPU if there is one."""
        with in_python():
            quiet_libraries()
            config = self.config
            base = load_base(config.base_model, config.base_revision, precision=config.compute.precision)
            base.pipeline.to(DEVICE)
            put_on(base, self.folder, self.model)
            # In fp16 again where ours is in fp32, to which plain diffusers does not cast; SDXL's it casts itself.
            base.pipeline.vae.to(base.dtype)
            return base.pipeline

    def save(self, out: str | Path, *, overwrite: bool = False) -> Result:
        """Copy the folder of the run to `out`, and its prompts to `out`.prompts; returns the result that stands there.

        Raises:
            UserError: something stands there, and `overwrite` is off.
        """
        out = Path(out)  # without a slash at its end
        with in_python():
            with (
                claimed(out, "TrainingRun", overwrite=overwrite, inputs=[self.folder]) as model,
                claimed(f"{out}.prompts", "PromptSet", overwrite=overwrite, inputs=[self.prompts_folder]) as prompts,
            ):
                for source, target in ((self.folder, model), (self.prompts_folder, prompts)):
                    with replacing(target) as written:
                        shutil.copytree(source, written)
                summary = (self.folder / SUMMARY).read_text(encoding="utf-8")
                write_text(model / SUMMARY, as_kept_at(str(model), summary, self.folder))
            return Result(out)

    def evaluate(
        self,
        out: str | Path | None = None,
        *,
        champion: str | Path | None = None,
        references: Mapping[str, str | Path] | None = None,
        reward_checkpoints: Mapping[str, str | Path] | None = None,
        overwrite: bool = False,
        **settings: Any,
    ) -> EvaluationReport:
        """Compare with the base and others on the held-out prompts; the report's page is `report.html` in `out`.

        Args:
            out: folder of the report; None: beside that of the run, with `.report` to its name.
            champion: the tuned model that it would replace.
            references: folders or archives of pictures by name.
            reward_checkpoints: differences in where weights of yours are, by reward.
            overwrite: replace the report that stands there.
            settings: differences in the model's `evaluation` section: max_prompts=64, sampler={"steps": 20}.

        Raises:
            UserError: as `drtune.evaluate`.
        """
        changed = {"evaluation": settings, "reward_checkpoints": reward_checkpoints or {}}
        return evaluate(
            self.folder,
            self.prompts_folder,
            out or self._beside("report"),
            champion=champion,
            references=references,
            overrides=list(overrides(changed, _no_function)),
            overwrite=overwrite,
        )

    def publish(self, name: str, *, policy: str | Path | Mapping[str, Any], registry: str = REGISTRY) -> RegistryEntry:
        """Put the model into a registry as a new version, if its evaluation satisfies a policy.

        What was not yet evaluated is now.

        Args:
            name: of the model, in lower-case letters, digits and dashes.
            policy: a YAML file, or what would stand in one (configs/gate.yaml is the miniature's).
            registry: a folder, file:// or s3://bucket/prefix.

        Raises:
            UserError: the policy refuses it, with the reasons; or something cannot be used.
        """
        with in_python():
            rules = validated(Policy, policy) if isinstance(policy, Mapping) else Policy.read(policy)
            report, decision = self._beside("report"), self._beside("decision")
            if not (report / MANIFEST).exists():
                self.evaluate()
            with claimed(decision, "Decision", overwrite=True, inputs=[report]) as place, replacing(place) as folder:
                write_decision(EvaluationReport.load(report), report, rules, folder)
            return Registry(registry).publish(name, self.folder, report, decision)

    def _beside(self, what: str) -> Path:
        return Path(f"{self.folder}.{what}")


evaluate = in_python()(run.evaluate)
"""`drtune.evaluation.run.evaluate`, whose errors speak of keywords."""
compare_seeds = in_python()(seeds.compare_seeds)
"""`drtune.evaluation.seeds.compare_seeds`, likewise."""


def short_name(reward: str) -> str:
    """A reward's name without the path of its file.

    >>> short_name("runs/cat.rewards/warm.py:warm")
    'warm'
    """
    return reward.rpartition(":")[2]


def _no_function(function: object) -> str:
    raise UserError(f"evaluation: {function!r} is a function; a tuned model takes a reward as FILE.py:FUNCTION")
