"""Prompts under DVC on a remote that keeps versions by itself, as buckets of S3 do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from minio import Minio
from minio.commonconfig import ENABLED
from minio.versioningconfig import VersioningConfig

from components.prepare_prompts.run import prepare_prompts
from tests.s3 import S3Server
from tests.unit.test_prepare_prompts import FIRST, SECOND, commit, dvc, run


@pytest.mark.slow
def test_missing_files_are_pulled_from_a_remote_with_versions(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = s3_server.environment["AWS_ENDPOINT_URL"]
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    keys = s3_server.environment["AWS_ACCESS_KEY_ID"], s3_server.environment["AWS_SECRET_ACCESS_KEY"]
    client = Minio(address.removeprefix("http://"), *keys, secure=False)
    client.make_bucket("versioned")
    client.set_bucket_versioning("versioned", VersioningConfig(ENABLED))
    run(tmp_path, "git", "init")
    dvc(tmp_path, "init")
    dvc(tmp_path, "remote", "add", "--default", "store", "s3://versioned/prompts")
    dvc(tmp_path, "remote", "modify", "store", "version_aware", "true")
    dvc(tmp_path, "remote", "modify", "store", "endpointurl", address)
    (tmp_path / "data").mkdir()
    for text in (FIRST, SECOND):
        (tmp_path / "data/prompts.jsonl").write_text(text)
        dvc(tmp_path, "add", "data")
        dvc(tmp_path, "push")
        commit(tmp_path, text)
    assert "version_id" in (tmp_path / "data.dvc").read_text()
    shutil.rmtree(tmp_path / "data")
    shutil.rmtree(tmp_path / ".dvc/cache")
    assert prepare_prompts(str(tmp_path / "data/prompts.jsonl"), "", tmp_path / "out").num_train == 2
    assert prepare_prompts(str(tmp_path / "data/prompts.jsonl"), "HEAD~1", tmp_path / "out").num_train == 1
