"""A small stand-in of the Hugging Face hub: as much of its HTTP API as the client of huggingface_hub 2.4 calls to
push, and to read data sets and files of models.

Each answer cites the line of the client that reads it. What is not asked for by that client is not here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from tests.serving import JSON, Handler, Serving

TOKEN = "hf_stand-in"
COMMIT = "4a1b" * 10


class Hub(Serving):
    """Listens on entry. `repositories` holds files by their paths, `commits` the messages in their order."""

    def __init__(self, *, refuse_commits: bool = False) -> None:
        super().__init__(_Handler)
        self.refuse_commits = refuse_commits
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.large: dict[str, bytes] = {}
        """By sha256, as git LFS keeps them."""
        self.commits: list[str] = []
        self.datasets: dict[str, dict[str, bytes]] = {}
        """Files by their paths, of each data set; all are at COMMIT."""
        self.sizes: dict[str, int] = {}
        """Of files that are said to be larger than they are."""


class _Handler(Handler):
    server: Hub

    def do_POST(self) -> None:
        hub, body = self.server, self.body()
        # utils/_headers.py: build_hf_headers sends "authorization: Bearer <token>".
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            return self._answer(401, {"error": "Invalid username or password."})
        if self.path == "/api/repos/create":
            return self._create(hub, json.loads(body))
        if self.path == "/api/validate-yaml":
            # hf_api.py, _validate_yaml: sends content and repoType; reads warnings, and errors where it is refused.
            assert json.loads(body)["repoType"] == "model"
            return self._answer(200, {"errors": [], "warnings": []})
        if self.path.endswith(".git/info/lfs/objects/batch"):
            return self._batch(hub, json.loads(body))
        repository, _, action = self.path.removeprefix("/api/models/").rpartition("/main")[0].rpartition("/")
        if action == "preupload":
            return self._preupload(hub, repository, json.loads(body))
        if action == "commit":
            return self._commit(hub, repository, [json.loads(line) for line in body.splitlines()])
        return self._answer(404, {"error": "Sorry, we can't find the page you are looking for."})

    def do_PUT(self) -> None:
        """The store behind the hub, which takes a signed address in place of a token: lfs.py, _upload_single_part."""
        content = self.body()
        oid = self.path.removeprefix("/store/")
        assert hashlib.sha256(content).hexdigest() == oid
        self.server.large[oid] = content
        self._answer(200, {})

    def _create(self, hub: Hub, asked: dict[str, Any]) -> None:
        """hf_api.py, create_repo: sends organization and name; with exist_ok a 409 is as good; reads `url`."""
        repository = f"{asked['organization']}/{asked['name']}"
        status = 409 if repository in hub.repositories else 200
        hub.repositories.setdefault(repository, {})
        self._answer(status, {"url": f"{hub.url}/{repository}", "name": repository})

    def _preupload(self, hub: Hub, repository: str, asked: dict[str, Any]) -> None:
        """_commit_api.py, _fetch_upload_modes: reads path, uploadMode, shouldIgnore, oid of what is there already.

        The .gitattributes that the hub makes with a repository send *.safetensors and *.png to LFS.
        """
        there = hub.repositories[repository]
        files = []
        for file in asked["files"]:
            path, large = file["path"], file["path"].endswith((".safetensors", ".png"))
            oid = _oid(there[path], large=large) if path in there else None
            mode = "lfs" if large else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._answer(200, {"files": files})

    def _batch(self, hub: Hub, asked: dict[str, Any]) -> None:
        """lfs.py, post_lfs_batch_info and lfs_upload: without `actions` the object is there already."""
        assert (asked["operation"], asked["hash_algo"]) == ("upload", "sha256")
        objects = []
        for each in asked["objects"]:
            upload = {"upload": {"href": f"{hub.url}/store/{each['oid']}"}}
            objects.append(each if each["oid"] in hub.large else each | {"actions": upload})
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _commit(self, hub: Hub, repository: str, lines: list[dict[str, Any]]) -> None:
        """_commit_api.py, _prepare_commit_payload: a line with the header, then one for each file."""
        if hub.refuse_commits:
            self._answer(403, {"error": "You don't have the rights to create a commit."})
            return
        header, *operations = lines
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                hub.repositories[repository][value["path"]] = base64.b64decode(value["content"])
            else:
                assert operation["key"] == "lfsFile"
                hub.repositories[repository][value["path"]] = hub.large[value["oid"]]
        hub.commits.append(header["value"]["summary"])
        oid = hashlib.sha1(repr(lines).encode()).hexdigest()
        self._answer(200, {"commitUrl": f"{hub.url}/{repository}/commit/{oid}", "commitOid": oid})

    def do_GET(self) -> None:
        """hf_api.py, repo_info: asked for where there was nothing new to commit."""
        hub = self.server
        if "/datasets/" in self.path or "/resolve/" in self.path or COMMIT in self.path:
            self._files(hub.datasets if "/datasets/" in self.path else hub.repositories, hub.sizes)
            return
        self._answer(200, {"id": self.path.removeprefix("/api/models/"), "sha": "0" * 40})

    do_HEAD = do_GET

    def _files(self, repositories: Mapping[str, Mapping[str, bytes]], sizes: Mapping[str, int]) -> None:
        """hf_api.py, dataset_info: reads `sha` and the siblings' `rfilename` and, asked with `blobs`, `size`.

        file_download.py, get_hf_file_metadata: reads X-Repo-Commit, ETag and Content-Length of a HEAD;
        utils/_http.py, hf_raise_for_status: X-Error-Code, where something is not there.
        """
        path = unquote(self.path.partition("?")[0]).removeprefix("/api").removeprefix("/datasets").removeprefix("/")
        if listed := re.fullmatch(f"models/(.+)/tree/{COMMIT}", path):
            self._list(repositories[listed[1]])
            return
        asked, _, revision = path.removeprefix("models/").partition("/revision/")
        repository, _, file = asked.partition("/resolve/")
        if repository not in repositories:
            self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return
        if revision not in ("", "main", COMMIT):
            self._answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
            return
        files = repositories[repository]
        if not file:
            siblings = [{"rfilename": name, "size": sizes.get(name, len(content))} for name, content in files.items()]
            self._answer(200, {"id": repository, "sha": COMMIT, "siblings": siblings})
            return
        content = files[file.partition("/")[2]]
        self.send_response(200)
        etag = hashlib.sha256(content).hexdigest()
        for name, value in {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"', "Content-Length": len(content)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def _list(self, files: Mapping[str, bytes]) -> None:
        """hf_api.py, list_repo_tree: reads `type`, `path`, `size` and `oid` of each."""
        listed = [
            {"type": "file", "path": name, "size": len(content), "oid": _oid(content, large=False)}
            for name, content in files.items()
        ]
        self.send(200, JSON, json.dumps(listed))

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return super().body()
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, value: dict[str, Any], headers: Mapping[str, str] | None = None) -> None:
        self.send(status, JSON, json.dumps(value), **(headers or {}))


def _oid(content: bytes, *, large: bool) -> str:
    """_commit_api.py, CommitOperationAdd._local_oid: the sha256 of a large file, the sha1 of a git blob else."""
    if large:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
