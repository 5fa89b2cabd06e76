"""Making a study: from a report's pictures to a page for raters and the key to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from drtune.contracts import EvaluationReport, Protocol, Study, StudyPair
from drtune.errors import UserError
from drtune.evaluation.study.defaults import CONTESTANTS, PROTOCOL, QUESTIONS, REPEAT, SEED, SIDE, TEXTS, TIES
from drtune.evaluation.study.design import Place, Scores, design, read_pictures
from drtune.evaluation.study.page import encode, longer_side, render
from drtune.files.local import replacing, sha256_bytes, write_text
from drtune.files.output import claimed

PAGE = "index.html"
MAX_PNG_SIDE = 128
"""If all pictures are as small as this, every pixel counts and they come as PNG; else as JPEG, which is far smaller."""
MAX_PAGE_BYTES = 18_000_000
"""Mail of 25 MB, the common limit, carries no more, since attachments grow by a third on their way."""


def make(
    report: str | Path,
    out: str | Path,
    *,
    contestants: Sequence[str] = CONTESTANTS,
    count: int | None = None,
    seed: int = SEED,
    repeat: float = REPEAT,
    protocol: Protocol = PROTOCOL,
    questions: Sequence[str] = QUESTIONS,
    ties: bool = TIES,
    side: int = SIDE,
    overwrite: bool = False,
) -> Study:
    """Write a blinded page with questions about a report's pictures to `out`, and the key to it beside it.

    The same report and arguments make the same study. The draws hang on the report's digest as well as on the seed, so
    that nobody who has only the page can work them out.

    Args:
        report: folder of an EvaluationReport.
        out: folder for `index.html` and `manifest.json`.
        contestants: of the report, two or more; every two of them are compared.
        count: questions, repeats not counted; None: 60, or all that can be asked if those are fewer.
        seed: of the choice of prompts, the sides and the order, at least 0.
        repeat: share of the questions that is asked a second time with the sides swapped, in [0, 1].
        protocol: `choice` of the better picture, or `grades` from 1 (bad) to 4 (excellent) for each of the two.
        questions: asked of each pair in this order: "overall", "alignment", "look", or a text of your own.
        ties: whether "no difference" is an answer to a choice.
        side: longer side of the pictures in the page, in pixels.
        overwrite: replace what stands at `out`.

    Raises:
        UserError: an argument or the report cannot be used, the page would be too large, or something stands at `out`.
    """
    report = Path(report)
    _check(contestants, seed, repeat, side)
    (_, question), *further = _texts(protocol, questions).items()
    with claimed(out, "Study", overwrite=overwrite, inputs=[report]) as out:
        report_sha256 = EvaluationReport.load(report).manifest_sha256
        pictures, categories, scores = read_pictures(report, contestants)
        rng = np.random.default_rng([seed, int(report_sha256, 16)])
        places = {contestant: list(files) for contestant, files in pictures.items()}
        parts = design(places, categories, count=count, repeat=repeat, rng=rng)
        pairs = tuple(_scored(pair, scores) for part in parts for pair in part)

        unnamed = Study(
            id="",
            question=question,
            further=dict(further),
            protocol=protocol,
            ties=ties,
            seed=seed,
            contestants=tuple(contestants),
            pairs=pairs,
            report_sha256=report_sha256,
        )
        study = unnamed.model_copy(update={"id": unnamed.manifest_sha256[:16]})
        page = render(study, parts, _encoded(pictures, pairs, side, rng))
        study = study.model_copy(update={"page_sha256": sha256_bytes(page.encode())})
        with replacing(out) as folder:
            folder.mkdir()
            write_text(folder / PAGE, page)
            study.save(folder)
        return study


def _check(contestants: Sequence[str], seed: int, repeat: float, side: int) -> None:
    if len(set(contestants)) < 2 or len(set(contestants)) < len(contestants):
        raise UserError(f"contestants {', '.join(contestants)}: give two or more, each once")
    if seed < 0:
        raise UserError(f"seed={seed}: give a number that is not negative")
    if not 0 <= repeat <= 1:
        raise UserError(f"repeat={repeat}: give a share from 0 to 1")
    if side < 32:
        raise UserError(f"side={side}: too small to judge by; give at least 32 pixels")


def _texts(protocol: Protocol, questions: Sequence[str]) -> dict[str, str]:
    """What is asked, by name; a text of one's own is its name.

    Raises:
        UserError: there is none, or one is asked twice, is not one line, or is a word that names none.
    """
    known = TEXTS.get(protocol)
    if known is None:
        raise UserError(f"protocol {protocol!r}: give one of {', '.join(TEXTS)}")
    if not questions or len(set(questions)) < len(questions):
        raise UserError(f"questions {', '.join(questions)}: give one or more, each once")
    for question in questions:
        if not question.strip() or not question.isprintable():
            raise UserError(f"question {question!r}: is not one line of text; say what the raters should tell")
        if question not in known and question.isascii() and question.isidentifier():
            raise UserError(f"question {question!r}: give {', '.join(known)}, or a whole sentence of your own")
    return {question: known.get(question, question) for question in questions}


def _scored(pair: StudyPair, scores: Scores) -> StudyPair:
    """The pair with what the rewards that scored both of its pictures gave them."""
    left, right = (scores[name, pair.prompt, pair.picture] for name in (pair.left, pair.right))
    both = {reward: (left[reward], right[reward]) for reward in left if reward in right}
    return pair.model_copy(update={"scores": both})


def _encoded(
    pictures: dict[str, dict[Place, Path]], pairs: Sequence[StudyPair], side: int, rng: np.random.Generator
) -> dict[tuple[str, str, int], str]:
    """Every picture that the pairs show, once, in an order that is drawn; all in one format and of one size.

    Raises:
        UserError: one cannot be opened, or together they are too large for the page.
    """
    shown = sorted({(name, pair.prompt, pair.picture) for pair in pairs for name in (pair.left, pair.right)})
    files = {(name, prompt, number): pictures[name][prompt, number] for name, prompt, number in shown}
    longest = max(longer_side(path) for path in files.values())
    kind, shown_side = ("png", side) if longest <= MAX_PNG_SIDE else ("jpeg", min(side, longest))
    encoded = {}
    for index in rng.permutation(len(shown)):
        encoded[shown[index]] = encode(files[shown[index]], shown_side, kind)
    if (size := sum(map(len, encoded.values()))) > MAX_PAGE_BYTES:
        fraction = MAX_PAGE_BYTES / size
        num_asked = sum(pair.repeats is None for pair in pairs)
        raise UserError(
            f"page: would take {size / 1e6:.0f} MB, more than the {MAX_PAGE_BYTES / 1e6:.0f} MB that can be mailed; "
            f"give --side {int(shown_side * fraction**0.5 * 0.95)} or --count {int(num_asked * fraction * 0.95)}"
        )
    return encoded
