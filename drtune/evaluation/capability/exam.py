"""An exam: prompts that ask for things that can be checked, and a judge who checks them in a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from PIL import Image
from torch import Tensor

from drtune.config import Config
from drtune.errors import UserError
from drtune.evaluation.capability.asked import AskedJudge
from drtune.evaluation.capability.world import WorldJudge
from drtune.prompts.compositional import AnyTask, composed, read_tasks
from drtune.prompts.prepare import Prompt
from drtune.prompts.shots import choose_prompts
from drtune.rewards import reward_of

SURE = 0.5
"""A picture shows something where the judge gives it a higher probability than this."""


class Judge(Protocol):
    """Says what pictures show of that for which their prompts ask."""

    @property
    def name(self) -> str:
        """How a report calls it."""

    @property
    def provenance(self) -> str:
        """What its answers hang on besides picture and question."""

    @property
    def prompts(self) -> Sequence[Prompt]:
        """What it can check, each in its category."""

    def answers(
        self, pictures: Sequence[Image.Image], images_BCHW: Tensor, prompts: Sequence[str]
    ) -> Sequence[Mapping[str, float]]:
        """For each picture what its prompt asks for, and the probability that it shows this.

        `images_BCHW` are the pictures in RGB and [0, 1]; `prompts` are among its own.
        """


class Exam:
    """A judge, asked about the pictures of an evaluation: read as `gathering.Reader` says."""

    def __init__(self, judge: Judge, count: int) -> None:
        self.judge = judge
        self.prompts = choose_prompts(judge.prompts, count)

    def read(
        self, pictures: Sequence[Image.Image], images_BCHW: Tensor, prompts: Sequence[str], names: Sequence[str]
    ) -> list[dict[str, Any]]:
        """For each picture whether it is right in all that its prompt asks for, and the answers in JSON.

        Raises:
            UserError: an answer is not finite; the picture is named.
        """
        told = self.judge.answers(pictures, images_BCHW, prompts)
        for name, answers in zip(names, told, strict=True):
            if unusable := [asked for asked, answer in answers.items() if not math.isfinite(answer)]:
                raise UserError(
                    f"judge {self.judge.name}: its answer on {unusable[0]!r} is not finite for {name}; look at that "
                    "picture, or at the judge"
                )
        return [
            {"right": all(answer > SURE for answer in answers.values()), "answers": json.dumps(dict(answers))}
            for answers in told
        ]


def partial_judge(exam: Exam | None, config: Config) -> tuple[str, ...]:
    """That the judge is no judge, where it was what was tuned on."""
    if exam and exam.judge.name in config.rewards:
        return (f"compositional prompts are judged by {exam.judge.name}, which was tuned on: their share says little",)
    return ()


def open_exam(config: Config) -> Exam | None:
    """The exam that the configuration asks for, its judge's weights loaded; None where it asks for none.

    Raises:
        UserError: the file of prompts cannot be used, or the judge's weights are not to be had.
    """
    count, settings = config.capability_prompts, config.evaluation.capability
    if not count:
        return None
    if (name := settings.judge_of(config.base_model)) == "probe":
        return Exam(WorldJudge(count), count)
    tasks: Sequence[AnyTask] = read_tasks(settings.file) if settings.file else composed(count)
    return Exam(AskedJudge(reward_of(config, name), tasks), count)
