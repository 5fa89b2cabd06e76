"""Small valid folders of the steps: a tuned model, its report and the decision on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import Image

from drtune.config import load_config
from drtune.contracts import (
    CONFIG,
    MANIFEST,
    Check,
    Contestant,
    DataSource,
    Decision,
    EvaluationReport,
    Highlight,
    PromptSet,
)
from drtune.files.local import sha256_bytes, sha256_file
from tests.reports import report_of, score, tuned_model


class Folders(NamedTuple):
    """What the publish step takes."""

    model: Path
    report: Path
    decision: Path

    def report_on(self, report: EvaluationReport) -> None:
        """Put a report in the place of the one that is there, and the same decision on it."""
        report.save(self.report)
        decision = Decision.load(self.decision)
        decision.model_copy(update={"report_sha256": report.manifest_sha256}).save(self.decision)


def make_folders(
    root: Path,
    *,
    weights: Literal["lora", "full"] = "lora",
    content: bytes = b"weights one",
    base_model: str = "miniature",
    base_revision: str | None = None,
    publish: bool = True,
    seed: int = 7,
    settings: Sequence[str] = (),
    champion: str | None = None,
    is_unopposed: bool = False,
) -> Folders:
    folders = Folders(root / "model", root / "report", root / "decision")
    config = load_config(
        None,
        [f"base_model={base_model}", f"weights={weights}", "rewards.symmetry=1.0", "rewards.preference=0.5", *settings],
    )
    model = tuned_model(
        weights=weights,
        weights_sha256=sha256_bytes(content),
        base_model=base_model,
        base_revision=base_revision,
        config_sha256=config.sha256(),
        prompts=PromptSet(
            sha256="1c3e" * 16,
            num_train=2000,
            num_eval=400,
            categories={"anime": 1200, "photo": 1200},
            problems={},
            source=DataSource(path="data/sdxl.jsonl", sha256="9f2c" * 16, git_revision="4a1b" * 10, dvc_md5="d751" * 8),
        ),
        code_revision="77aa" * 10,
    )
    for path in model.files:
        (folders.model / path).parent.mkdir(parents=True, exist_ok=True)
        (folders.model / path).write_bytes(content)
    (folders.model / CONFIG).write_text(config.to_yaml(), encoding="utf-8")
    model.save(folders.model)
    (folders.report).mkdir()
    (folders.report / "scores.parquet").write_bytes(b"scores")
    report = report_of(
        score("symmetry", gain=0.27, margin=0.02, win_rate=0.95, opponent_mean=0.56),
        score("symmetry", gain=0.11, category="anime"),
        score("brightness", gain=-0.1, margin=0.02),
        model=model,
        num_prompts=192,
    ).model_copy(update={"prompts_sha256": "2d4f" * 16, "seed": seed})
    if champion:
        beaten = Contestant(name="champion", role="champion", source="champion", sha256=champion, num_pictures=384)
        report = report.model_copy(update={"contestants": (*report.contestants, beaten)})
    report.save(folders.report)
    folders.decision.mkdir()
    (folders.decision / "report.html").write_text("<h1>Before and after</h1>", encoding="utf-8")
    Decision(
        publish=publish,
        checks=(
            Check(passed=True, reason="symmetry: gain 0.27, at least 0.10 wanted"),
            Check(passed=publish, reason="brightness: not lost"),
        ),
        report_sha256=sha256_file(folders.report / MANIFEST),
        policy_sha256="c7aa" * 16,
        is_unopposed=is_unopposed,
    ).save(folders.decision)
    return folders


def with_highlights(report: EvaluationReport, folder: Path) -> EvaluationReport:
    """The report with four prompts that gained and two that lost, and a picture of one colour for each side of each."""
    (folder / "thumbnails").mkdir()

    def highlight(index: int) -> Highlight:
        thumbnails = {}
        for blue, contestant in ((0, "base"), (255, "candidate")):
            thumbnails[contestant] = f"thumbnails/{index}-{contestant}.png"
            Image.new("RGB", (32, 32), (index, 0, blue)).save(folder / thumbnails[contestant])
        return Highlight(
            prompt=f"prompt {index}", category="", gain=-0.1 if index > 3 else 0.1, values={}, thumbnails=thumbnails
        )

    highlights = tuple(map(highlight, range(6)))
    return report.model_copy(update={"gained": highlights[:4], "lost": highlights[4:]})
