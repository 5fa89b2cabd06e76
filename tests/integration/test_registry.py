"""The registry on a folder and on a real S3 server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components.publish.run import run
from drtune.contracts import ADAPTER, MANIFEST, NETWORK, NETWORK_CONFIG, SCORES, RegistryEntry, TunedModel
from drtune.errors import UserError
from drtune.files.local import sha256_folder
from drtune.files.storage import Storage, open_storage
from drtune.publishing.registry import Production, Registry
from tests.folders import make_folders
from tests.s3 import S3Server
from tests.stores import HookedStorage, store_on

NAME = "my-model"


def test_of_many_creators_of_one_key_exactly_one_succeeds(storage: Storage) -> None:
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda number: storage.create("versions/v1", b"%d" % number), range(32)))
    assert created.count(True) == 1
    assert storage.read("versions/v1") == b"%d" % created.index(True)
    assert storage.keys() == ["versions/v1"]


def test_a_model_lives_through_publication_rollback_and_pull(storage: Storage, tmp_path: Path) -> None:
    registry = Registry(storage)
    one, two = make_folders(tmp_path / "one"), make_folders(tmp_path / "two", content=b"weights two")
    assert registry.list() == []

    first = registry.publish(NAME, *one)
    assert first.version == "v1"
    assert first.uri.startswith(f"{storage.uri}/{NAME}/files/")
    assert first.model == TunedModel.load(one.model)
    assert registry.publish(NAME, *one) == first
    assert registry.publish(NAME, *two).version == "v2"
    assert registry.publish("another", *one).version == "v1"
    assert [(entry.name, entry.version) for entry in registry.list()] == [
        ("another", "v1"),
        (NAME, "v1"),
        (NAME, "v2"),
    ]
    assert [entry.version for entry in registry.list(NAME)] == ["v1", "v2"]
    assert registry.show(NAME).version == "v2"
    assert registry.show(NAME, "v1") == first

    assert registry.rollback(NAME) == first
    assert registry.show(NAME) == first

    pulled = tmp_path / "pulled"
    assert registry.pull(NAME, "production", pulled) == first
    assert sha256_folder(pulled) == first.files
    assert (pulled / ADAPTER).read_bytes() == (one.model / ADAPTER).read_bytes()
    assert TunedModel.load(pulled) == first.model
    with pytest.raises(UserError, match="exists already"):
        registry.pull(NAME, "v2", pulled)
    registry.pull(NAME, "v2", pulled, overwrite=True)
    assert (pulled / ADAPTER).read_bytes() == b"weights two"


def test_a_whole_network_is_published_with_its_configuration(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "registry"))
    made = make_folders(tmp_path / "made", weights="full")
    entry = registry.publish(NAME, *made)
    assert {NETWORK, NETWORK_CONFIG} <= entry.files.keys()
    assert ADAPTER not in entry.files
    (made.model / NETWORK).write_bytes(b"weights 0ne")
    with pytest.raises(UserError, match=f"{NETWORK}: is not the one that the model's manifest names"):
        registry.publish(NAME, *made)


def test_rollback_walks_back_and_can_be_undone(storage: Storage, tmp_path: Path) -> None:
    registry = Registry(storage)
    for number in range(1, 4):
        registry.publish(NAME, *make_folders(tmp_path / str(number), content=b"%d" % number))
    assert registry.rollback(NAME).version == "v2"
    assert registry.rollback(NAME).version == "v1"
    with pytest.raises(UserError, match="had no version in production before v1"):
        registry.rollback(NAME)
    assert registry.rollback(NAME, "v3").version == "v3"
    assert registry.rollback(NAME).version == "v1"
    with pytest.raises(UserError, match="has no version v9; its versions are v1, v2, v3"):
        registry.rollback(NAME, "v9")
    assert registry.publish(NAME, *make_folders(tmp_path / "again", content=b"2")).version == "v2"
    assert registry.show(NAME).version == "v2"


def test_a_model_that_has_a_version_keeps_it_with_its_report(
    storage: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that died behind its publication is started again, and evaluates on another machine."""
    registry = Registry(storage)
    registry.publish(NAME, *make_folders(tmp_path / "before", content=b"weights zero"))
    made, again = make_folders(tmp_path / "made"), make_folders(tmp_path / "again", seed=8)
    first = registry.publish(NAME, *made)
    assert capsys.readouterr().err == ""
    assert registry.publish(NAME, *again) == first
    assert capsys.readouterr().err == f"{NAME} v2 is this model already: no new version is made\n"
    assert [entry.version for entry in registry.list()] == ["v1", "v2"]

    assert storage.read(f"{NAME}/production.json") == Production(version="v2", history=("v1",)).manifest().encode()
    storage.write(
        f"{NAME}/production.json", Production(version="v1").manifest().encode()
    )  # the publisher died before its last step
    assert registry.publish(NAME, *again) == first
    assert registry.show(NAME) == first

    other_settings = make_folders(tmp_path / "other", settings=("evaluation.sampler.steps=9",))
    assert registry.publish(NAME, *other_settings).version == "v3"


