"""What an evaluation draws and measures, and the processes that do it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

from drtune.config import Config
from drtune.contracts import TunedModel
from drtune.evaluation.capability.exam import open_exam
from drtune.evaluation.comparison import BASE, CANDIDATE
from drtune.evaluation.contestants import (
    AnyContestant,
    DrawnContestant,
    LoadedModel,
    ReferenceContestant,
    drawn_contestants,
)
from drtune.evaluation.gathering import CAPABILITY, Batch, batches_of, left
from drtune.evaluation.measures import Gauges
from drtune.evaluation.strength import other_strengths
from drtune.files.progress import Progress
from drtune.lifetime import SECONDS_BETWEEN_LOOKS, ending_with_us
from drtune.prompts.prepare import Prompt
from drtune.prompts.shots import shots_of

Helper = subprocess.Popen[bytes]


class Work:
    """All that is drawn and measured, as each process of an evaluation has it loaded.

    Args:
        config: the candidate's; without a height or width it is given the base's own.
        folder: of the candidate, `model`.
        champion: folder of the TunedModel that the candidate would replace.
        prompts: that are drawn for.
        references: who bring their pictures.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        model: TunedModel,
        champion: str | Path | None,
        prompts: Sequence[Prompt],
        references: Sequence[ReferenceContestant] = (),
    ) -> None:
        self.prompts, self.exam = prompts, open_exam(config)
        tasks = self.exam.prompts if self.exam else ()
        self.loaded = LoadedModel(config, [prompt.text for prompt in (*prompts, *tasks)])
        drawn = drawn_contestants(self.loaded, config.evaluation, folder, model, champion)
        self.contestants: list[AnyContestant] = [*drawn, *references]
        self.others: list[DrawnContestant] = list(other_strengths(config, self.contestants))
        self.gauges = Gauges(config, folder)
        base = self.loaded.become(model.base_model, model.base_revision)  # minutes, where all else is there
        self.pipeline: dict[str, Any] = {
            "height": base.height,
            "width": base.width,
            "pipeline": type(base.pipeline).__name__,
            "scheduler": type(base.pipeline.scheduler).__name__,
            "num_truncated": base.count_truncated([prompt.text for prompt in prompts]),
        }
        self.config = config.model_copy(update={"height": self.loaded.height, "width": self.loaded.width})

    @property
    def everybody(self) -> list[AnyContestant]:
        """In the order in which they are drawn: the other strengths while the candidate's adapter is on the base."""
        return [*self.contestants[:2], *self.others, *self.contestants[2:]]

    def batches(self, folder: Path) -> list[Batch]:
        """All that is made in `folder`.

        The other strengths draw for the curve's prompts alone; base and candidate sit the exam, too.
        """
        settings = self.config.evaluation
        shots = shots_of(self.prompts, settings.pictures_per_prompt)
        few = [shot for shot in shots if shot.index < self.config.scale_prompts]
        batches = []
        for one in self.everybody:
            wanted = few if one in self.others else shots
            batches += batches_of(one, wanted, self.gauges, folder, settings.batch_size)
            if self.exam and one.name in (BASE, CANDIDATE):
                tasks = shots_of(self.exam.prompts, 1)
                batches += batches_of(one, tasks, self.exam, folder / CAPABILITY, settings.batch_size)
        return batches


def make_all(work: Work, batches: Sequence[Batch], helping: Sequence[Helper] = ()) -> None:
    """Make what is not there yet, with the helpers' help; what one that failed has left is made here."""

    def tell(**shown: str) -> None:
        progress.update(_pictures_made(batches) - progress.done, **shown)

    total = sum(len(batch.shots) for batch in batches)
    with Progress("evaluate", total, "image", done=_pictures_made(batches)) as progress:
        for batch in chain(left(batches, 0, 1 + len(helping)), _left_by(helping, batches, tell)):
            if not batch.contestant.draws:
                work.loaded.close()  # pictures that are brought may be large, and need the memory to be measured
            batch.make()
            tell(contestant=batch.contestant.name)


def _left_by(helping: Sequence[Helper], batches: Sequence[Batch], tell: Callable[[], None]) -> Iterator[Batch]:
    """What is not made once all helpers have ended."""
    for helper in helping:
        while helper.poll() is None:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            tell()
        if helper.returncode:
            print(f"evaluate: a process ended with exit code {helper.returncode}; going on without", file=sys.stderr)
    tell()
    yield from left(batches)


def _pictures_made(batches: Sequence[Batch]) -> int:
    return sum(len(batch.shots) for batch in batches if batch.is_made)


@contextmanager
def helpers(batches: Sequence[Batch], arguments: Sequence[str], processes: int) -> Iterator[list[Helper]]:
    """Within, further processes take their shares, this one being the first of so many; none where little is left.

    They end with this process at the latest.

    Args:
        batches: of the evaluation.
        arguments: of drtune/evaluation/worker.py, but for the share.
        processes: in all, at most.
    """
    count = min(processes, len({batch.number for batch in batches if batch.contestant.draws and not batch.is_made}))
    command = [sys.executable, "-m", "drtune.evaluation.worker", *arguments, f"--count={count}"]
    helping: list[Helper] = []
    with ExitStack() as running, ending_with_us(helping):
        for share in range(1, count):
            child = subprocess.Popen([*command, f"--share={share}"], stdout=DEVNULL, stderr=DEVNULL)
            helping.append(running.enter_context(child))
        yield helping
