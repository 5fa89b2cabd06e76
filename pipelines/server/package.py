"""A compiled pipeline: what it is called, takes and consists of, and its parameters from the command line."""

from __future__ import annotations

import difflib
import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml

from drtune.errors import UserError
from drtune.files.given import is_text_itself
from drtune.files.local import read_given
from drtune.files.provenance import git

Json = dict[str, Any]
_KINDS: dict[str, type | tuple[type, ...]] = {
    "BOOLEAN": bool,
    "NUMBER_INTEGER": int,
    "NUMBER_DOUBLE": (int, float),
    "LIST": list,
    "STRUCT": dict,
}
MOST_GIVEN = 2**14
"""Bytes of a run's parameters, as JSON.

Kubeflow Pipelines 2.17 writes each twice into the pod of every step that takes it (backend/src/v2/driver/driver.go:315,
326), and what it says of a pod stands in six nodes of Argo's workflow. Above 1 MiB Argo packs the nodes (v4.0.5,
workflow/packer/packer.go), and Kubeflow, which unpacks them for a retry alone, shows no more of the run. All of them
are also one argument of a program (argocompiler/dag.go:531,583), of which Linux takes 128 KiB.
"""
_EXAMPLES = {
    "BOOLEAN": "true or false",
    "NUMBER_INTEGER": "a whole number",
    "NUMBER_DOUBLE": "a number",
    "LIST": """a JSON list, such as '["one", "two"]'""",
    "STRUCT": """a JSON object, such as '{"key": "value"}'""",
}


