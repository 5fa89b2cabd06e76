"""The registry: immutable versions of published models, and `production`, the one in use.

    <name>/files/<id>/...      the files of one publication, each verified, under a fresh id
    <name>/versions/v1.json    RegistryEntry: the one atomic write that makes those files a version
    <name>/production.json     Production: the version in use and those before it; written last

Only production.json is ever written twice. A publisher that dies leaves files that no version points at, until `clean`.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pydantic import ValidationError

from drtune.contracts import Contract, EvaluationReport, RegistryEntry, TunedModel
from drtune.errors import UserError
from drtune.files.local import check_digest, check_sha256, replacing, sha256_bytes
from drtune.files.output import claimed
from drtune.files.storage import Storage, open_storage
from drtune.publishing.publication import REPORT, Publication

PRODUCTION = "production"
ABANDONED_SECONDS = 24 * 3600.0
"""What a publisher has not added to for so long, it never will."""
ATTEMPTS = 20
"""To take a version's number: each fails only when another publisher was quicker."""


class Production(Contract):
    """Which version is in use, and which ones were before it, oldest first.

    >>> Production(version="v3", history=("v1", "v2"))
    """

    version: str
    history: tuple[str, ...] = ()


class Orphan(NamedTuple):
    """Files of a publication that never became a version."""

    place: str
    """Below the registry, as in my-model/files/5d1c...."""
    keys: tuple[str, ...]
    written: float
    """When the newest of them was, in seconds since the epoch."""


