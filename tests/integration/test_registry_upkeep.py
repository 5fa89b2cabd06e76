"""What a registry says of its own versions, and what is cleared away in it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from drtune.cli.main import main
from drtune.errors import UserError
from drtune.files.storage import Storage, open_storage
from drtune.publishing.registry import Registry
from tests.folders import make_folders
from tests.stores import HookedStorage

NAME = "my-model"
TOMORROW = time.time() + 25 * 3600


def test_files_that_belong_to_no_version_are_removed_once_they_are_old(storage: Storage, tmp_path: Path) -> None:
    registry = Registry(storage)
    kept = [registry.publish(NAME, *make_folders(tmp_path / name, content=name.encode())) for name in "ab"]
    published = storage.keys()
    assert registry.clean(now=TOMORROW) == []

    class DeathError(Exception):
        pass

    def die(uploads: int) -> None:
        if uploads == 2:
            raise DeathError

    with pytest.raises(DeathError):
        Registry(HookedStorage(storage, die)).publish(NAME, *make_folders(tmp_path / "c", content=b"c"))
    left = sorted({*storage.keys()} - {*published})
    assert len(left) == 2
    assert registry.clean() == []  # it may be a publication under way
    for dry_run in (True, False):
        assert len(storage.keys()) == len(published) + 2
        (orphan,) = registry.clean(now=TOMORROW, dry_run=dry_run)
        assert orphan.keys == tuple(left)
        assert left[0].startswith(f"{orphan.place}/")
        assert abs(orphan.written - time.time()) < 60
    assert storage.keys() == published
    assert registry.clean(now=TOMORROW) == []
    assert registry.pull(NAME, "v1", tmp_path / "out") == kept[0]


def test_nothing_is_removed_while_a_version_cannot_be_read(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "registry"))
    Registry(storage).publish(NAME, *make_folders(tmp_path / "made"))
    storage.write(f"another/files/{'0' * 32}/README.md", b"")
    storage.write("another/versions/v1.json", b"{}")
    before = storage.keys()
    with pytest.raises(UserError, match=r"another/versions/v1.json is not one of this version of drtune"):
        Registry(storage).clean(now=TOMORROW)
    assert storage.keys() == before


def test_a_publication_removes_what_a_killed_one_left_half_written(tmp_path: Path) -> None:
    root = tmp_path / "registry"
    for name, touched in (("killed.json", 1000.0), ("alive.json", time.time())):
        written = root / NAME / f".{name}.abcdefgh.drtune" / name
        written.parent.mkdir(parents=True)
        written.touch()
        for path in (written, written.parent):
            os.utime(path, (touched, touched))
    Registry(str(root)).publish(NAME, *make_folders(tmp_path / "made"))
    assert [path.name for path in (root / NAME).glob(".*")] == [".alive.json.abcdefgh.drtune"]


def test_a_storage_that_does_not_list_what_it_has_ends_the_publication(tmp_path: Path) -> None:
    """As a server does that stores `a//b` as `a/b`, and is asked for what stands below `a//b`."""

    storage = open_storage(str(tmp_path / "registry"))
    forgetful = HookedStorage(storage, lambda _: None)
    forgetful.keys = lambda _="": []
    Registry(storage).publish(NAME, *make_folders(tmp_path / "one"))
    with pytest.raises(UserError, match=r"versions/v1\.json: the storage says that it is there, and does not list it"):
        Registry(forgetful).publish(NAME, *make_folders(tmp_path / "two", content=b"two"))


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"../escaped": "00"}},
        {"uri": "s3://elsewhere/my-model/files/00"},
        {"model": {"step": 81}},
        {"decision": {"policy_sha256": "00"}},
        {"name": "another"},
    ],
)
def test_a_changed_manifest_is_refused_whatever_was_changed(tmp_path: Path, change: dict[str, Any]) -> None:
    registry = Registry(str(tmp_path / "registry"))
    registry.publish(NAME, *make_folders(tmp_path / "made"))
    path = tmp_path / "registry" / NAME / "versions" / "v1.json"
    content = json.loads(path.read_text())
    for key, value in change.items():
        content[key] = content[key] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"{NAME}/versions/v1.json: is not the one that its digest names"):
        registry.show(NAME)


def test_a_manifest_of_another_kind_is_refused(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "registry"))
    registry.publish(NAME, *make_folders(tmp_path / "made"))
    registry.storage.write(f"{NAME}/versions/v1.json", b"{}")
    with pytest.raises(UserError, match=r"versions/v1.json is not one of this version"):
        registry.pull(NAME, "v1", tmp_path / "out")


def test_a_list_with_nothing_in_it_says_so(tmp_path: Path) -> None:
    place = str(tmp_path / "mistyped")
    for name, said in (((), "nothing is published here\n"), ((NAME,), f"nothing is published here as {NAME}\n")):
        shown = CliRunner().invoke(main, ["registry", "list", *name, "--registry", place])
        assert (shown.exit_code, shown.stdout, shown.stderr) == (0, "", f"registry {place}: {said}")


def test_what_clean_removes_is_told(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "registry"))
    key = f"{NAME}/files/{'0' * 32}/README.md"
    storage.write(key, b"")
    os.utime(tmp_path / "registry" / key, (0, 0))
    command = ["registry", "clean", "--registry", str(tmp_path / "registry")]
    about = f"{NAME}/files/{'0' * 32} (files: 1, the newest of 1970-01-01 00:00 UTC)\n"
    assert CliRunner().invoke(main, [*command, "--dry-run"]).output == f"would be removed: {about}"
    assert CliRunner().invoke(main, command).output == f"removed: {about}"
    assert CliRunner().invoke(main, command).output == "nothing to remove\n"
