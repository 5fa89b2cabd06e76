"""What a run cannot publish to is refused by its first step, by a real S3 server's own answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from kfp import dsl

from components.checks import check_services
from components.registry import check_registry, place_of
from drtune.errors import UserError
from drtune.files.storage import open_storage
from tests.first_step import run_first_step
from tests.s3 import BUCKET, S3Server

IN_A_POD = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}


def test_a_registry_that_can_be_used_is_left_as_it_was(s3_server: S3Server) -> None:
    uri = f"s3://{BUCKET}/checked"
    check_registry(uri, "some-model", IN_A_POD | s3_server.environment)
    assert open_storage(uri, s3_server.environment).keys() == []


@pytest.mark.parametrize(
    ("registry", "given", "message"),
    [
        ("runs/registry", {}, "registry runs/registry: would be gone with this pod; give s3://bucket/prefix"),
        ("s3://no-such-bucket/drtune", {}, "no bucket no-such-bucket at "),
        ("", {}, "storage s3://drtune/registry: no bucket drtune at "),
        (f"s3://{BUCKET}/x", {"AWS_SECRET_ACCESS_KEY": "wrong"}, "refuses the credentials (SignatureDoesNotMatch)"),
        (f"s3://{BUCKET}/x", {"AWS_ACCESS_KEY_ID": ""}, "AWS_ACCESS_KEY_ID not set"),
    ],
)
def test_a_registry_that_could_not_be_published_to_is_refused(
    registry: str, given: dict[str, str], message: str, s3_server: S3Server
) -> None:
    with pytest.raises(UserError) as refused:
        check_registry(registry, "some-model", IN_A_POD | s3_server.environment | given)
    assert message in str(refused.value)


def test_a_name_that_is_none_is_refused_here_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"name 'My Model': wanted"):
        check_registry(str(tmp_path / "registry"), "My Model", {})


def test_a_folder_is_a_registry_on_one_machine_and_is_not_made_by_looking(tmp_path: Path) -> None:
    check_registry(str(tmp_path / "registry"), "some-model", {})
    assert not (tmp_path / "registry").exists()
    assert (place_of("", {}), place_of("", IN_A_POD)) == ("runs/registry", "s3://drtune/registry")


def test_the_first_step_refuses_before_it_looks_at_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    made = dsl.Dataset(name="prompt_set", uri=str(tmp_path / "set"))
    with pytest.raises(UserError, match="would be gone with this pod"):
        run_first_step("nothing.jsonl", tmp_path / "registry", made)


def test_a_reference_that_is_not_stored_is_refused(s3_server: S3Server) -> None:
    environment = IN_A_POD | s3_server.environment
    given = {"registry": f"s3://{BUCKET}/checked", "name": "some-model"}
    storage = open_storage(f"s3://{BUCKET}/references", environment)
    storage.write("mj.zip", b"an archive")
    storage.write("folder/manifest.csv", b"image,prompt")
    check_services(
        given | {"references": [f"a=s3://{BUCKET}/references/mj.zip", f"b=s3://{BUCKET}/references/folder/"]},
        environment,
    )
    for place in (f"s3://{BUCKET}/references/other.zip", f"s3://{BUCKET}/references/fold"):
        with pytest.raises(UserError, match=f"reference a={place}: nothing is stored there"):
            check_services(given | {"references": [f"a={place}"]}, environment)
