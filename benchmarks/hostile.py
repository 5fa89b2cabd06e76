"""What `benchmarks.fuzz` tries: files of a run with some of them damaged, and command lines for them."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tarfile
import zipfile
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from click.testing import CliRunner
from hypothesis import strategies as st

from drtune.cli.main import main as drtune
from drtune.contracts import Contract, Study
from drtune.contracts.base import DIGEST
from drtune.files.images import to_pil
from drtune.files.local import sha256_file
from drtune.models.miniature.world import draw, scenes
from drtune.prompts.prepare import open_prompts

SMALL = (
    *(
        "steps=1",
        "batch_size=2",
        "sampler.steps=2",
        "method.trained_steps=1",
        "method.early_stop=1",
        "checkpoint_every=1",
        "processes=1",
    ),
    *("evaluation.max_prompts=8", "evaluation.sampler.steps=1", "evaluation.rewards=[brightness]"),
    "evaluation.capability.prompts=4",
)
SETTINGS = [f"--set={setting}" for setting in SMALL]
TEXTS = (
    *("", " ", ".", "..", "/", "a" * 300, "x/" * 3000, "\udcff", "\ud800", "a\0b", "-1", "nan", "1e400", "9" * 5000),
    *(
        "s3://",
        "s3://a",
        "s3://bucket/key",
        "s3://bucket/../key",
        "file:///",
        "http://[::1",
        "~",
        "{",
        "[1,",
        "!!python/object:os.system {}",
    ),
    *("!!timestamp foo", "!!int x", "&a [*a]", "2020-99-99", "[" * 3000, "null", "true", "0x", "1_0", "\u2028", "a\nb"),
    *(
        "pipe",
        "loop",
        "folder",
        "file",
        "file/child",
        "pipe/child",
        "folder/zero.txt",
        "pipe.txt",
        "loop.csv",
        "giant.jsonl",
    ),
)
"""Values of options and keys, names of what lies in the folder among them."""
FILES = (
    *("prompts/manifest.json", "prompts/prompts.jsonl", "model/manifest.json", "model/config.yaml"),
    *("model/adapter/pytorch_lora_weights.safetensors", "model/metrics.jsonl", "model/checkpoints/*.safetensors"),
    *("report/manifest.json", "report/scores.parquet", "report/config.yaml", "decision/manifest.json"),
    *("registry/name/production.json", "registry/name/versions/v1.json", "registry/name/files/*/*.json"),
    *("registry/name/versions", "registry/name", "pictures/0.png", "pictures/manifest.csv"),
    *("pictures.zip", "pictures.tar.gz", "study/manifest.json", "votes.json", "gate.yaml", "config.yaml"),
    *("prompts.txt", "prompts.csv", "prompts.tsv", "prompts.json", "prompts.jsonl", "prompts.parquet"),
)
"""What can be damaged; of several that fit, one."""
KEYS = (
    *("steps", "batch_size", "rewards", "rewards.symmetry", "rewards.brightness.target", "base_model", "method.name"),
    *(
        "sampler.steps",
        "lora.rank",
        "optimizer.learning_rate",
        "evaluation.rewards",
        "held_out",
        "a..b",
        "steps.x",
        "",
        "\ud800",
    ),
)
COMMANDS = {
    "prompts": ["prompts", "PROMPTS", "--out=out"],
    "plan": ["plan", "--config=config.yaml", *SETTINGS],
    "train": ["train", "--config=config.yaml", "--prompts=prompts", "--out=out", *SETTINGS],
    "resume": ["train", "--config=model/config.yaml", "--prompts=prompts", "--out=model", "--resume", "--set=steps=2"],
    "sample": ["sample", "--model=model", "--prompts=PROMPTS", "--out=out", "--steps=1"],
    "evaluate": ["evaluate", "--model=model", "--prompts=prompts", "--out=out", "--reference=mj=REFERENCE"],
    "score": ["score", "pictures", "--prompts=pictures/manifest.csv", "--reward=brightness", "--out=out.csv"],
    "export": ["export", "--model=model", "--format=diffusers", "--out=out.safetensors"],
    "decide": ["decide", "--report=report", "--policy=gate.yaml", "--out=out"],
    "publish": [
        "publish",
        "--model=model",
        "--report=report",
        "--decision=decision",
        "--name=name",
        "--registry=registry",
    ],
    "list": ["registry", "list", "--registry=registry"],
    "show": ["registry", "show", "name", "--registry=registry"],
    "pull": ["registry", "pull", "name", "--out=out", "--registry=registry"],
    "rollback": ["registry", "rollback", "name", "v1", "--registry=registry"],
    "study": ["study", "make", "--report=report", "--out=out", "--contestants=base,candidate"],
    "count": ["study", "count", "votes.json", "--study=study", "--out=out"],
}
READS = {
    "prompts": "prompts.*",
    "plan": "config.yaml",
    "train": "config.yaml prompts/",
    "resume": "model/ prompts/",
    "sample": "model/ prompts.*",
    "evaluate": "model/ prompts/ pictures",
    "score": "pictures/",
    "export": "model/",
    "decide": "report/ gate.yaml",
    "publish": "model/ report/ decision/ registry/",
    "list": "registry/",
    "show": "registry/",
    "pull": "registry/",
    "rollback": "registry/",
    "study": "report/",
    "count": "study/ votes.json",
}
"""The beginnings of what a command reads."""


@dataclass(frozen=True)
class Input:
    """A command line, and what is done to the files before it runs."""

    command: str
    arguments: list[str]
    damages: dict[str, Any] = field(default_factory=dict)
    """By pattern: how."""
    signed: bool = False
    """Whether the manifests name the digests of what was damaged, as those of somebody hostile would."""


_JSON = st.one_of(
    st.sampled_from(
        [None, True, -1, 0, 1e308, 10**30, "", "..", "/etc/passwd", "\ud800", "a\0", "a" * 300, [], {}, [[[]]], "DEEP"]
    ),
    st.text(max_size=5),
    st.integers(),
)
_HOW = st.one_of(
    st.sampled_from(["absent", "empty", "folder", "pipe", "loop", "zero", "giant"]),
    st.tuples(st.just("cut"), st.floats(0, 1)),
    st.tuples(st.just("flip"), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8)),
    st.tuples(st.just("bytes"), st.binary(max_size=200)),
    st.tuples(st.just("text"), st.sampled_from(TEXTS)),
    st.tuples(st.just("json"), st.lists(st.tuples(st.floats(0, 1), _JSON), min_size=1, max_size=2)),
)
_ARCHIVE = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "../a.png",
                "/tmp/a.png",
                "a.png",
                "manifest.csv",
                "x/manifest.csv",
                "b" * 300,
                "\udcff.png",
                "",
                ".",
                "a/b",
            ]
        ),
        st.sampled_from(["file", "link", "hardlink", "pipe", "giant"]),
    ),
    max_size=4,
)


@st.composite
def inputs(choose: st.DrawFn) -> Input:
    """Any command with damaged files, hostile options, or both."""
    command = choose(st.sampled_from(sorted(COMMANDS)))
    arguments = list(COMMANDS[command])
    suffix = choose(st.sampled_from(["txt", "csv", "tsv", "json", "jsonl", "parquet"]))
    reference = choose(st.sampled_from(["pictures", "pictures.zip", "pictures.tar.gz"]))
    arguments = [one.replace("PROMPTS", f"prompts.{suffix}").replace("REFERENCE", reference) for one in arguments]
    damages: dict[str, Any] = {}
    if choose(st.integers(0, 3)):
        starts = tuple(start.rstrip("*") for start in READS[command].split())
        choices = [name for name in FILES if name.startswith(starts)]
        if command in ("prompts", "sample"):
            choices = [name for name in choices if not name.startswith("prompts.")] + [f"prompts.{suffix}"]
        for name in choose(st.lists(st.sampled_from(choices), min_size=1, max_size=2, unique=True)):
            damages[name] = choose(_HOW)
        if command == "evaluate" and reference != "pictures" and choose(st.booleans()):
            damages = {reference: ("archive", choose(_ARCHIVE))}
    if not damages or choose(st.integers(0, 3)) == 0:
        if command in ("plan", "train", "resume", "evaluate") and choose(st.booleans()):
            arguments.append(f"--set={choose(st.sampled_from(KEYS))}={choose(st.sampled_from(TEXTS))}")
        else:
            place = choose(st.integers(2 if arguments[0] in ("registry", "study") else 1, len(arguments) - 1))
            option, equals, _ = arguments[place].partition("=")
            text = choose(st.sampled_from(TEXTS))
            if not (text.startswith("/") and option == "--out"):  # the fuzzing process may be root
                arguments[place] = f"{option}={text}" if equals else text
    return Input(command, arguments, damages, choose(st.booleans()))


def damage(drawn: Input, folder: Path) -> None:
    """Put what options may name into the folder, and do to its files what was drawn."""
    (folder / "folder").mkdir()
    (folder / "folder/zero.txt").symlink_to("/dev/zero")
    (folder / "file").write_text("content")
    for name in ("pipe", "pipe.txt"):
        os.mkfifo(folder / name)
    for name in ("loop", "loop.csv"):
        (folder / name).symlink_to(name)
    with (folder / "giant.jsonl").open("wb") as file:
        file.truncate(2**40)
    for pattern, how in drawn.damages.items():
        for path in sorted(folder.glob(pattern))[-1:]:
            before = sha256_file(path) if path.is_file() else ""
            _damage(path, how)
            if drawn.signed and before and path.is_file():
                _sign(folder, path, before)


def _sign(folder: Path, damaged: Path, before: str) -> None:
    """Give a file the digest that it has now wherever it has one, and what names that likewise."""
    if damaged.stat().st_size > 10**6:
        return
    with suppress(ValueError, RecursionError):  # it is no JSON, or none that ends
        if isinstance(fields := json.loads(damaged.read_bytes()), dict) and DIGEST in fields:
            damaged.write_text(json.dumps(fields | {DIGEST: Contract.digest_of(fields)}))
    after = sha256_file(damaged)
    for path in folder.rglob("*.json"):
        if path.is_file() and path.stat().st_size < 10**6 and before.encode() in (content := path.read_bytes()):
            own = sha256_file(path)
            path.write_bytes(content.replace(before.encode(), after.encode()))
            _sign(folder, path, own)
    if before[:12] in damaged.name:
        damaged.rename(damaged.with_name(damaged.name.replace(before[:12], after[:12])))


def _damage(path: Path, how: Any) -> None:
    kind, value = (how, None) if isinstance(how, str) else how
    content = path.read_bytes() if path.is_file() else b""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "loop":
            path.symlink_to(path.name)
        case "zero":
            path.symlink_to("/dev/zero")
        case "empty":
            path.touch()
        case "giant":
            with path.open("wb") as file:
                file.truncate(2**40)
        case "cut":
            path.write_bytes(content[: int(len(content) * value)])
        case "flip":
            flipped = bytearray(content)
            for place, byte in value if content else ():
                flipped[int(place * (len(content) - 1))] = byte
            path.write_bytes(flipped)
        case "bytes":
            path.write_bytes(value)
        case "json":
            path.write_text(_mutated(content, value), encoding="utf-8", errors="surrogatepass")
        case "text":
            path.write_text(value, encoding="utf-8", errors="surrogatepass")
        case "archive":
            path.write_bytes(_zip(value) if path.suffix == ".zip" else _tar(value))


def _mutated(content: bytes, changes: list[tuple[float, Any]]) -> str:
    """The JSON, the first line of it, or another text, with values at some places of the tree put in."""
    try:
        tree = [json.loads(content.splitlines()[0] if content.startswith(b'{"') else content)]
    except (ValueError, IndexError):
        tree = [content[:100].decode(errors="replace")]
    for place, value in changes:
        nodes: list[tuple[Any, Any]] = []
        _collect(tree, nodes)
        holder, key = nodes[int(place * (len(nodes) - 1))]
        holder[key] = deepcopy(value)  # of one object for all, which would then hold itself
    return json.dumps(tree[0]).replace('"DEEP"', "[" * 5000 + "]" * 5000)


def _collect(node: Any, nodes: list[tuple[Any, Any]]) -> None:
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in pairs:
        nodes.append((node, key))
        _collect(value, nodes)


def _zip(members: list[tuple[str, str]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, kind in members:
            archive.writestr(name.replace("\udcff", "\xff") or "x", bytes(3 * 10**7 if kind == "giant" else 10))
    content = buffer.getvalue()
    return content.replace((3 * 10**7).to_bytes(4, "little"), (2**32 - 2).to_bytes(4, "little"))


def _tar(members: list[tuple[str, str]]) -> bytes:
    buffer = io.BytesIO()
    kinds = {"file": tarfile.REGTYPE, "link": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE, "pipe": tarfile.FIFOTYPE}
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, kind in members:
            member = tarfile.TarInfo(name)
            member.type = kinds.get(kind, tarfile.REGTYPE)
            member.linkname = "/etc/passwd"
            member.size = 2**40 if kind == "giant" else 0
            archive.addfile(member)
    return buffer.getvalue()


def make_assets(folder: Path) -> None:
    """A prompt set, a model with its checkpoint, pictures, a report, a decision, a registry, a study and votes."""
    folder.mkdir()
    os.chdir(folder)
    drawn = scenes(seed=7, count=20)
    captions = [scene.caption for scene in drawn]
    records = pd.DataFrame({"prompt": captions, "split": ["eval"] * 8 + ["train"] * 12})
    Path("prompts.txt").write_text("\n".join(captions), encoding="utf-8")
    records.to_csv("prompts.csv", index=False)
    records.to_csv("prompts.tsv", index=False, sep="\t")
    records.to_json("prompts.json", orient="records")
    records.to_json("prompts.jsonl", orient="records", lines=True)
    records.to_parquet("prompts.parquet")
    Path("config.yaml").write_text(
        "steps: 1\nbatch_size: 2\nsampler: {steps: 2}\nmethod: {trained_steps: 1, early_stop: 1}\n"
    )
    Path("gate.yaml").write_text("min_prompts: 8\nagainst:\n  base:\n    symmetry:\n      max_drop: 1.0\n")
    _drtune("prompts", "prompts.csv", "--out=prompts")
    _drtune("train", "--prompts=prompts", "--out=model", *SETTINGS)
    _drtune("evaluate", "--model=model", "--prompts=prompts", "--out=report")
    _drtune("decide", "--policy=gate.yaml", "--report=report", "--out=decision")
    publish = ["--model=model", "--report=report", "--decision=decision", "--name=name", "--registry=registry"]
    _drtune("publish", *publish)
    _drtune("study", "make", "--report=report", "--out=study", "--contestants=base,candidate", "--count=2")
    study = Study.load("study")
    votes = [{"pair": pair.id, "choice": "left"} for pair in study.pairs]
    ballot = {"kind": "StudyVotes/1", "study": study.id, "rater": "ann", "seed": 7, "votes": votes}
    Path("votes.json").write_text(json.dumps(ballot), encoding="utf-8")
    held_out = [prompt.text for prompt in open_prompts("prompts").eval][:3]
    Path("pictures").mkdir()
    for number, picture in enumerate(to_pil(draw(drawn[:3], seed=6))):
        picture.save(f"pictures/{number}.png")
    rows = {"image": ["0.png", "1.png", "2.png"], "prompt": held_out}
    pd.DataFrame(rows).to_csv("pictures/manifest.csv", index=False)
    shutil.make_archive("pictures", "zip", "pictures")
    shutil.make_archive("pictures", "gztar", "pictures")


def _drtune(*arguments: str) -> None:
    result = CliRunner().invoke(drtune, arguments)
    if result.exit_code:
        raise RuntimeError(f"drtune {' '.join(arguments)}: {result.output}") from result.exception


if __name__ == "__main__":
    make_assets(Path(sys.argv[1]))
