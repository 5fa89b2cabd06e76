"""The page that raters see: one file that loads nothing, sends nothing, and does not know who drew what."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from drtune.contracts import GRADES, Study, StudyPair
from drtune.errors import UserError
from drtune.files.images import UnusablePictureError, open_picture, resized

JPEG_QUALITY = 90


def render(study: Study, parts: Sequence[Sequence[StudyPair]], pictures: dict[tuple[str, str, int], str]) -> str:
    """The page as HTML.

    It holds opaque ids, prompts and pictures; no prompt can become markup, and its policy runs no script but its own.

    Args:
        study: its id, protocol, questions and whether ties are an answer; all else stays out of the page.
        parts: its pairs; each rater gets the parts in this order and a part's pairs in an order of her own.
        pictures: data URIs by contestant, prompt and number, in an order that tells nothing.
    """
    numbers = {key: number for number, key in enumerate(pictures)}
    data = {
        "study": study.id,
        "choices": _choices(study),
        "pictures": list(pictures.values()),
        "questions": [{"name": name, "text": text} for name, text in study.asked.items()],
        "graded": study.protocol == "grades",
        "parts": [
            [
                {
                    "id": pair.id,
                    "prompt": pair.prompt,
                    "left": numbers[pair.left, pair.prompt, pair.picture],
                    "right": numbers[pair.right, pair.prompt, pair.picture],
                }
                for pair in part
            ]
            for part in parts
        ],
    }
    style, script = _own("page.css"), _own("page.js")
    return _template().render(
        question=study.question,
        num_asked=len(study.asked),
        grades=GRADES if study.protocol == "grades" else (),
        ties=study.ties and study.protocol == "choice",
        num_pairs=len(study.pairs),
        data=data,
        style=Markup(style),
        script=Markup(script),
        style_hash=_policy_hash(style),
        script_hash=_policy_hash(script),
    )


def _choices(study: Study) -> list[str]:
    """All answers that a vote may hold, as the page's buttons name them."""
    if study.protocol == "grades":
        return [str(number) for number, _ in enumerate(GRADES, start=1)]
    return ["left", "right", *(["tie"] if study.ties else [])]


def encode(path: Path, side: int, kind: str) -> str:
    """The picture in a file as a data URI with its longer side at `side` pixels or just below, and no metadata.

    Args:
        path: of the picture's file.
        side: in pixels.
        kind: png or jpeg; one for all pictures of a study, or it would tell them apart. JPEG comes in exactly `side`.

    Raises:
        UserError: it is missing, or no picture.
    """
    # A new picture of the bare pixels: comments and profiles would travel along and could name the contestant.
    bare = Image.fromarray(np.asarray(_opened(path)))
    if max(bare.size) < side and kind == "jpeg":
        scale = side / max(bare.size)
        bare = bare.resize((round(bare.width * scale), round(bare.height * scale)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    options = {"optimize": True} if kind == "png" else {"quality": JPEG_QUALITY}
    resized(bare, side).save(buffer, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def longer_side(path: Path) -> int:
    """Of the picture in a file, in pixels; raises as `encode`."""
    return max(_opened(path).size)


def _opened(path: Path) -> Image.Image:
    """As the rewards see it."""
    if not path.exists():
        raise UserError(f"{path}: is missing, though the report names it; evaluate again")
    try:
        return open_picture(path).convert("RGB")
    except UnusablePictureError as error:
        raise UserError(f"{path}: is no picture that can be opened ({error}); evaluate again") from None


def _policy_hash(text: str) -> str:
    """What a content security policy calls an inline text that may be used."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _own(name: str) -> str:
    return resources.files("drtune.evaluation.study").joinpath(name).read_text("utf-8")


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_own("page.html.jinja"))
