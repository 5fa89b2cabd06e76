"""A published version in Kubeflow's model registry, by its published client against what its published schema says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from components.publish.model_registry import check_model_registry
from components.publish.run import run
from drtune.contracts import RegistryEntry
from drtune.errors import UserError
from drtune.publishing.registry import Registry
from pipelines.cli.main import main
from tests.folders import Folders, make_folders
from tests.model_registry_api import ModelRegistryServer

pytest.importorskip("model_registry", reason="needs the extra `hub`")


@pytest.fixture
def server() -> Iterator[ModelRegistryServer]:
    with ModelRegistryServer() as started:
        yield started


def publish(root: Path, folders: Folders, address: str) -> RegistryEntry:
    places = [str(folder) for folder in folders]
    run(*places, str(root / "registry"), "mine", address, str(root / "entry"))
    return RegistryEntry.load(root / "entry")


def values(found: dict[str, Any]) -> dict[str, Any]:
    """The custom properties as what they are."""
    return {name: next(value for key, value in one.items() if key != "metadataType") for name, one in found.items()}


def test_a_published_version_is_registered_with_what_speaks_for_it(server: ModelRegistryServer, tmp_path: Path) -> None:
    entry = publish(tmp_path, make_folders(tmp_path), server.url)
    [model], [version], [artifact] = server.models, server.versions, server.artifacts
    assert (model["name"], version["name"], version["registeredModelId"]) == ("mine", "v1", model["id"])
    assert (artifact["name"], artifact["uri"], artifact["version"]) == ("mine", entry.uri, version["id"])
    facts = values(version["customProperties"])
    assert facts["symmetry_gain_over_base"] == pytest.approx(0.27)
    assert facts["symmetry_gain_over_base_low"] == pytest.approx(0.25)
    assert facts["symmetry_gain_over_base_high"] == pytest.approx(0.29)
    assert facts["prompts_sha256"] == "1c3e" * 16
    assert facts["policy_sha256"] == "c7aa" * 16
    assert facts["digest"] == entry.digest
    assert "symmetry: gain 0.27, at least 0.10 wanted" in facts["decision"]
    assert "cluster_sha256" not in facts  # there was none


@pytest.mark.parametrize("lost", ["POST registered_models", "POST model_versions", "POST model_versions/2/artifacts"])
def test_a_registration_that_broke_off_is_finished_by_the_next_try(
    server: ModelRegistryServer, tmp_path: Path, lost: str
) -> None:
    folders = make_folders(tmp_path)
    server.faults[lost] = 503, '{"code": "503", "message": "in a minute"}'
    with pytest.raises(UserError, match=r"answered 503: in a minute; mine v1 is published, `drtune-pipe"):
        publish(tmp_path, folders, server.url)
    server.faults.clear()
    first = publish(tmp_path, folders, server.url)
    counted = len(server.requests)
    assert publish(tmp_path, folders, server.url) == first
    assert not [request for request in server.requests[counted:] if request.startswith("POST")]
    assert (len(server.models), len(server.versions), len(server.artifacts)) == (1, 1, 1)


def test_publishing_is_not_lost_where_the_model_registry_is_away(tmp_path: Path) -> None:
    folders = make_folders(tmp_path)
    with pytest.raises(UserError, match=r"^model_registry http://127.0.0.1:9: no answer .*; mine v1 is published"):
        publish(tmp_path, folders, "http://127.0.0.1:9")
    assert RegistryEntry.load(tmp_path / "entry") == Registry(str(tmp_path / "registry")).show("mine")


def test_it_is_registered_later_by_the_command_that_the_error_names(
    server: ModelRegistryServer, tmp_path: Path
) -> None:
    publish(tmp_path, make_folders(tmp_path), "")
    command = ["register", "mine@v1", "--registry", str(tmp_path / "registry"), "--to", server.url]
    done = CliRunner().invoke(main, command)
    assert (done.exit_code, done.output) == (0, f"registered: mine v1 at {server.url}\n")
    assert [version["name"] for version in server.versions] == ["v1"]
    unknown = CliRunner().invoke(main, ["register", "mine@v7", *command[2:]])
    assert unknown.exit_code == 2
    assert "'mine' has no version v7; its versions are v1" in unknown.output


def test_another_version_of_that_name_is_not_touched(server: ModelRegistryServer, tmp_path: Path) -> None:
    publish(tmp_path, make_folders(tmp_path / "one"), server.url)
    with pytest.raises(UserError, match=r"has another mine v1; give `name` what is free there"):
        publish(tmp_path / "other", make_folders(tmp_path / "other", content=b"weights two"), server.url)
    assert len(server.versions) == 1


def test_what_is_wrong_with_an_address_is_one_line_before_anything_is_tuned(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("a secret\n")
    with ModelRegistryServer(token="a secret") as server:
        check_model_registry(server.url, {"KF_PIPELINES_SA_TOKEN_PATH": str(token)})
        with pytest.raises(UserError, match=r"refuses us \(401\); KF_PIPELINES_SA_TOKEN_PATH names") as refused:
            check_model_registry(server.url, {})
        assert "a secret" not in str(refused.value)
        server.faults["GET registered_models"] = 404, "<html>nothing here</html>"
        with pytest.raises(UserError, match=r"has not what its client asks for; .* \(here is 0\.3\.\d+\)"):
            check_model_registry(server.url, {"KF_PIPELINES_SA_TOKEN_PATH": str(token)})
        server.faults["GET registered_models"] = 200, "<html>log in</html>"
        with pytest.raises(UserError, match="no answer of a model registry"):
            check_model_registry(server.url, {"KF_PIPELINES_SA_TOKEN_PATH": str(token)})
    with pytest.raises(UserError, match=r"^model_registry registry:8080: wanted an address such as http://"):
        check_model_registry("registry:8080")
