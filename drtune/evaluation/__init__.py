"""The evaluation: the tuned model against its base, the champion and references, on the same held-out prompts."""

from drtune.evaluation.run import evaluate as evaluate
