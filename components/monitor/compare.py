"""The checks: which property of the two sides is held against which by what statistic, and what came out, in words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from components.monitor.drift import Measured, NotEnoughDataError, Samples, Statistic, measure
from components.monitor.policy import MonitorPolicy
from drtune.contracts import DriftCheck

if TYPE_CHECKING:
    import pandas as pd

    from drtune.prompts.prepare import Prompt

SEED = 0
"""Of samples and embeddings."""
DIMENSIONS = 32
"""Of the embeddings; fewer where there are fewer words."""
PER_CATEGORY = 10
"""With fewer prompts a category, equal sources differ in their shares too much by chance."""
STATISTICS: dict[Statistic, str] = {
    "wasserstein": "Wasserstein distance in standard deviations of the reference",
    "rise": "rise of the mean",
    "jensenshannon": "Jensen-Shannon distance",
    "auc": "ROC AUC",
    "mmd": "squared maximum mean discrepancy",
}


@dataclass(frozen=True)
class Made:
    """A check, with what Evidently shows of it if there was enough data."""

    check: DriftCheck
    measured: Measured | None


@dataclass(frozen=True)
class _Question:
    """A check to be made: the threshold comes from the policy, `minimum` is the least number of rows on each side."""

    name: str
    subject: Literal["prompts", "rewards"]
    statistic: Statistic
    threshold: float
    minimum: int


def compare_prompts(reference: Sequence[Prompt], incoming: Sequence[Prompt], policy: MonitorPolicy) -> list[Made]:
    """Each check of prompts that the policy has a threshold for, on at most `policy.max_prompts` of each side."""
    left, right = (sample(table, policy.max_prompts) for table in describe(reference, incoming))
    thresholds = policy.thresholds
    wanted: dict[str, tuple[Statistic, float | None]] = {
        "characters": ("wasserstein", thresholds.characters),
        "words": ("wasserstein", thresholds.words),
        "new words": ("rise", thresholds.new_words),
        "categories": ("jensenshannon", thresholds.categories),
        "text domain": ("auc", thresholds.text_domain),
        "embeddings": ("mmd", thresholds.embeddings),
    }
    return [
        _make(
            _Question(name, "prompts", statistic, threshold, policy.min_prompts),
            left[["text domain" if statistic == "mmd" else name]],
            right[["text domain" if statistic == "mmd" else name]],
        )
        for name, (statistic, threshold) in wanted.items()
        if threshold is not None
    ]


def compare_scores(release: pd.DataFrame, now: pd.DataFrame, policy: MonitorPolicy) -> list[Made]:
    """A check of each reward that one of the tables has or the policy names; without any, one check that says so."""
    if (threshold := policy.thresholds.rewards) is None:
        return []
    left, right = (sample(table, policy.max_scores) for table in (release, now))
    names = list(dict.fromkeys([*left.columns, *right.columns, *policy.rewards]))
    if not names:
        question = _Question("rewards", "rewards", "wasserstein", threshold, policy.min_scores)
        return [_undecided(question, "neither table has a column with scores")]
    return [
        _make(
            _Question(f"reward {name}", "rewards", "wasserstein", threshold, policy.min_scores),
            left.reindex(columns=[name]).set_axis([f"reward {name}"], axis=1),
            right.reindex(columns=[name]).set_axis([f"reward {name}"], axis=1),
        )
        for name in names
    ]


def describe(reference: Sequence[Prompt], incoming: Sequence[Prompt]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row for each prompt and a column for each check.

    "new words" is the share, in [0, 1], of a prompt's words that stand in no prompt of the reference; for a prompt of
    the reference, in no other. Equal sources have equal means, however large the vocabulary. What is not known, as the
    category of a prompt without one, is missing, and left out of its check.
    """
    words = [[_words(prompt.text) for prompt in side] for side in (reference, incoming)]
    seen = Counter(word for prompt in words[0] for word in set(prompt))
    return _table(reference, words[0], seen, usual=1), _table(incoming, words[1], seen, usual=0)


def _table(prompts: Sequence[Prompt], words: list[list[str]], seen: Counter[str], usual: int) -> pd.DataFrame:
    import pandas as pd

    new = [[seen[word] <= usual for word in prompt] for prompt in words]
    return pd.DataFrame(
        {
            "characters": pd.Series([len(prompt.text) for prompt in prompts], dtype=float),
            "words": pd.Series([len(prompt) for prompt in words], dtype=float),
            "new words": pd.Series([sum(each) / len(each) if each else None for each in new], dtype=float),
            "categories": pd.Series([prompt.category or None for prompt in prompts], dtype=object),
            "text domain": pd.Series([prompt.text for prompt in prompts], dtype=object),
        }
    )


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def sample(table: pd.DataFrame, size: int) -> pd.DataFrame:
    """At most `size` rows in their order, chosen by a fixed seed."""
    return table if len(table) <= size else table.sample(size, random_state=SEED).sort_index()


