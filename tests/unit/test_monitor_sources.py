"""What monitoring reads: prompts and tables of scores, from files, folders and prompt sets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from components.monitor.run import judge
from components.monitor.sources import observed, read_prompts, read_scores
from drtune.errors import UserError
from drtune.files.local import sha256_file
from drtune.prompts.prepare import prepare


def test_a_folder_is_read_whole_and_what_is_not_taken_is_counted(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_text("a cat\n\na dog\n", encoding="utf-8")
    (tmp_path / "deep/b.csv").write_text("prompt,style\nA Cat,x\na fox,y\n", encoding="utf-8")
    (tmp_path / "c.json").write_text("{}", encoding="utf-8")
    (tmp_path / "_SUCCESS").touch()
    read = read_prompts("incoming", tmp_path.as_uri())
    assert [(each.text, each.category) for each in read.prompts] == [("a cat", ""), ("a dog", ""), ("a fox", "y")]
    assert observed(read).problems == {
        "duplicate": 1,
        "empty": 1,
        "file that cannot be read": 1,
        "not a prompts file": 1,
    }
    assert (observed(read).count, read.num_files) == (3, 3)


def test_of_a_prompt_set_the_training_half_is_the_reference(tmp_path: Path) -> None:
    source = tmp_path / "prompts.jsonl"
    rows = [{"text": "a cat", "split": "train"}, {"text": "a dog", "split": "eval"}]
    source.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    prepared = prepare(source, tmp_path / "set")
    trained = read_prompts("reference", str(tmp_path / "set"))
    assert [each.text for each in trained.prompts] == ["a cat"]
    assert trained.source.sha256 == prepared.sha256
    assert [each.text for each in read_prompts("incoming", str(tmp_path / "set")).prompts] == ["a cat", "a dog"]
    file = read_prompts("incoming", str(source))
    assert (observed(file).count, file.source.sha256) == (2, sha256_file(source))


def test_both_layouts_of_scores_are_read(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("image,prompt,category,hps,problem\na,a,,0.3,\nb,b,,,corrupt\nc,c,,inf,\n", "utf-8")
    read = read_scores("scores", str(tmp_path / "s.csv"))
    assert read.table["hps"].fillna(-1).tolist() == [0.3, -1]
    assert read.observed.problems == {"corrupt": 1}
    rows = {"contestant": ["base", "candidate"], "prompt": "a", "category": "", "picture": 0, "image": "i"}
    beside = ["luminance", "contrast", "saturation", "sharpness", "drift", "drift_pixels"]
    rows |= dict.fromkeys([*beside, "diversity_within", "diversity_across"], 0.5)
    pd.DataFrame({**rows, "hps": [0.1, 0.2], "own": [[1], [2]]}).to_parquet(tmp_path / "scores.parquet")
    read = read_scores("scores", str(tmp_path / "scores.parquet"))
    assert read.table.to_dict("list") == {"hps": [0.2]}
    assert read.observed.problems == {"column own that is no known reward": 1}
    read = read_scores("scores", str(tmp_path / "scores.parquet"), named=["own"])
    assert read.observed.problems == {"column own that is not of numbers": 1}
    (tmp_path / "looks.csv").write_text("image,prompt,category,sharpness,hps\na,a,,7,0.3\n", "utf-8")
    assert list(read_scores("scores", str(tmp_path / "looks.csv")).table) == ["hps"]


def test_only_rewards_that_are_known_or_named_are_compared(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for name, start in {"release.csv": 0, "now.csv": 300}.items():
        columns = {"hps": draw.normal(0.25, 0.02, 300), "m.py:own": draw.normal(size=300), "seed": start, "mine": start}
        table = pd.DataFrame({"image": "0.png", "prompt": "p", **columns, "problem": ""})
        table.index += start
        table.to_csv(tmp_path / name)  # with the index, as pandas does unless told otherwise
    (tmp_path / "p.txt").write_text("\n".join(f"a cat number {number}" for number in range(30)), encoding="utf-8")
    policy = yaml.safe_load((Path(__file__).parents[2] / "configs/monitor.yaml").read_text(encoding="utf-8"))
    compared = []
    for named in ([], ["mine"]):
        (tmp_path / "policy.yaml").write_text(yaml.safe_dump(policy | {"min_prompts": 20, "rewards": named}))
        files = [str(tmp_path / name) for name in ("p.txt", "p.txt", "now.csv", "release.csv", "policy.yaml")]
        verdict, _ = judge(*files)
        compared.append({check.name for check in verdict.checks if check.subject == "rewards"})
        assert verdict.outcome == "stable"
        assert verdict.scores is not None
        assert verdict.scores.problems["column Unnamed: 0 that is no known reward"] == 1
    known = {"reward hps", "reward m.py:own"}
    assert compared == [known, {*known, "reward mine"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [("s.csv", b""), ("s.parquet", b"no"), ("s.csv", b"a,b\n1,2,3\n1,2,3,4"), ("s.csv", b"\xff\xfe")],
)
def test_a_table_that_cannot_be_read_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"scores .*{name}: cannot be read as a table"):
        read_scores("scores", str(tmp_path / name))


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    for uri in (f"{tmp_path}/x.txt", f"file://{tmp_path}/x.txt", "x.txt"):
        with pytest.raises(UserError, match=r"incoming .*x\.txt: not there"):
            read_prompts("incoming", uri)
    with pytest.raises(UserError, match=r"reference .*/x: no such folder"):
        read_prompts("reference", str(tmp_path / "x"))
    with pytest.raises(UserError, match=r"scores .*: wanted a table"):
        read_scores("scores", str(tmp_path))
    with pytest.raises(UserError, match=r"scores: not given, and a\.csv has nothing to be compared with"):
        judge("a.txt", "b.txt", "", "a.csv", "configs/monitor.yaml")
