"""Compositional prompts judged by a vision-language model, which is asked for each thing by itself."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from drtune.prompts.compositional import AnyTask
from drtune.prompts.prepare import Prompt
from drtune.rewards import Reward, score_finished


class AskedJudge:
    """A reward that is the probability of yes to "does this picture show X": each X of a prompt is asked by itself.

    So does TIFA with questions (Hu et al. 2023, arXiv 2303.11897), and VQAScore with whole prompts.
    """

    def __init__(self, reward: Reward, tasks: Sequence[AnyTask]) -> None:
        self.reward = reward
        self.tasks = {task.prompt: task for task in tasks}

    @property
    def name(self) -> str:
        """The reward's."""
        return self.reward.name

    @property
    def provenance(self) -> str:
        """The reward's."""
        return self.reward.provenance

    @property
    def prompts(self) -> list[Prompt]:
        """Those of the tasks."""
        return [Prompt(task.prompt, task.tag) for task in self.tasks.values()]

    def answers(
        self, pictures: Sequence[Image.Image], images_BCHW: Tensor, prompts: Sequence[str]
    ) -> list[dict[str, float]]:
        """As `Judge`, a question after the other."""
        told: list[dict[str, float]] = []
        for row, (picture, prompt) in enumerate(zip(pictures, prompts, strict=True)):
            asked = self.tasks[prompt].statements
            images = images_BCHW[row : row + 1].expand(len(asked), -1, -1, -1)
            scores = score_finished(self.reward, [picture] * len(asked), images, asked)
            told.append(dict(zip(asked, scores.double().tolist(), strict=True)))
        return told
