"""The recipe of the images, as far as it can be checked without building them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from components.images import USER_ID

ROOT = Path(__file__).parents[2]
RECIPE = re.sub(r"\\\n\s*", " ", (ROOT / "images/Containerfile").read_text(encoding="utf-8"))
RECORDER = '#!/bin/sh\necho "$SOURCE_DATE_EPOCH" "$@" >> "$(dirname "$0")/../built"\n'


def git(*arguments: str, folder: Path = ROOT) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def copies() -> list[tuple[str, list[str]]]:
    """Of every COPY the stage that it copies from, "" for the context, and the paths."""
    found = re.findall(r"^COPY (?:--from=(\S+) )?(.+) \S+$", RECIPE, re.MULTILINE)
    return [(stage, paths.split()) for stage, paths in found]


def mounts() -> list[str]:
    """What a step sees of the context while it runs."""
    return re.findall(r"--mount=type=bind,source=(\S+?),", RECIPE)


def ignored(path: str) -> bool:
    """As .dockerignore says, the last line that fits deciding; it has no other patterns than these."""
    verdict = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if line == "*" or line.lstrip("!") == path:
            verdict = not line.startswith("!")
    return verdict


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    from_commit = [path for stage, paths in copies() if stage == "source" for path in paths if "/source/" in path]
    assert len(from_commit) >= 7
    for path in from_commit:
        assert git("ls-files", path.removeprefix("/source/")), path
    for path in mounts():
        assert (ROOT / path).exists()
        assert not ignored(path)


def test_nothing_but_the_history_comes_from_the_context() -> None:
    assert mounts() == [".git"]
    assert "" not in [stage for stage, _ in copies()]
    assert ignored("drtune")
    assert not re.search(r"^ADD ", RECIPE, re.MULTILINE)


def test_it_runs_as_a_user_without_privileges_given_by_number() -> None:
    assert re.findall(r"^USER (\S+)$", RECIPE, re.MULTILINE) == [f"{USER_ID}:{USER_ID}"]


def test_all_that_an_image_installs_is_pinned() -> None:
    def name(requirement: str) -> str:
        return re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower().replace("_", "-")

    pinned = {
        name(line) for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if "==" in line
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    wanted = [*project["project"]["dependencies"], *extras["pipeline"], *extras["hub"], *extras["train"]]
    assert {name(requirement) for requirement in [*wanted, *project["build-system"]["requires"]]} <= pinned


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "drtune-platform:0.1.0 drtune-trainer:0.1.0"),
        (
            {"DRTUNE_IMAGE_REGISTRY": "registry.example.com/team/", "DRTUNE_IMAGE_TAG": "4a1b"},
            "registry.example.com/team/drtune-platform:4a1b registry.example.com/team/drtune-trainer:4a1b",
        ),
        ({"DRTUNE_IMAGE_REGISTRY": "", "DRTUNE_IMAGE_TAG": ""}, "drtune-platform:0.1.0 drtune-trainer:0.1.0"),
        (
            {"DRTUNE_TRAINER_IMAGE": "registry.example.com/t@sha256:4a1b"},
            "drtune-platform:0.1.0 registry.example.com/t@sha256:4a1b",
        ),
    ],
)
def test_the_environment_says_which_registry_and_build_are_meant(environment: dict[str, str], expected: str) -> None:
    code = "from components.images import *; print(PLATFORM_IMAGE, TRAINER_IMAGE)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == expected


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with a builder that writes down what it is asked."""
    git("clone", "--quiet", str(ROOT), str(tmp_path / "clone"))
    shutil.copy(ROOT / "Makefile", tmp_path / "clone")
    git(
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@example.com",
        "commit",
        "-qam",
        "as it is",
        "--allow-empty",
        folder=tmp_path / "clone",
    )
    builder = tmp_path / "bin" / "builder"
    builder.parent.mkdir()
    builder.write_text(RECORDER)
    builder.chmod(0o755)
    return tmp_path / "clone"


def make_images(clone: Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("make") is None:
        pytest.skip("needs make")
    command = [
        "make",
        "images",
        f"BUILDER={clone.parent}/bin/builder",
        "BUILD_FLAGS=--no-cache",
        f"PYTHON={sys.executable}",
    ]
    environment = os.environ | {"DRTUNE_IMAGE_REGISTRY": "registry.example.com", "DRTUNE_IMAGE_TAG": "4a1b"}
    return subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)


def test_make_images_asks_the_builder_for_both(clone: Path) -> None:
    done = make_images(clone)
    assert done.returncode == 0, done.stderr
    platform, trainer = (clone.parent / "built").read_text().splitlines()
    revision, time = git("log", "-1", "--format=%H %ct", folder=clone).split()
    for asked, name, extras in (
        (platform, "platform", "pipeline,hub"),
        (trainer, "trainer", "pipeline,train,quantized"),
    ):
        assert asked.startswith(
            f"{time} build -f images/Containerfile --no-cache --build-arg BASE=docker.io/library/debian:"
        )
        assert f"--build-arg EXTRAS={extras} --build-arg REVISION={revision} " in asked
        assert asked.endswith(f"-t registry.example.com/drtune-{name}:4a1b .")


def test_make_images_refuses_what_is_not_committed(clone: Path) -> None:
    (clone / "configs" / "mine.yaml").write_text("steps: 3\n")
    done = make_images(clone)
    assert done.returncode == 2
    assert "error: images hold a commit; commit or stash first:\n?? configs/mine.yaml" in done.stderr
    assert not (clone.parent / "built").exists()