def embed(reference: list[str], incoming: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Latent semantic analysis: TF-IDF of words, a truncated SVD of both sides together, rows of length 1.

    Deerwester et al. 1990, "Indexing by Latent Semantic Analysis", JASIS 41. It needs no weights and no torch; two
    prompts are near when they share words, or words that go together.

    Raises:
        NotEnoughDataError: the prompts have fewer than three different words.
    """
    import pandas as pd
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    try:
        weights = TfidfVectorizer(sublinear_tf=True).fit_transform([*reference, *incoming])
    except ValueError:
        raise NotEnoughDataError("the prompts have no words") from None
    if (num_words := weights.shape[1]) < 3:
        raise NotEnoughDataError(f"the prompts have {num_words} different words, 3 wanted")
    svd = TruncatedSVD(min(DIMENSIONS, num_words - 1), random_state=SEED)
    vectors = pd.DataFrame(normalize(svd.fit_transform(weights)))
    vectors.columns = [f"component {number}" for number in vectors.columns]
    return vectors[: len(reference)], vectors[len(reference) :].reset_index(drop=True)


def _make(question: _Question, left: pd.DataFrame, right: pd.DataFrame) -> Made:
    """Make one check of one column, or say why not."""
    left, right = left.dropna(), right.dropna()
    try:
        if min(len(left), len(right)) < question.minimum:
            of = " with a category" if question.statistic == "jensenshannon" else ""
            raise NotEnoughDataError(
                f"{len(left)}{of} in the reference and {len(right)} now, {question.minimum} wanted on each side"
            )
        [column] = left.columns
        reason = _REASONS[question.statistic](left[column], right[column])
        if question.statistic == "mmd":
            left, right = embed(list(left[column]), list(right[column]))
        measured = measure(Samples(question.name, question.statistic, question.threshold, left, right))
    except NotEnoughDataError as error:
        return _undecided(question, str(error))
    return Made(_check(question, reason, measured.value), measured)


def _undecided(question: _Question, reason: str) -> Made:
    return Made(_check(question, f"not enough data: {reason}", None), None)


def _check(question: _Question, reason: str, value: float | None) -> DriftCheck:
    return DriftCheck(
        name=question.name,
        subject=question.subject,
        statistic=STATISTICS[question.statistic],
        value=value,
        threshold=question.threshold,
        drifted=None if value is None else value >= question.threshold,
        reason=reason,
    )


def _numbers(left: pd.Series, right: pd.Series) -> str:
    if left.nunique() == 1:
        raise NotEnoughDataError(f"every value of the reference is {left.iloc[0]:.4g}: no spread to measure by")
    return f"mean {right.mean():.4g}, against {left.mean():.4g} in the reference"


def _shares(left: pd.Series, right: pd.Series) -> str:
    return f"{right.mean():.1%} of a prompt's words are new, {left.mean():.1%} is usual in the reference"


def _categories(left: pd.Series, right: pd.Series) -> str:
    names = sorted({*left, *right})
    if len(names) == 1:
        raise NotEnoughDataError(f"all prompts are of one category, {names[0]!r}")
    if len(names) * PER_CATEGORY > min(len(left), len(right)):
        raise NotEnoughDataError(
            f"{len(names)} categories are too many for {min(len(left), len(right))} prompts, "
            f"{PER_CATEGORY} a category wanted"
        )
    before, after = left.value_counts(normalize=True), right.value_counts(normalize=True)
    moved = max(names, key=lambda name: abs(after.get(name, 0.0) - before.get(name, 0.0)))
    return (
        f"{moved!r} moved most, to {after.get(moved, 0.0):.1%} from {before.get(moved, 0.0):.1%} of the prompts "
        f"({len(names)} categories)"
    )


def _classifier(_left: pd.Series, _right: pd.Series) -> str:
    return "how well a classifier tells the two sides apart by their words; 0.5 is chance, 1 is always"


def _vectors(_left: pd.Series, _right: pd.Series) -> str:
    return "between embeddings of the prompts (TF-IDF and truncated SVD); 0 is chance"


_REASONS = {
    "wasserstein": _numbers,
    "rise": _shares,
    "jensenshannon": _categories,
    "auc": _classifier,
    "mmd": _vectors,
}
