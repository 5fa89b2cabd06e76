"""Whose a mirror is, and which side is further on; tests/integration/test_mirror.py has what is fetched and pushed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from drtune.errors import UserError
from drtune.files.output import MARK, mark
from drtune.files.storage import Storage, open_storage
from drtune.training.mirror import SHARDS, Mirror

EARLY, LATE = "checkpoints/step-000002-0123456789ab.safetensors", "checkpoints/step-000010-0123456789ab.safetensors"


def write(folder: Path, *keys: str, text: str = "") -> None:
    for key in keys:
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_text(text or key)


@pytest.fixture
def store(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "store"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    mark(tmp_path / "run", "TrainingRun")
    return tmp_path / "run"


def test_a_mirror_is_of_one_run_alone(tmp_path: Path, run: Path, store: Storage) -> None:
    mirror = Mirror(run, store)
    mirror.refuse_another_run()  # of nothing
    mirror.announce()
    mirror.refuse_another_run()  # of this one
    Mirror(tmp_path / "new machine", store).refuse_another_run()
    (tmp_path / "other").mkdir()
    mark(tmp_path / "other", "TrainingRun")
    with pytest.raises(UserError, match=r"is of another run than .*other; give another place"):
        Mirror(tmp_path / "other", store).refuse_another_run()
    (tmp_path / "other" / MARK).unlink()
    write(tmp_path / "other", "manifest.json")
    with pytest.raises(UserError, match="is of another run"):
        Mirror(tmp_path / "other", store).refuse_another_run()


def test_another_machine_takes_the_mark_and_is_of_the_run_from_then_on(
    tmp_path: Path, run: Path, store: Storage
) -> None:
    Mirror(run, store).announce()
    other = Mirror(tmp_path / "new machine", store)
    other.join()
    assert (other.folder / MARK).read_bytes() == (run / MARK).read_bytes()
    write(other.folder, EARLY)
    other.refuse_another_run()
    other.join()
    write(tmp_path / "stale", EARLY)
    with pytest.raises(UserError, match=r"is of another run than .*stale; give another place"):
        Mirror(tmp_path / "stale", store).join()
    assert not (tmp_path / "stale" / MARK).exists()


@pytest.mark.parametrize("key", ["manifest.json", "holiday.jpg"])
def test_what_is_no_run_is_never_mirrored_over(key: str, run: Path, store: Storage) -> None:
    store.write(key, b"of a report")
    with pytest.raises(UserError, match="holds something else than a run; give an empty place"):
        Mirror(run, store).refuse_another_run()
    assert store.read(key) == b"of a report"


def test_the_newest_whole_checkpoint_tells_which_side_is_ahead(run: Path, store: Storage) -> None:
    mirror = Mirror(run, store)
    assert not mirror.is_ahead()
    write(run, EARLY)
    assert mirror.is_ahead()
    store.write(EARLY, b"")
    assert not mirror.is_ahead()
    store.write(LATE, b"")
    assert not mirror.is_ahead()
    folder = "checkpoints/step-000012-0123456789ab"
    write(run, f"{folder}/{SHARDS}", text=json.dumps({"sha256": {"a": "1", "b": "2"}}))
    write(run, f"{folder}/a")
    assert not mirror.is_ahead()  # another machine has the other shard
    write(run, f"{folder}/b")
    assert mirror.is_ahead()


def test_fetching_takes_away_what_would_count_and_nothing_else(run: Path, store: Storage) -> None:
    store.write(MARK, (run / MARK).read_bytes())
    store.write(EARLY, b"")
    write(run, "notes.txt", "manifest.json", LATE)
    Mirror(run, store).fetch()
    assert {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()} == {MARK, EARLY, "notes.txt"}


def test_files_that_cannot_be_listed_are_not_taken_away_from_the_store(run: Path, store: Storage) -> None:
    write(run, EARLY)
    mirror = Mirror(run, store)
    mirror.push(must=True)
    shutil.rmtree(run)
    run.write_text("a file, where the folder was: reading it as a folder fails as reading one that is forbidden does")
    with pytest.raises(OSError, match="Not a directory"):
        mirror.push(must=True)
    assert store.keys() == [EARLY, MARK]
