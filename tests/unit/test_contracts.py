"""Manifests: read back equal, or refused."""

import json
from pathlib import Path

import pytest

from drtune.contracts import MANIFEST, SCORES, Contract, Decision, EvaluationReport, TunedModel
from drtune.errors import UserError
from drtune.files.local import sha256_bytes
from tests.folders import make_folders

FOLDERS: dict[type[Contract], str] = {TunedModel: "model", EvaluationReport: "report", Decision: "decision"}


def read(kind: type[Contract], folder: Path) -> Contract | None:
    """None: it is refused."""
    try:
        return kind.load(folder)
    except UserError:
        return None


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_manifest_with_a_changed_byte_is_not_read_as_another_value(kind: type[Contract], tmp_path: Path) -> None:
    make_folders(tmp_path)
    path = tmp_path / FOLDERS[kind] / MANIFEST
    content, value = path.read_bytes(), read(kind, path.parent)
    assert value is not None
    assert value.manifest_sha256 == sha256_bytes(content)
    found = []
    for place in range(0, len(content), 29):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        found.append(read(kind, path.parent))
    assert all(one in (None, value) for one in found)
    assert found.count(None) > 0.6 * len(found)  # the others were spaces


def test_a_changed_number_or_table_is_named_with_what_helps(tmp_path: Path) -> None:
    report = make_folders(tmp_path).report
    manifest = (report / MANIFEST).read_text()
    (report / MANIFEST).write_text(manifest.replace('"gain": 0.27', '"gain": 0.72'))
    with pytest.raises(UserError, match=rf"{report / MANIFEST}: is not the one that its digest names.*make it again$"):
        EvaluationReport.load(report)
    (report / MANIFEST).write_text(manifest)
    (report / SCORES).write_bytes(b"sc0res")
    with pytest.raises(UserError, match=rf"{SCORES}: is not the one that the report names.*evaluate again$"):
        EvaluationReport.load(report)


@pytest.mark.parametrize("kind", FOLDERS)
def test_what_has_no_digest_is_refused(kind: type[Contract], tmp_path: Path) -> None:
    make_folders(tmp_path)
    path = tmp_path / FOLDERS[kind] / MANIFEST
    fields = json.loads(path.read_text())
    del fields["digest"]
    path.write_text(json.dumps(fields))
    with pytest.raises(UserError, match="has no digest; make it again"):
        kind.load(path.parent)


def test_a_manifest_of_before_a_field_was_added_is_named_by_the_digest_of_its_file(tmp_path: Path) -> None:
    path = make_folders(tmp_path).report / MANIFEST
    fields = json.loads(path.read_text())
    for added in ("num_truncated", "negative_prompt", "digest"):
        del fields[added]
    path.write_text(json.dumps(fields | {"digest": EvaluationReport.digest_of(fields)}))
    report = EvaluationReport.load(path.parent)
    assert report.manifest_sha256 == sha256_bytes(path.read_bytes()) != sha256_bytes(report.manifest().encode())
    copied = report.model_copy(update={"seed": 5})
    assert copied.manifest_sha256 == sha256_bytes(copied.manifest().encode())