@dataclass(frozen=True)
class Package:
    """A pipeline as KFP's compiler writes it: a document for any platform, and perhaps one for Kubernetes."""

    spec: Json
    platform: Json = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The package in a file.

        Raises:
            UserError: it cannot be read, or holds no compiled pipeline.
        """
        try:
            spec, *platform = yaml.safe_load_all(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"package {path}: cannot be read ({error.strerror})") from None
        except (ValueError, yaml.YAMLError):
            spec, platform = None, []
        if not isinstance(spec, dict) or "pipelineInfo" not in spec:
            raise UserError(f"package {path}: no compiled pipeline; `drtune-pipeline compile` writes one")
        return cls(spec, *platform)

    @classmethod
    def of_server(cls, whole: Json) -> Self:
        """The package as the server tells it: both documents in one when there are two."""
        return cls(whole["pipeline_spec"], whole["platform_spec"]) if "pipeline_spec" in whole else cls(whole)

    @property
    def name(self) -> str:
        """The pipeline's name."""
        return str(self.spec["pipelineInfo"]["name"])

    @property
    def parameters(self) -> dict[str, Json]:
        """Type, default and description of each parameter, by its name."""
        found: dict[str, Json] = self.spec["root"].get("inputDefinitions", {}).get("parameters", {})
        return found

    @property
    def defaults(self) -> Json:
        """The default value of each parameter, by its name; None: it has none."""
        return {name: parameter.get("defaultValue") for name, parameter in self.parameters.items()}

    @property
    def steps(self) -> dict[str, str]:
        """What people call the tasks that run in a container, by the key that Argo knows them by."""
        return {key: task["taskInfo"]["name"] for key, task in self._tasks() if self._runs(task)}

    @property
    def images(self) -> set[str]:
        """The images that its steps run in."""
        return {step["container"]["image"] for step in self.spec["deploymentSpec"]["executors"].values()}

    @property
    def pods(self) -> dict[str, Json]:
        """What is said of the pods of its steps on Kubernetes, by names such as exec-evaluate."""
        kubernetes = self.platform.get("platforms", {}).get("kubernetes", {})
        found: dict[str, Json] = kubernetes.get("deploymentSpec", {}).get("executors", {})
        return found

    @property
    def places(self) -> dict[str, tuple[str, ...]]:
        """The names of Argo's nodes from the root down to each task that runs in a container, by its key."""
        return dict(self._places(self.spec["root"]["dag"], ("root",)))

    def text(self) -> str:
        """The package as a file."""
        documents = [self.spec, self.platform] if self.platform else [self.spec]
        return yaml.safe_dump_all(documents, sort_keys=True)

    @contextmanager
    def on_disk(self) -> Iterator[Path]:
        """A file with the package, for kfp's client, which takes nothing else."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pipeline.yaml"
            path.write_text(self.text(), encoding="utf-8")
            yield path

    def same_as(self, other: Package) -> bool:
        """Whether both are one pipeline, however numbers and defaults are spelt."""
        from google.protobuf import json_format
        from kfp.pipeline_spec import pipeline_spec_pb2

        def parsed(package: Package) -> Any:
            return (
                json_format.ParseDict(package.spec, pipeline_spec_pb2.PipelineSpec(), ignore_unknown_fields=True),
                json_format.ParseDict(package.platform, pipeline_spec_pb2.PlatformSpec(), ignore_unknown_fields=True),
            )

        return bool(parsed(self) == parsed(other))

    def arguments(self, assignments: Iterable[str]) -> Json:
        """The values of KEY=VALUE, each of the type that its parameter has.

        Raises:
            UserError: a parameter is unknown, given twice, of another type, or missing.
        """
        arguments: Json = {}
        for assignment in assignments:
            name, equals, text = assignment.partition("=")
            if not name or not equals:
                raise UserError(f"{assignment}: a parameter is given as KEY=VALUE")
            if name in arguments:
                raise UserError(f"{name}: given twice; a list is given at once, as JSON")
            arguments[name] = self._value(name, text)
        needed = [name for name, parameter in self.parameters.items() if not parameter.get("isOptional")]
        if missing := [name for name in needed if name not in arguments]:
            raise UserError(f"{missing[0]}: has no default; give {missing[0]}=VALUE")
        return arguments

    def values(self, arguments: Json) -> Json:
        """The value of each parameter of a run with these arguments; None where nothing is known."""
        return {name: arguments.get(name, known.get("defaultValue")) for name, known in self.parameters.items()}

    def _value(self, name: str, text: str) -> Any:
        if name not in self.parameters:
            near = difflib.get_close_matches(name, self.parameters, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(self.parameters))}"
            raise UserError(f"{name}: pipeline {self.name} has no such parameter; {hint}")
        kind = self.parameters[name]["parameterType"]
        if kind not in _KINDS:
            return text
        try:
            value = json.loads(text)
            json.dumps(value, allow_nan=False)  # Python reads NaN and Infinity, which are no JSON
        except (ValueError, RecursionError):
            value = None
        # bool is a kind of int to Python, not to KFP
        if not isinstance(value, _KINDS[kind]) or (isinstance(value, bool) and kind != "BOOLEAN"):
            raise UserError(f"{name}={text}: wants {_EXAMPLES[kind]}")
        return value

    def _tasks(self) -> Iterator[tuple[str, Json]]:
        """All tasks, of the pipeline and of the conditions, loops and exit handlers in it."""
        for part in [self.spec["root"], *self.spec["components"].values()]:
            yield from part.get("dag", {}).get("tasks", {}).items()

    def _component(self, task: Json) -> Json:
        found: Json = self.spec["components"][task["componentRef"]["name"]]
        return found

    def _runs(self, task: Json) -> bool:
        return "executorLabel" in self._component(task)

    def _places(self, dag: Json, above: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
        for key, task in dag["tasks"].items():
            at_the_end = task.get("triggerPolicy", {}).get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED"
            hook = (f"{task['dependentTasks'][0]}.onExit",) if at_the_end else ()
            place = (*above, *hook, key)
            if self._runs(task):
                yield key, place
            else:
                yield from self._places(self._component(task)["dag"], place)


def check_files(package: Package, arguments: Json) -> list[str]:
    """Check parameters and files as the run's first step will, as far as they are at hand: `check_parameters`.

    Raises:
        UserError: as there, or they are more than a run can carry.
    """
    from components.checks import check_parameters

    values = package.values(arguments)
    if (size := _size(values)) > MOST_GIVEN:
        largest = max(values, key=lambda name: _size(values[name]))
        raise UserError(
            f"{largest}: has {_size(values[largest]) / 2**10:.0f} KiB, and all parameters together "
            f"{size / 2**10:.0f} KiB of at most {MOST_GIVEN / 2**10:.0f}; put it into a file on s3:// and give its "
            "address"
        )
    return [*check_parameters(values, elsewhere=True), *_left_behind(values, arguments)]


def _size(value: Any) -> int:
    """Bytes as JSON."""
    return len(json.dumps(value, ensure_ascii=False).encode(errors="replace"))


def _left_behind(values: Json, arguments: Json) -> Iterator[str]:
    """A line for each file of these arguments that is here and in no commit: images hold a commit's files alone."""
    from components.prepare_prompts.run import is_under_dvc

    for name in ("prompts", "config", "cluster", "policy", "monitor_policy"):
        place = arguments.get(name) or ""
        if is_text_itself(place) or not (path := Path(place)).is_file() or is_under_dvc(place):
            continue
        changed = git(path.parent, "status", "--porcelain", "--ignored", "--", path.name)
        if changed == "":
            continue
        how = "put it on s3://, or commit it and build the images again"
        # of other formats of prompts the text alone would be taken for one prompt a line
        if path.stat().st_size < MOST_GIVEN and (name != "prompts" or path.suffix == ".txt"):
            text = read_given(path).decode(errors="replace").rstrip("\n")  # as the shell hands it over
            if is_text_itself(text) and _size(values | {name: text}) <= MOST_GIVEN:
                how = f'"{name}=$(cat {place})" sends its text'
        yield f"{name}={place}: in no commit as it is here, so in no image; {how}"
