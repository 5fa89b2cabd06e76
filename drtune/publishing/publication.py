"""What is published together: a model, the report on it, the decision for it, and the card that tells of them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from drtune.config import load_config
from drtune.contracts import CONFIG, MANIFEST, SCORES, Decision, EvaluationReport, TunedModel
from drtune.errors import UserError
from drtune.evaluation.report.pages import PAGE
from drtune.files.local import check_digest, sha256_folder
from drtune.publishing.model_card import PICTURE, draw_picture, render_model_card

REPORT = f"evaluation/{MANIFEST}"
PICTURES = f"evaluation/{SCORES}"
CARD = "README.md"


@dataclass(frozen=True)
class Publication:
    """A model, its report and its decision, which belong together, and the folders that hold them."""

    model: TunedModel
    report: EvaluationReport
    decision: Decision
    model_folder: Path
    report_folder: Path
    decision_folder: Path

    @classmethod
    def load(cls, model_folder: str | Path, report_folder: str | Path, decision_folder: str | Path) -> Self:
        """Read the three manifests.

        Raises:
            UserError: the decision is against publishing, or the report is on another model.
        """
        model = TunedModel.load(model_folder)
        report = EvaluationReport.load(report_folder)
        decision = Decision.load(decision_folder)
        if not decision.publish:
            failed = "; ".join(check.reason for check in decision.checks if not check.passed)
            raise UserError(f"decision {decision_folder}: is against publishing: {failed}")
        if report.model != model:
            raise UserError(f"report {report_folder}: is about another model than {model_folder}; evaluate this one")
        return cls(model, report, decision, Path(model_folder), Path(report_folder), Path(decision_folder))

    def gather(self, name: str, folder: Path) -> dict[str, str]:
        """Copy what is published into one empty folder, with a card for the model's `name`; digests by path there.

        Raises:
            UserError: a file is missing, or is not the one that a manifest names.
        """
        sources = {
            MANIFEST: self.model_folder / MANIFEST,
            **{path: self.model_folder / path for path in self.model.files},
            REPORT: self.report_folder / MANIFEST,
            PICTURES: self.report_folder / SCORES,
            "evaluation/report.html": self.decision_folder / PAGE,
            "decision.json": self.decision_folder / MANIFEST,
        }
        for path, source in sources.items():
            (folder / path).parent.mkdir(exist_ok=True)
            try:
                shutil.copyfile(source, folder / path)
            except OSError as error:
                raise UserError(f"{source}: cannot be copied for publication ({error.strerror})") from None
        self._check_digests(sha256_folder(folder))
        draw_picture(self.report, self.report_folder, folder / PICTURE)
        card = render_model_card(name, self.model, self.report, self.decision, load_config(folder / CONFIG))
        (folder / CARD).write_text(card, encoding="utf-8")
        return sha256_folder(folder)

    def _check_digests(self, files: dict[str, str]) -> None:
        wanted = [
            *((path, sha256, "the model's manifest") for path, sha256 in self.model.digests.items()),
            (REPORT, self.decision.report_sha256, "the decision"),
            (PICTURES, self.report.scores_sha256, "the report"),
        ]
        for path, sha256, owner in wanted:
            check_digest(path, files[path], sha256, owner=owner, fix="make it again")