class Registry:
    """Published models at `file:///folder`, a bare path, `s3://bucket/prefix`, or in an open storage.

    A model's name is made of lower-case letters, digits and dashes; a version is v1, v2, ... or "production".
    Methods raise UserError for names and versions that are not there, and what their storage raises.
    """

    def __init__(self, place: str | Storage) -> None:
        self.storage = open_storage(place) if isinstance(place, str) else place

    def publish(
        self, name: str, model_folder: str | Path, report_folder: str | Path, decision_folder: str | Path
    ) -> RegistryEntry:
        """Make a model a version and put it into production.

        One that has a version already keeps it, with the report that it was published on, as after a run that died just
        behind its publication and was started again; where another has taken its place in production since, that one
        stays. Both are told on stderr.

        Raises:
            UserError: the decision is against it, model, report and decision do not belong together, or the champion of
                the report is no longer the one that it would replace.
        """
        check_name(name)
        self.storage.clear_scratch(name, time.time() - ABANDONED_SECONDS)
        given = Publication.load(model_folder, report_folder, decision_folder)
        with tempfile.TemporaryDirectory() as scratch:
            files = given.gather(name, Path(scratch))
            entry = _version_of(given.model, self.list(name))
            if entry is None:
                self._check_champion(name, given)
                uri = self._upload(name, Path(scratch), files)
                entry = self._make_visible(name, uri, files, given)
            else:
                print(f"{name} {entry.version} is this model already: no new version is made", file=sys.stderr)
        production = self.production(name)
        if production and entry.version in production.history:
            again = f"`drtune registry rollback {name} {entry.version}` puts it back"
            print(f"{name} {production.version} took its place in production since; {again}", file=sys.stderr)
        else:
            self._point(name, entry.version)
        return entry

    def list(self, name: str | None = None) -> list[RegistryEntry]:
        """All versions of one model or of all, by name and number."""
        if name is not None:
            check_name(name)
        keys = self.storage.keys(f"{name}/versions" if name is not None else "")
        found = [match for key in keys if (match := re.fullmatch(r"([^/]+)/versions/v([1-9][0-9]*)\.json", key))]
        versions = sorted((match[1], int(match[2])) for match in found)
        return [self._entry(model, f"v{number}") for model, number in versions]

    def show(self, name: str, version: str = PRODUCTION) -> RegistryEntry:
        """One version: where it is, its digests, what it was tuned on and why it was published."""
        check_name(name)
        if version != PRODUCTION:
            return self._entry(name, version)
        return self._entry(name, self._in_production(name).version)

    def report(self, entry: RegistryEntry) -> EvaluationReport:
        """The report that a version was published on.

        Raises:
            UserError: it is missing, or was changed after publication.
        """
        shown, fix = f"{entry.uri}/{REPORT}", "take another version"
        try:
            content = self.storage.read(f"{_files_of(entry)}/{REPORT}")
        except FileNotFoundError:
            raise UserError(f"{shown}: is missing in the storage; {fix}") from None
        check_digest(shown, sha256_bytes(content), entry.files[REPORT], owner="its version", fix=fix)
        try:
            return EvaluationReport.read(content, shown, fix=fix)
        except ValidationError:
            raise UserError(f"{shown} is not one of this version of drtune; {fix}") from None

    def production(self, name: str) -> Production | None:
        """Which version is in use; None: nothing was published under that name."""
        check_name(name)
        key, fix = _production_key(name), "delete it and roll back to a version"
        shown = f"registry {self.storage.uri}: {key}"
        try:
            return Production.read(self.storage.read(key), shown, fix=fix)
        except FileNotFoundError:
            return None
        except ValidationError:
            raise UserError(f"{shown} is damaged; {fix}") from None

    def champion(self, name: str, candidate: TunedModel) -> RegistryEntry | None:
        """The version that a candidate would replace; None: there is nothing to beat.

        It is the one in production. Where that is the candidate itself, published before, it is the one before it, so
        that a run that is started again judges as it did the first time.
        """
        production = self.production(name)
        versions = (production.version, *reversed(production.history)) if production else ()
        entries = (self._entry(name, version) for version in versions)
        return next((entry for entry in entries if _version_of(candidate, [entry]) is None), None)

    def rollback(self, name: str, version: str | None = None) -> RegistryEntry:
        """Put `version` into production; without one, the version that was in production before.

        Repeated calls without a version go back further and further; a call with one can be undone like a publication.
        """
        if version is not None:
            entry = self.show(name, version)
            self._point(name, entry.version)
            return entry
        check_name(name)
        production = self._in_production(name)
        if not production.history:
            raise UserError(
                f"registry {self.storage.uri}: {name!r} had no version in production before {production.version}; "
                f"name the version to go to"
            )
        *history, previous = production.history
        entry = self._entry(name, previous)
        self._write(name, Production(version=previous, history=tuple(history)))
        return entry

    def pull(self, name: str, version: str, out: str | Path, *, overwrite: bool = False) -> RegistryEntry:
        """Fetch a version into the folder `out`, whole or not at all, each file verified against its sha256.

        The folder is that of a TunedModel again, with the model card and the evaluation beside it.

        Raises:
            UserError: `out` is taken, or a stored file is missing or was changed after publication.
        """
        entry = self.show(name, version)
        files_folder = _files_of(entry)
        with (
            claimed(out, "TunedModel", overwrite=overwrite, inputs=[self.storage.uri]) as place,
            replacing(place) as written,
        ):
            for path, sha256 in entry.files.items():
                target, key = written / path, f"{files_folder}/{path}"
                target.parent.mkdir(parents=True, exist_ok=True)
                shown = f"{self.storage.uri}/{key}"
                try:
                    self.storage.download(key, target)
                except FileNotFoundError:
                    raise UserError(f"{shown}: is missing in the storage; take another version") from None
                check_sha256(target, sha256, owner="its version", fix="take another version", shown=shown)
        return entry

    def clean(self, *, dry_run: bool = False, now: float | None = None) -> Sequence[Orphan]:
        """Remove the files that belong to no version and that nobody has added to for a day, and return what they were.

        Such files are left by publishers that died. Younger ones may be those of a publication under way.

        Args:
            dry_run: leave them there.
            now: the time in seconds since the epoch; None: as the clock says.

        Raises:
            UserError: a version cannot be read, so that nobody knows what it names; then nothing is removed.
        """
        before = (time.time() if now is None else now) - ABANDONED_SECONDS
        sets: dict[str, dict[str, float]] = {}
        for key, written in self.storage.written().items():
            if match := re.match(r"[^/]+/files/[^/]+(?=/)", key):
                sets.setdefault(match[0], {})[key] = written
        # Read after the files were listed: what became a version in between is seen here.
        named = {PurePosixPath(entry.uri).name for entry in self.list()}
        orphans = [
            Orphan(place, tuple(files), max(files.values()))
            for place, files in sets.items()
            if PurePosixPath(place).name not in named and max(files.values()) < before
        ]
        if not dry_run:
            for key in (key for orphan in orphans for key in orphan.keys):
                self.storage.delete(key)
            for name in {place.partition("/")[0] for place in sets}:
                self.storage.clear_scratch(name, before)
        return orphans

    def _check_champion(self, name: str, given: Publication) -> None:
        """Refuse a candidate that was judged against another champion than the one that it would replace, or none.

        Of two runs at once, each judged against the same version, the second would replace the first unjudged; so would
        one that began while nothing was published.
        """
        judged = [one.sha256 for one in given.report.contestants if one.role == "champion"]
        champion = self.champion(name, given.model)
        if champion is None or champion.model.weights_sha256 in judged:
            return
        if judged or given.decision.is_unopposed:
            none = "it has none of the champion that the policy asks for, and that is"
            fault = "its champion is not" if judged else none
            raise UserError(
                f"report {given.report_folder}: {fault} {name} {champion.version}, which is in production; evaluate "
                "against that one (`drtune evaluate --champion`), and decide again"
            )

    def _upload(self, name: str, folder: Path, files: Mapping[str, str]) -> str:
        """Store the files under a fresh id and read each of them back; returns their URI.

        Reading is what every S3 server can be asked for: an ETag is no digest of a file that was sent in parts or is
        encrypted, and the checksums that AWS knows are not known everywhere.
        """
        files_folder = f"{name}/files/{uuid.uuid4().hex}"
        for path, sha256 in files.items():
            key = f"{files_folder}/{path}"
            self.storage.upload(key, folder / path)
            if (stored := self.storage.sha256(key)) != sha256:
                raise OSError(f"{self.storage.uri}/{key}: stored with sha256 {stored}, sent was {sha256}")
        return f"{self.storage.uri}/{files_folder}"

    def _make_visible(self, name: str, uri: str, files: dict[str, str], given: Publication) -> RegistryEntry:
        """Take the next version number for uploaded files.

        Whoever takes a number has looked at all versions before it, so equal content never gets two.
        """
        for _ in range(ATTEMPTS):
            versions = self.list(name)
            if published := _version_of(given.model, versions):
                return published
            newest = int(versions[-1].version.removeprefix("v")) if versions else 0
            version = f"v{newest + 1}"
            entry = RegistryEntry(
                name=name, version=version, uri=uri, files=files, model=given.model, decision=given.decision
            )
            if self.storage.create(_version_key(name, version), entry.manifest().encode()):
                return entry
        raise UserError(
            f"{self.storage.uri}/{_version_key(name, version)}: the storage says that it is there, and does not list "
            "it; remove what stands there, or give another registry"
        )

    def _entry(self, name: str, version: str) -> RegistryEntry:
        if not re.fullmatch(r"v[1-9][0-9]*", version):
            raise UserError(f"version {version!r}: wanted v1, v2, ... or {PRODUCTION}")
        shown, fix = f"registry {self.storage.uri}: {_version_key(name, version)}", "take another version"
        try:
            entry = RegistryEntry.read(self.storage.read(_version_key(name, version)), shown, fix=fix)
        except FileNotFoundError:
            raise UserError(
                f"registry {self.storage.uri}: {name!r} has no version {version}; {self._known(name)}"
            ) from None
        except ValidationError:
            raise UserError(f"{shown} is not one of this version of drtune") from None
        outside = any(path.startswith("/") or ".." in path.split("/") for path in entry.files)
        if (entry.name, entry.version) != (name, version) or outside:
            raise UserError(f"{shown} was changed after publication; {fix}")
        return entry

    def _known(self, name: str) -> str:
        """Tell what there is instead, for error messages."""
        if versions := [entry.version for entry in self.list(name)]:
            return f"its versions are {', '.join(versions)}"
        names = sorted({entry.name for entry in self.list()})
        return f"the models here are {', '.join(names)}" if names else "nothing is published here"

    def _in_production(self, name: str) -> Production:
        production = self.production(name)
        if production is None:
            raise UserError(f"registry {self.storage.uri}: {name!r} has nothing in production; {self._known(name)}")
        return production

    def _point(self, name: str, version: str) -> None:
        """Put a version into production, remembering the one before."""
        production = self.production(name)
        if production is None:
            self._write(name, Production(version=version))
        elif production.version != version:
            self._write(name, Production(version=version, history=(*production.history, production.version)))

    def _write(self, name: str, production: Production) -> None:
        self.storage.write(_production_key(name), production.manifest().encode())


def _version_of(model: TunedModel, entries: Iterable[RegistryEntry]) -> RegistryEntry | None:
    """The entry of the same weights, made and deployed by the same configuration."""

    def identity(of: TunedModel) -> tuple[str | None, ...]:
        return of.weights_sha256, of.config_sha256, of.base_revision

    return next((entry for entry in entries if identity(entry.model) == identity(model)), None)


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a published model.

    Raises:
        UserError: it cannot.
    """
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) or len(name) > 63:
        raise UserError(f"name {name!r}: wanted at most 63 lower-case letters, digits and dashes, as in my-model-2")


def _files_of(entry: RegistryEntry) -> str:
    """Where a version's files are, by the id in its URI: a registry that was moved to another bucket stays whole."""
    return f"{entry.name}/files/{PurePosixPath(entry.uri).name}"


def _version_key(name: str, version: str) -> str:
    return f"{name}/versions/{version}.json"


def _production_key(name: str) -> str:
    return f"{name}/production.json"
