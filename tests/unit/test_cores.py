"""How many processes a run takes on this machine."""

import os
from pathlib import Path

import pytest

from drtune.config import Config, load_config
from drtune.contracts import CONFIG
from drtune.models.miniature.cores import cores
from drtune.training.torchrun import settled

HERE = cores()


@pytest.fixture
def one_core() -> object:
    """This process is bound to one core."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("needs Linux")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield None
    os.sched_setaffinity(0, before)


def count(*overrides: str, earlier: Path | None = None) -> int | None:
    return settled(load_config(None, overrides), earlier).processes


def test_the_miniature_takes_as_many_processes_as_cores_that_share_the_batch_evenly() -> None:
    chosen = count()
    assert chosen == max(number for number in (1, 2, 4, 8) if number <= HERE)
    assert count("batch_size=1") == 1
    assert count("batch_size=7") == (7 if HERE >= 7 else 1)
    assert load_config(None, []).processes is None  # what is written down is what was chosen


@pytest.mark.usefixtures("one_core")
def test_cores_that_this_process_is_not_bound_to_do_not_count() -> None:
    assert (cores(), count()) == (1, 1)


@pytest.mark.parametrize(
    "override",
    ["base_model=somewhere/else", "weights=full", "rewards.hps=1.0", "held_out={reward: clipscore, max_drop: 1}"],
)
def test_what_is_large_is_not_loaded_more_than_once(override: str) -> None:
    assert count(override) == 1


def test_a_number_that_is_given_stands() -> None:
    assert count("processes=4") == 4
    assert count("processes=1") == 1


@pytest.mark.parametrize("kept", ["processes=4", "processes=1"])
def test_a_run_that_is_resumed_keeps_its_number(tmp_path: Path, kept: str) -> None:
    (tmp_path / CONFIG).write_text(load_config(None, [kept]).to_yaml())
    assert count(earlier=tmp_path) == load_config(None, [kept]).processes
    assert count("processes=2", earlier=tmp_path) == 2
    assert count(earlier=tmp_path / "nothing") == count()


def test_the_number_is_part_of_what_a_run_records() -> None:
    chosen = settled(Config(), None)
    assert f"processes: {chosen.processes}\n" in chosen.to_yaml()


@pytest.mark.parametrize(
    ("files", "allowed"),
    [
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "150000 100000"}, 1),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "max 100000"}, HERE),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, HERE),
        ({"cpu.max": "100000000 100000"}, HERE),
        ({}, HERE),
    ],
)
def test_a_control_group_may_allow_less(tmp_path: Path, files: dict[str, str], allowed: int) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert cores(tmp_path) == allowed