def test_a_superseded_model_that_is_published_again_does_not_come_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where the last step of an older run is tried again."""
    registry = Registry(str(tmp_path / "registry"))
    one, two = (make_folders(tmp_path / name, content=name.encode()) for name in ("one", "two"))
    registry.publish(NAME, *one)
    registry.publish(NAME, *two)
    assert registry.publish(NAME, *one).version == "v1"
    assert registry.show(NAME).version == "v2"
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"{NAME} v2 took its place in production since; `drtune registry rollback {NAME} v1` puts it back"
    )


def test_of_two_that_beat_the_same_champion_the_second_is_refused(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "registry"))
    reigning = make_folders(tmp_path / "reigning", content=b"reigning")
    registry.publish(NAME, *reigning)
    sha256 = TunedModel.load(reigning.model).weights_sha256
    first, second = (make_folders(tmp_path / name, content=name.encode(), champion=sha256) for name in ("a", "b"))
    assert registry.publish(NAME, *first).version == "v2"
    with pytest.raises(UserError, match=f"its champion is not {NAME} v2, which is in production; evaluate against"):
        registry.publish(NAME, *second)
    assert registry.publish(NAME, *first).version == "v2"  # its own second try
    assert [entry.version for entry in registry.list(NAME)] == ["v1", "v2"]
    assert registry.publish("another", *second).version == "v1"  # where there is nothing to replace


def test_what_was_judged_while_nothing_was_published_does_not_replace_what_is_there_by_now(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "registry"))
    first, second = (make_folders(tmp_path / name, content=name.encode(), is_unopposed=True) for name in ("a", "b"))
    assert registry.publish(NAME, *first).version == "v1"
    with pytest.raises(UserError, match=f"none of the champion that the policy asks for, and that is {NAME} v1, which"):
        registry.publish(NAME, *second)
    assert registry.publish(NAME, *first).version == "v1"  # its own second try
    assert [entry.version for entry in registry.list(NAME)] == ["v1"]
    unasked = make_folders(tmp_path / "c", content=b"c")  # a policy that names no champion asks for none
    assert registry.publish(NAME, *unasked).version == "v2"


def test_the_champion_is_what_a_candidate_would_replace_and_never_itself(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "registry"))
    one, two, new = (make_folders(tmp_path / name, content=name.encode()) for name in ("one", "two", "new"))
    models = [TunedModel.load(folders.model) for folders in (one, two, new)]

    def champions() -> list[str | None]:
        return [entry and entry.version for entry in (registry.champion(NAME, model) for model in models)]

    assert champions() == [None, None, None]
    registry.publish(NAME, *one)
    assert champions() == [None, "v1", "v1"]
    registry.publish(NAME, *two)
    assert champions() == ["v2", "v1", "v2"]
    registry.rollback(NAME)
    assert champions() == [None, "v1", "v1"]


def test_a_large_model_arrives_whole(storage: Storage, tmp_path: Path) -> None:
    content = bytes(range(256)) * (12 << 12)  # 12 MiB: several parts on S3
    registry = Registry(storage)
    registry.publish(NAME, *make_folders(tmp_path / "made", content=content))
    registry.pull(NAME, "v1", tmp_path / "pulled")
    assert (tmp_path / "pulled" / ADAPTER).read_bytes() == content


def test_publishers_at_once_get_each_their_version_and_equal_content_one(storage: Storage, tmp_path: Path) -> None:
    contents = [b"a", b"b", b"c", b"a", b"b", b"c"]
    folders = [make_folders(tmp_path / str(index), content=content) for index, content in enumerate(contents)]
    with ThreadPoolExecutor(len(folders)) as pool:
        entries = list(pool.map(lambda each: Registry(storage).publish(NAME, *each), folders))
    assert entries[:3] == entries[3:]
    registry = Registry(storage)
    assert [entry.version for entry in registry.list()] == ["v1", "v2", "v3"]
    assert registry.show(NAME) in entries
    for entry, content in zip(entries, contents, strict=True):
        registry.pull(NAME, entry.version, tmp_path / "out", overwrite=True)
        assert (tmp_path / "out" / ADAPTER).read_bytes() == content


def test_a_changed_or_missing_object_is_found_by_pull(storage: Storage, tmp_path: Path) -> None:
    registry = Registry(storage)
    entry = registry.publish(NAME, *make_folders(tmp_path / "made"))
    storage.write(f"{entry.uri.removeprefix(storage.uri + '/')}/{ADAPTER}", b"weights 0ne")
    with pytest.raises(UserError, match=f"{ADAPTER}: is not the one that its version names"):
        registry.pull(NAME, "v1", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_upload_that_arrives_changed_is_never_made_visible(storage: Storage, tmp_path: Path) -> None:
    class Corrupting(HookedStorage):
        def upload(self, key: str, source: Path) -> None:
            super().upload(key, source)
            self.storage.write(key, b"something else")

    with pytest.raises(OSError, match="stored with sha256"):
        Registry(Corrupting(storage, lambda _: None)).publish(NAME, *make_folders(tmp_path / "made"))
    assert Registry(storage).list() == []


def test_names_and_versions_that_are_not_there_are_refused_with_those_that_are(storage: Storage) -> None:
    registry = Registry(storage)
    with pytest.raises(UserError, match="'my-model' has nothing in production; nothing is published here"):
        registry.show(NAME)
    with pytest.raises(UserError, match="version 'latest': wanted v1, v2"):
        registry.show(NAME, "latest")
    for name in ("My-Model", "a/b", "..", "", "-a", "a" * 64):
        with pytest.raises(UserError, match="lower-case letters, digits and dashes"):
            registry.list(name)


def test_what_does_not_belong_together_is_refused_and_nothing_is_stored(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "registry"))
    registry = Registry(storage)
    good, other = make_folders(tmp_path / "good"), make_folders(tmp_path / "other", content=b"other")

    with pytest.raises(UserError, match=r"is against publishing: brightness: not lost$"):
        registry.publish(NAME, *make_folders(tmp_path / "refused", publish=False))
    with pytest.raises(UserError, match="is about another model"):
        registry.publish(NAME, other.model, good.report, good.decision)
    with pytest.raises(UserError, match=r"evaluation/manifest.json: is not the one that the decision names"):
        registry.publish(NAME, good.model, good.report, other.decision)
    with pytest.raises(UserError, match="no TunedModel to read here"):
        registry.publish(NAME, tmp_path / "nowhere", good.report, good.decision)

    for path, said, refused in (
        (good.decision / MANIFEST, b"at least", "that its digest names"),
        (good.report / SCORES, b"scores", "that the report names"),
    ):
        content = path.read_bytes()
        path.write_bytes(content.replace(said, said.upper()))
        with pytest.raises(UserError, match=f"{path}: is not the one {refused}, but changed or damaged"):
            registry.publish(NAME, *good)
        path.write_bytes(content)
    (good.model / ADAPTER).write_bytes(b"weights 0ne")
    with pytest.raises(UserError, match=f"{ADAPTER}: is not the one that the model's manifest names"):
        registry.publish(NAME, *good)
    (good.model / ADAPTER).unlink()
    with pytest.raises(UserError, match="cannot be copied for publication"):
        registry.publish(NAME, *good)
    assert storage.keys() == []


def test_the_publish_step_leaves_the_entry_and_shows_it(tmp_path: Path) -> None:
    model, report, decision = map(str, make_folders(tmp_path / "made"))
    metadata = run(model, report, decision, str(tmp_path / "registry"), NAME, "", str(tmp_path / "entry"))
    entry = Registry(str(tmp_path / "registry")).show(NAME)
    assert RegistryEntry.load(tmp_path / "entry") == entry
    assert metadata == {"uri": entry.uri, "version": "v1", "digest": entry.digest}


def test_a_registry_that_was_moved_stays_whole(tmp_path: Path) -> None:
    entry = Registry(str(tmp_path / "here")).publish(NAME, *make_folders(tmp_path / "made"))
    (tmp_path / "here").rename(tmp_path / "there")
    moved = Registry(str(tmp_path / "there"))
    assert moved.pull(NAME, "production", tmp_path / "out") == entry
    [weights] = (tmp_path / "there").rglob(ADAPTER)
    weights.unlink()
    with pytest.raises(UserError, match=f"{weights}: is missing in the storage"):
        moved.pull(NAME, "production", tmp_path / "again")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong-secret"}, "SignatureDoesNotMatch"),
        ({"AWS_ACCESS_KEY_ID": "wrong-key"}, "InvalidAccessKeyId"),
    ],
)
def test_wrong_secrets_are_refused_in_one_line_without_them(
    s3_server: S3Server, tmp_path: Path, changes: dict[str, str], code: str
) -> None:
    registry = Registry(store_on(s3_server, **changes))
    with pytest.raises(UserError, match=rf"refuses the credentials \({code}\)") as refusal:
        registry.publish(NAME, *make_folders(tmp_path / "made"))
    message = str(refusal.value)
    assert len(message.splitlines()) == 1
    assert "wrong" not in message
    assert s3_server.environment["AWS_SECRET_ACCESS_KEY"] not in message


def test_a_missing_bucket_is_named(s3_server: S3Server, tmp_path: Path) -> None:
    registry = Registry(open_storage("s3://no-such-bucket/models", s3_server.environment))
    for call in (registry.list, lambda: registry.show(NAME)):
        with pytest.raises(UserError, match="no bucket no-such-bucket at http://"):
            call()
    with pytest.raises(UserError, match="no bucket no-such-bucket"):
        registry.publish(NAME, *make_folders(tmp_path / "made"))


def test_a_server_that_dies_in_mid_upload_leaves_nothing_visible(tmp_path: Path) -> None:
    one, two = make_folders(tmp_path / "one"), make_folders(tmp_path / "two", content=b"weights two")
    with S3Server() as server:
        storage = store_on(server)
        registry = Registry(storage)
        first = registry.publish(NAME, *one)

        dying = HookedStorage(storage, lambda uploads: server.kill() if uploads == 3 else None)
        with (
            storage.patience.limited(0.0),
            pytest.raises(UserError, match=f"no answer from {server.environment['AWS_ENDPOINT_URL']}"),
        ):
            Registry(dying).publish(NAME, *two)

        server.start()
        assert registry.list() == [first]
        assert registry.show(NAME) == first
        assert registry.publish(NAME, *two).version == "v2"
        registry.pull(NAME, "production", tmp_path / "out")
        assert (tmp_path / "out" / ADAPTER).read_bytes() == b"weights two"
