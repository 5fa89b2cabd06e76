"""Several trainings that differ in their seed: intervals over prompts and seeds, what is compared, and the gate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.coverage import coverage_of_seeds, coverage_of_shares_by_seed
from drtune.cli.main import main
from drtune.cli.seeds import seeds_of
from drtune.config import load_config
from drtune.contracts import ANSWERS, Capability, Decision, EvaluationReport, SeedGain, SeedRun, SeedsResult
from drtune.errors import UserError
from drtune.evaluation.capability.shares import score_of
from drtune.evaluation.seeds import as_markdown, compare_seeds
from drtune.evaluation.statistics import crossed_interval, crossed_shares
from drtune.files.local import sha256_bytes, sha256_file, write_text
from drtune.publishing.gate import decide
from drtune.publishing.policy import Policy, Rules, SeedRules
from tests.reports import report_of, save_report, score, tuned_model


def test_the_interval_is_that_of_the_mean_squares_and_satterthwaites_degrees() -> None:
    values = np.random.default_rng(0).normal(size=(4, 12)) + np.arange(4)[:, None] + np.arange(12) / 3
    table = pd.DataFrame(values).stack().reset_index().set_axis(["seed", "prompt", "y"], axis=1)
    total = table["y"].var(ddof=1) * 47
    seeds = ((table.groupby("seed")["y"].mean() - table["y"].mean()) ** 2).sum() * 12
    prompts = ((table.groupby("prompt")["y"].mean() - table["y"].mean()) ** 2).sum() * 4
    mean_squares = seeds / 3, prompts / 11, (total - seeds - prompts) / 33
    combined = mean_squares[0] + mean_squares[1] - mean_squares[2]
    freedom = combined**2 / (mean_squares[0] ** 2 / 3 + mean_squares[1] ** 2 / 11 + mean_squares[2] ** 2 / 33)
    wanted = stats.t.interval(0.95, freedom, loc=values.mean(), scale=np.sqrt(combined / 48))
    assert crossed_interval(values) == pytest.approx(wanted, rel=1e-5)


def test_seeds_that_agree_leave_the_interval_over_prompts_and_seeds_that_differ_widen_it() -> None:
    prompts = np.random.default_rng(1).normal(size=30)
    low, high = crossed_interval(np.stack([prompts] * 3))
    assert (low, high) == pytest.approx(
        stats.t.interval(0.95, 29, loc=prompts.mean(), scale=stats.sem(prompts)), rel=1e-5
    )
    wider = crossed_interval(np.stack([prompts - 1, prompts, prompts + 1]))
    assert wider[0] < low < high < wider[1]
    assert crossed_interval(np.full((3, 5), 0.25)) == (0.25, 0.25)
    with pytest.raises(ValueError, match="needs two of each"):
        crossed_interval(np.zeros((1, 9)))


@given(st.integers(2, 5), st.integers(2, 9), st.floats(-5, 5), st.integers(0, 99))
def test_what_is_added_to_every_gain_is_added_to_both_ends(seeds: int, prompts: int, more: float, draw: int) -> None:
    values = np.random.default_rng(draw).normal(size=(seeds, prompts))
    assert crossed_interval(values + more) == pytest.approx([end + more for end in crossed_interval(values)], abs=1e-6)


@pytest.mark.parametrize(("spread", "seeds"), [(0.0, 3), (0.3, 5), (1.0, 5)])
def test_the_interval_holds_the_truth_as_often_as_it_says(spread: float, seeds: int) -> None:
    assert 0.925 <= coverage_of_seeds(spread, seeds, 64, 1500) <= 0.975


def test_a_difference_of_shares_is_never_sure_where_all_seeds_and_prompts_agree() -> None:
    low, high = crossed_shares(np.zeros((3, 48)))
    assert -0.1 < low < -0.02
    assert high == pytest.approx(-low)
    values = np.random.default_rng(2).integers(-1, 2, size=(3, 20))
    more = np.column_stack([values, [1, 1, 1], [-1, -1, -1]])
    assert crossed_shares(values) == pytest.approx(crossed_interval(more))
    assert crossed_shares(-np.ones((3, 8)))[0] == -1
    assert coverage_of_shares_by_seed(0.08, 0.03, 3, 64, 1000) >= 0.94


def sit_exam(folder: Path, base: Sequence[int], candidate: Sequence[int], judge: str = "probe") -> Capability:
    """Answers in the folder of a report: 1 where a picture is right; the first half of the prompts asks for colours."""
    (folder / ANSWERS).parent.mkdir(parents=True)
    lines = [
        {
            "contestant": name,
            "prompt": f"task {place}",
            "category": "colors" if place < len(base) / 2 else "counting",
            "right": bool(right),
        }
        for name, row in (("base", base), ("candidate", candidate))
        for place, right in enumerate(row)
    ]
    write_text(folder / ANSWERS, "".join(json.dumps(line) + "\n" for line in lines))
    pairs = list(zip(base, candidate, strict=True))
    overall = score_of(None, len(base), base=float(np.mean(base)), gained=pairs.count((0, 1)), lost=pairs.count((1, 0)))
    return Capability(judge=judge, provenance="sha256 5e0f", scores=(overall,), lost=())


def write_report(
    folder: Path, seed: int, gains: Sequence[float], *overrides: str, weights: int | None = None, **fields: Any
) -> EvaluationReport:
    """A report of a training with that seed, of a picture a prompt, whose candidate gains so much on each."""
    rows = [
        {
            "contestant": name,
            "prompt": f"prompt {place}",
            "symmetry": 0.1 * place + (gain if name == "candidate" else 0),
        }
        for name in ("base", "candidate")
        for place, gain in enumerate(gains)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(folder / "scores.parquet", index=False)
    write_text(folder / "config.yaml", load_config(None, [f"seed={seed}", *overrides]).to_yaml())
    sha256 = sha256_bytes(f"weights {seed if weights is None else weights}".encode())
    report = report_of(score(), num_prompts=len(gains), model=tuned_model(weights_sha256=sha256), **fields)
    return save_report(report, folder)


def test_gains_are_paired_by_prompt_and_told_by_seed(tmp_path: Path) -> None:
    gains = np.random.default_rng(2).normal(0.2, 0.1, size=(3, 20))
    reports = [
        write_report(tmp_path / str(seed), seed, row.tolist()) for seed, row in zip((4, 0, 7), gains, strict=True)
    ]
    result = compare_seeds([tmp_path / str(seed) for seed in (4, 0, 7)], tmp_path / "result")
    assert SeedsResult.load(tmp_path / "result") == result
    assert [run.seed for run in result.runs] == [4, 0, 7]
    assert [run.report_sha256 for run in result.runs] == [one.manifest_sha256 for one in reports]
    [gain] = result.gains
    assert gain.by_seed == pytest.approx(gains.mean(axis=1))
    assert (gain.low, gain.high) == pytest.approx(crossed_interval(gains))
    assert gain.deviation == pytest.approx(gains.mean(axis=1).std(ddof=1))
    row = f"| symmetry | +{gain.gain:.3f} | +{gain.low:.3f} to +{gain.high:.3f} |"
    assert row in " ".join(as_markdown(result).split())
    hostile = result.model_copy(update={"gains": (gain.model_copy(update={"measure": "a|<b>"}),)})
    assert r"| a\|&lt;b&gt; " in as_markdown(hostile)


def test_the_shares_of_compositional_prompts_are_pooled_over_seeds_and_by_category(tmp_path: Path) -> None:
    right = np.random.default_rng(5).integers(2, size=(4, 20))
    base, *candidates = right.tolist()
    for seed, candidate in enumerate(candidates):
        exam = sit_exam(tmp_path / str(seed), base, candidate)
        write_report(tmp_path / str(seed), seed, [0.1] * 20, capability=exam)
    result = compare_seeds([tmp_path / str(seed) for seed in range(3)], tmp_path / "result")
    gained = right[1:] - right[0]
    for gain, part in (
        (result.gain("capability"), gained),
        (result.gain("capability colors"), gained[:, :10]),
        (result.gain("capability counting"), gained[:, 10:]),
    ):
        assert gain is not None
        assert gain.num_prompts == part.shape[1]
        assert gain.by_seed == pytest.approx(part.mean(axis=1))
        assert (gain.low, gain.high) == pytest.approx(crossed_shares(part))
    assert "| capability counting | " in (tmp_path / "result" / "result.md").read_text(encoding="utf-8")


THIRD = '"base", "prompt": "task 3", "category": "colors", "right":'


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda folder: (folder / ANSWERS).unlink(),
            r"1/capability/answers\.jsonl: is gone, or is not what its report",
        ),
        (lambda folder: (folder / ANSWERS).write_text("no"), "is not what its report counted; evaluate again"),
        (lambda folder: other_answers(folder, f"{THIRD} true", f"{THIRD} false"), "is not what its report counted"),
        (lambda folder: other_answers(folder, "task 3", "task x"), "not of the same compositional prompts and judge"),
        ("vqascore", "not of the same compositional prompts and judge of them; evaluate all alike"),
        (None, "not of the same compositional prompts and judge of them"),
    ],
)
def test_answers_that_cannot_be_pooled_are_refused(tmp_path: Path, spoil: Any, message: str) -> None:
    right = [1] * 8
    write_report(tmp_path / "0", 0, [0.1] * 20, capability=sit_exam(tmp_path / "0", right, right))
    judge = spoil if isinstance(spoil, str) else "probe"
    exam = sit_exam(tmp_path / "1", right, right, judge) if spoil else None
    write_report(tmp_path / "1", 1, [0.1] * 20, capability=exam)
    if callable(spoil):
        spoil(tmp_path / "1")
    with pytest.raises(UserError, match=message):
        compare_seeds([tmp_path / "0", tmp_path / "1"], tmp_path / "result")
    assert not (tmp_path / "result").exists()


def other_answers(folder: Path, before: str, after: str) -> None:
    text = (folder / ANSWERS).read_text(encoding="utf-8")
    write_text(folder / ANSWERS, text.replace(before, after))


def test_of_two_seeds_nothing_is_said_of_others(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_report(tmp_path / str(seed), seed, [0.1 * seed] * 20)
    [gain] = compare_seeds([tmp_path / "0", tmp_path / "1"], tmp_path / "result").gains
    assert (gain.gain, gain.low, gain.high) == (pytest.approx(0.05), None, None)


@pytest.mark.parametrize(
    ("seed", "overrides", "fields", "message"),
    [
        (0, [], {}, r"of seed 0, as .*0 is; give each seed once"),
        (1, ["steps=9"], {}, r"differ in more than their seed: steps \(9 here, 80 there\)"),
        (1, ["evaluation.seed=3"], {}, r"differ in more than their seed: evaluation.seed"),
        (1, [], {"prompts": True}, "are not of the same prompts and base"),
        (1, [], {"weights": 0}, r"have the same weights: one training; give a report of each seed's own"),
    ],
)
def test_what_differs_in_more_than_its_seed_is_refused(
    tmp_path: Path, seed: int, overrides: list[str], fields: dict[str, Any], message: str
) -> None:
    write_report(tmp_path / "0", 0, [0.1] * 20)
    count, weights = 19 if "prompts" in fields else 20, fields.get("weights", seed)
    write_report(tmp_path / "other", seed, [0.1] * count, *overrides, weights=weights)
    with pytest.raises(UserError, match=message):
        compare_seeds([tmp_path / "0", tmp_path / "other"], tmp_path / "result")
    assert not (tmp_path / "result").exists()
    with pytest.raises(UserError, match="1 report given"):
        compare_seeds([tmp_path / "0"], tmp_path / "result")


def test_seeds_on_two_commits_of_a_base_are_refused_by_both(tmp_path: Path) -> None:
    old, new = "4a1b" * 10, "9c3d" * 10
    for seed, commit in enumerate((old, new)):
        write_report(tmp_path / str(seed), seed, [0.1] * 20, "base_model=owner/name", f"base_revision={commit}")
    with pytest.raises(UserError, match=rf"in more than their seed: base_revision \({new} here, {old} there\)"):
        compare_seeds([tmp_path / "0", tmp_path / "1"], tmp_path / "result")


def test_seeds_are_counted_or_named() -> None:
    assert seeds_of(None, None, "3") == [0, 1, 2]
    assert seeds_of(None, None, "5, 0") == [5, 0]
    for text, message in (("1", "two different"), ("0,0", "two different"), ("a", "neither"), ("2,-1", "neither")):
        refused = CliRunner().invoke(main, ["seeds", "run", f"--seeds={text}"])
        assert (refused.exit_code, f"Invalid value for '--seeds': '{text}'" in refused.output) == (2, True)
        assert message in refused.output


def result_of(low: float | None, *reports: EvaluationReport) -> SeedsResult:
    high = None if low is None else low + 0.1
    gain = SeedGain(measure="symmetry", num_prompts=20, by_seed=(0.2,) * 3, gain=0.2, low=low, high=high, deviation=0.0)
    digests = [report.manifest_sha256 for report in reports]
    runs = [SeedRun(seed=place, weights_sha256="", report_sha256=digest) for place, digest in enumerate(digests)]
    return SeedsResult(runs=tuple(runs), gains=(gain,))


def policy_of(**rules: Any) -> Policy:
    seeds = SeedRules(**{"min_gain": {"symmetry": 0.1}} | rules)
    return Policy(min_prompts=8, against={"base": {"symmetry": Rules(min_gain=0.1)}}, seeds=seeds)


TOLD = "symmetry over 3 seeds: gain 0.2000"
ONE, TWO, THREE = (report_of(score(), num_prompts=count) for count in (20, 21, 22))


@pytest.mark.parametrize(
    ("low", "rules", "refused"),
    [
        (0.1, {}, []),
        (0.09, {}, [f"{TOLD} (95 % interval 0.0900 to 0.1900), at least 0.1 wanted at its low end"]),
        (None, {}, [f"{TOLD} (95 % interval nan to nan), at least 0.1 wanted at its low end"]),
        (0.1, {"min_seeds": 4}, ["3 seeds, at least 4 wanted"]),
        (0.1, {"min_gain": {"hps": 0}}, ["hps over seeds: not among them; add it to evaluation.rewards"]),
        (
            0.1,
            {"min_gain": {"capability counting": -0.1}},
            ["capability counting over seeds: not among them; set evaluation.capability.prompts"],
        ),
    ],
)  # fmt: skip
def test_the_low_end_over_prompts_and_seeds_is_what_the_gate_reads(
    low: float | None, rules: dict[str, Any], refused: list[str]
) -> None:
    decision = decide(ONE, policy_of(**rules), seeds=result_of(low, ONE, TWO, THREE))
    assert [check.reason for check in decision.checks if not check.passed] == refused


def test_the_candidate_is_the_seed_that_the_policy_names_and_never_another() -> None:
    seeds = result_of(0.2, ONE, TWO, THREE)
    assert decide(TWO, policy_of(candidate=1), seeds=seeds).publish
    with pytest.raises(UserError, match="the policy names seed 0, at place 0, and this report is another's"):
        decide(TWO, policy_of(), seeds=seeds)
    with pytest.raises(UserError, match="names the seed at place 3 of 3; correct"):
        decide(ONE, policy_of(candidate=3), seeds=seeds)
    plain = Policy(min_prompts=8, against={"base": {"symmetry": Rules(min_gain=0.1)}})
    with pytest.raises(UserError, match="no section `seeds`"):
        decide(ONE, plain, seeds=seeds)
    assert (
        decide(ONE, policy_of()).reasons[0].startswith("failed: seeds: the policy wants several, and none were given")
    )


@given(low=st.floats(-1, 1), more=st.floats(0, 1), bound=st.floats(-1, 1))
def test_more_gain_over_seeds_is_never_refused_where_less_passed(low: float, more: float, bound: float) -> None:
    policy = policy_of(min_gain={"symmetry": bound})
    less, better = (decide(ONE, policy, seeds=result_of(one, ONE, TWO, THREE)).publish for one in (low, low + more))
    assert better or not less


def test_the_commands_compare_decide_and_show(tmp_path: Path) -> None:
    gains = np.random.default_rng(3).normal(0.3, 0.02, size=(3, 20))
    for seed, row in enumerate(gains):
        exam = sit_exam(tmp_path / str(seed), [1] * 40, [1] * 40)
        write_report(tmp_path / str(seed), seed, row.tolist(), capability=exam)
    folders = [str(tmp_path / str(seed)) for seed in range(3)]
    runner, out = CliRunner(), str(tmp_path / "result")
    compared = runner.invoke(main, ["seeds", "compare", *folders, f"--out={out}"])
    assert compared.exit_code == 0, compared.output
    assert "| symmetry | +0.30" in " ".join(compared.output.split())
    policy = tmp_path / "gate.yaml"
    policy.write_text(
        "min_prompts: 8\nagainst: {base: {symmetry: {min_gain: 0.1}}}\n"
        "seeds: {min_gain: {symmetry: 0.2, capability colors: -0.3}}"
    )
    told = [
        "decide",
        f"--report={folders[0]}",
        f"--policy={policy}",
        f"--seeds={out}",
        f"--out={tmp_path / 'decision'}",
    ]
    decided = runner.invoke(main, told)
    assert decided.exit_code == 0, decided.output
    assert Decision.load(tmp_path / "decision").seeds_sha256 == sha256_file(tmp_path / "result" / "manifest.json")
    page = (tmp_path / "decision" / "report.html").read_text(encoding="utf-8")
    assert ("Other seeds" in page, "seed 2" in page) == (True, True)
    assert "<th>capability colors</th>" in page
    assert "| Over 3 seeds |" in (tmp_path / "decision" / "report.md").read_text(encoding="utf-8")
    again = runner.invoke(main, ["seeds", "compare", folders[0], folders[0], f"--out={out}", "--overwrite"])
    assert (again.exit_code, "give each seed once" in again.output) == (2, True)
