"""docs/training-jobs.md names every key of configs/cluster.yaml with its default."""

import re
from pathlib import Path

from components.train.spec import ElasticSection, JobSpec

PAGE = (Path(__file__).parents[2] / "docs" / "training-jobs.md").read_text(encoding="utf-8")


def test_every_key_is_described_and_no_other() -> None:
    section = PAGE.partition("## configs/cluster.yaml")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    described = {key for row in rows for key in re.findall(r"`([\w.]+)`", row)}
    keys = JobSpec.model_fields.keys() - {"elastic"} | {f"elastic.{key}" for key in ElasticSection.model_fields}
    assert described == keys


def test_the_defaults_are_those_of_the_code() -> None:
    for key in ("start_timeout_seconds", "run_timeout_seconds", "grace_seconds", "restarts", "alone_seconds"):
        assert f"| `{key}` | {JobSpec.model_fields[key].default} |" in PAGE
