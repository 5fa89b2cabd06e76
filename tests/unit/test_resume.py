"""When a run on this machine goes on: only as what it was begun."""

import json
from pathlib import Path

import pytest

from components.process import EARLIER, take_up
from drtune.errors import UserError
from drtune.files.output import locked
from drtune.publishing.registry import Registry
from pipelines.local.resume import begin, check_same, state_of
from tests.folders import make_folders

NAME = "tried"


def arguments(folder: Path, **changes: object) -> dict[str, object]:
    paths = {name: str(folder / name) for name in ("prompts", "config", "policy", "registry")}
    given = {"overrides": [f"rewards={{{folder}/mine.py:fn: 1}}"], "references": [f"mj={folder / 'pictures'}"]}
    return paths | given | {"name": NAME} | changes


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A folder with all that a run hangs on, which has begun in out/."""
    for name in ("prompts", "config", "policy", "mine.py", "pictures/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("seed: 1" if name == "config" else name)
    (tmp_path / "out").mkdir()
    begin(tmp_path / "out", state_of(arguments(tmp_path), tmp_path / "out"))
    return tmp_path


def again(folder: Path, **changes: object) -> None:
    out = folder / "out"
    check_same(out, state_of(arguments(folder, **changes), out))


def test_what_is_unchanged_goes_on_and_what_never_began_starts(begun: Path) -> None:
    again(begun)
    check_same(begun / "elsewhere", state_of(arguments(begun), begun / "elsewhere"))


@pytest.mark.parametrize("name", ["prompts", "config", "policy", "mine.py", "pictures/1.png"])
def test_another_content_is_named(name: str, begun: Path) -> None:
    (begun / name).write_text("seed: 2")
    wanted = rf"was begun with another content of {begun / name.partition('/')[0]} \(\w{{12}}, now \w{{12}}\)"
    with pytest.raises(UserError, match=f"{wanted}; give the same, or start again with --overwrite"):
        again(begun)


def test_another_argument_is_named(begun: Path) -> None:
    with pytest.raises(UserError, match=r"was begun with another name \(tried, now other\)"):
        again(begun, name="other")


def publish_in(folder: Path, content: bytes) -> None:
    Registry(str(folder / "registry")).publish(NAME, *make_folders(folder / content.decode(), content=content))


def test_another_version_in_production_is_named_unless_it_is_its_own(begun: Path) -> None:
    publish_in(begun, b"own")
    with pytest.raises(UserError, match=r"another version in production \(None, now v1\)"):
        again(begun)
    (begun / "out" / "model").symlink_to(begun / "own" / "model")  # killed behind its publication
    again(begun)
    publish_in(begun, b"other")
    with pytest.raises(UserError, match=r"another version in production \(None, now v2\)"):
        again(begun)


def earlier(tmp_path: Path) -> tuple[Path, Path, dict[str, str]]:
    """What a step left, where it goes on, and the environment that says so."""
    left, out = tmp_path / "tune-1" / "train" / "model", tmp_path / "tune-2" / "train" / "model"
    for folder in (left, out.parent):
        folder.mkdir(parents=True)
    (left / "metrics.jsonl").write_text(json.dumps({}))
    return left, out, {EARLIER: str(tmp_path / "tune-1")}


def test_a_step_takes_up_what_it_left(tmp_path: Path) -> None:
    left, out, environment = earlier(tmp_path)
    take_up(out, {})
    assert left.exists()
    take_up(out, environment)
    assert (out / "metrics.jsonl").exists()
    assert not left.exists()
    take_up(out, environment)


def test_a_step_takes_what_it_left_last_past_a_try_that_left_nothing(tmp_path: Path) -> None:
    left, _, environment = earlier(tmp_path)
    (tmp_path / "tune-2" / "train").mkdir(exist_ok=True)
    out = tmp_path / "tune-3" / "train" / "model"
    out.parent.mkdir(parents=True)
    take_up(out, {EARLIER: f"{tmp_path / 'tune-2'}\n{environment[EARLIER]}"})
    assert (out / "metrics.jsonl").exists()
    assert not left.exists()


def test_a_step_takes_nothing_from_a_process_that_still_writes(tmp_path: Path) -> None:
    left, out, environment = earlier(tmp_path)
    with locked(left), pytest.raises(UserError, match="is being written by process"):
        take_up(out, environment)
    assert left.exists()
