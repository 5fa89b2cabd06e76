"""Evidently: the statistics of two samples, and the page that shows them. No other file knows it.

Evidently is told which statistic to take, and asked for its value; whether that is a drift is said elsewhere.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

Statistic = Literal["wasserstein", "rise", "jensenshannon", "auc", "mmd"]
_METHODS: dict[Statistic, str] = {
    "wasserstein": "wasserstein",
    "rise": "rise",
    "jensenshannon": "jensenshannon",
    "auc": "abs_text_content_drift",
}
"""Evidently's names of the statistics of one column."""


@dataclass(frozen=True)
class Samples:
    """What is compared by one check: a column on both sides, or for "mmd" all columns as a vector a row."""

    name: str
    statistic: Statistic
    threshold: float
    reference: pd.DataFrame
    incoming: pd.DataFrame


@dataclass(frozen=True)
class Measured:
    """The value of the statistic, and Evidently's widgets for it."""

    value: float
    widgets: list[Any]


class NotEnoughDataError(Exception):
    """A statistic has no value for these samples, or there are too few; the message says which."""


def measure(samples: Samples) -> Measured:
    """Ask Evidently for the statistic of two samples without missing values.

    - "wasserstein": first Wasserstein distance divided by the standard deviation of the reference.
    - "rise": mean of the incoming minus mean of the reference.
    - "jensenshannon": Jensen-Shannon distance (natural logarithm) of the shares of values, in [0, sqrt(ln 2)].
    - "auc": ROC AUC, on the half that it was not fitted to, of a linear classifier over TF-IDF of the words. Words that
      more than half of all prompts have are left out, so that it is blind to what every incoming prompt has in common.
    - "mmd": squared maximum mean discrepancy, unbiased, Gaussian kernel of median width; Gretton et al. 2012, JMLR 13,
      "A Kernel Two-Sample Test", lemma 6.

    Raises:
        NotEnoughDataError: the statistic is not defined for these samples, as for text without words.
    """
    with _quiet():
        try:
            measured = _vectors(samples) if samples.statistic == "mmd" else _column(samples)
        except ValueError as error:
            raise NotEnoughDataError(" ".join(str(error).split())) from None
    if not math.isfinite(measured.value):
        raise NotEnoughDataError("the statistic is not defined for these samples")
    return measured


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the deprecations inside of Evidently, and without divisions by zero: what is not finite is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _column(samples: Samples) -> Measured:
    from evidently import DataDefinition, Dataset, Report
    from evidently.legacy.calculations.stattests import StatTest, register_stattest
    from evidently.legacy.core import ColumnType
    from evidently.metrics import ValueDrift

    # Evidently has no statistic that knows a direction.
    register_stattest(StatTest("rise", "Rise of the mean", [ColumnType.Numerical]), default_impl=_rise)
    [column] = samples.reference.columns
    definition = {
        "auc": DataDefinition(text_columns=[column]),
        "jensenshannon": DataDefinition(categorical_columns=[column]),
    }.get(samples.statistic, DataDefinition(numerical_columns=[column]))
    metric = ValueDrift(column=column, method=_METHODS[samples.statistic], threshold=samples.threshold)
    snapshot = Report([metric]).run(
        Dataset.from_pandas(samples.incoming, data_definition=definition),
        Dataset.from_pandas(samples.reference, data_definition=definition),
    )
    [result] = snapshot.metric_results.values()
    return Measured(float(result.value), result.get_widgets())


def _vectors(samples: Samples) -> Measured:
    """As Evidently's EmbeddingsDrift, without its picture: t-SNE takes half a minute and differs from run to run."""
    from evidently.legacy.renderers.html_widgets import CounterData, counter
    from evidently.metrics.embeddings import MMDDriftMethod

    value, drifted, _ = MMDDriftMethod(threshold=samples.threshold)(samples.incoming, samples.reference)
    text = f"Data drift {'detected' if drifted else 'not detected'}. Drift detection method: mmd. "
    text += f"Drift score: {value:.3f}"
    return Measured(float(value), [counter(counters=[CounterData(text, f"Drift in {samples.name}")])])


def _rise(reference: pd.Series, incoming: pd.Series, _kind: object, threshold: float) -> tuple[float, bool]:
    value = float(incoming.mean() - reference.mean())
    return value, value >= threshold


def render(head: str, measured: list[Measured]) -> str:
    """One HTML page that asks nothing of the network: `head`, which is HTML, then all measurements.

    Evidently writes samples of prompts and the names of categories into a script as they are, so that a prompt could
    end the script and start its own; here no `<` of theirs is left in it.
    """
    with _quiet():
        from evidently.core.metric_types import render_widgets

        lines = render_widgets([widget for each in measured for widget in each.widgets]).split("\n")
    data = [number for number, line in enumerate(lines) if line.startswith(("    var metric_", "    var additional_"))]
    if len(data) != 2:
        raise RuntimeError("Evidently's page is laid out anew: its data was not found, and cannot be made safe to show")
    for number in data:  # in JSON a `<` can stand in strings only, and newlines nowhere
        lines[number] = lines[number].replace("<", "\\u003c")
    body = next(number for number, line in enumerate(lines) if line.strip() == "<body>")
    lines.insert(body + 1, head)
    return "\n".join(lines)
