"""Compositional prompts in the format of GenEval: those of a file, and those that drtune brings; what each asks for.

GenEval (Ghosh et al. 2023, arXiv 2310.11513; djghosh13/geneval at 5348fb5, prompts/create_prompts.py) has such lines:

    {"tag": "counting", "include": [{"class": "clock", "count": 2}], "exclude": [{"class": "clock", "count": 3}],
     "prompt": "a photo of two clocks"}

GenEval 2 (Kamath et al. 2025, arXiv 2512.16853; facebookresearch/GenEval2 at a6e82d2, geneval2_data.jsonl) has such:

    {"prompt": "two white cows", "atom_count": 3, "vqa_list": [["How many cows are in the image?", "two"],
     ["Are the cows white?", "Yes"], ["Are there any cows in the image?", "Yes"]], "skills": [...]}
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from itertools import islice
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from drtune.contracts.reading import problem_in
from drtune.errors import UserError
from drtune.files.given import read_place

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
RELATIONS = {"left of": "to the left of", "right of": "to the right of", "above": "above", "below": "below"}
PLURALS = {"person": "people", "sheep": "sheep", "scissors": "scissors", "skis": "skis", "mouse": "mice"}
"""Of nouns that do not end as others do."""
OBJECTS = (
    "apple", "backpack", "balloon", "banana", "bear", "bench", "bicycle", "bird", "boat", "book", "bottle",
    "bowl", "bus", "cake", "candle", "car", "cat", "chair", "clock", "cow", "cup", "dog", "donut", "elephant",
    "flower", "fork", "giraffe", "guitar", "hat", "horse", "key", "kite", "lamp", "pizza", "rabbit", "shoe",
    "sofa", "spoon", "suitcase", "teapot", "train", "truck", "tulip", "umbrella", "vase", "watch", "zebra",
)  # fmt: skip
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
SEED = 1


class Wanted(BaseModel):
    """Objects of one class that a picture must show, or, among `exclude`, must not show so many of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    noun: str = Field(alias="class", min_length=1)
    count: int = Field(default=1, ge=1, lt=len(NUMBERS))
    color: str | None = None
    position: tuple[Literal["left of", "right of", "above", "below"], int] | None = None
    """A relation, and the place among `include` of what it is to."""

    def words(self, *, exactly: bool = False) -> str:
        """As a caption says it.

        >>> Wanted(**{"class": "apple", "count": 2, "color": "red"}).words(exactly=True)
        'exactly two red apples'
        """
        said = " ".join(filter(None, (self.color, _plural(self.noun) if self.count > 1 else self.noun)))
        if self.count > 1 or exactly:
            return f"{'exactly ' if exactly else ''}{NUMBERS[self.count]} {said}"
        return f"{'an' if said[0].lower() in 'aeiou' else 'a'} {said}"


class Task(BaseModel):
    """A prompt, its category, and what its picture must show."""

    model_config = ConfigDict(frozen=True)

    tag: str
    include: tuple[Wanted, ...] = Field(min_length=1)
    exclude: tuple[Wanted, ...] = ()
    prompt: str = Field(min_length=1)

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        for place, wanted in enumerate(self.include):
            if wanted.position and not 0 <= wanted.position[1] < place:
                raise ValueError(f"position of {wanted.noun} is to none that stands before it in include")
        for excess in self.exclude:
            if not any(self._is_excess(excess, wanted) for wanted in self.include):
                raise ValueError(f"exclude of {excess.noun} is no count that is one more than in include")
        return self

    @staticmethod
    def _is_excess(excess: Wanted, wanted: Wanted) -> bool:
        return (excess.noun, excess.count) == (wanted.noun, wanted.count + 1)

    @property
    def statements(self) -> list[str]:
        """What a judge is asked for, each by itself; a relation beside the objects that have it.

        >>> Task(tag="position", prompt="a dog left of a cup", include=[{"class": "cup"}, {"class": "dog",
        ...      "position": ["left of", 0]}]).statements
        ['a cup', 'a dog', 'a dog to the left of a cup']
        """
        said = [
            wanted.words(exactly=any(self._is_excess(excess, wanted) for excess in self.exclude))
            for wanted in self.include
        ]
        relations = [
            f"{wanted.words()} {RELATIONS[wanted.position[0]]} {self.include[wanted.position[1]].words()}"
            for wanted in self.include
            if wanted.position
        ]
        return list(dict.fromkeys([*said, *relations]))


class Questions(BaseModel):
    """A prompt of GenEval 2, and the questions about its picture with their right answers."""

    model_config = ConfigDict(frozen=True)

    prompt: str = Field(min_length=1)
    atom_count: int = Field(ge=1)
    """Objects, attributes, counts and relations that the prompt names."""
    vqa_list: tuple[tuple[str, str], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        for question, answer in self.vqa_list:
            _statement(question, answer)
        return self

    @property
    def tag(self) -> str:
        """The category: how much is asked for at once."""
        return f"{self.atom_count} atoms"

    @property
    def statements(self) -> list[str]:
        """As of `Task`: what is so where every answer is right.

        >>> Questions(prompt="two white cows", atom_count=3, vqa_list=[["How many cows are in the image?", "two"],
        ...           ["Are the cows white?", "Yes"], ["Are there any cows in the image?", "Yes"]]).statements
        ['exactly two cows', 'the cows are white', 'a cow']
        """
        return list(dict.fromkeys(_statement(question, answer) for question, answer in self.vqa_list))


AnyTask = Task | Questions


def _statement(question: str, answer: str) -> str:
    """What is so where that is the answer; its plurals are nouns with an s, of sheep too.

    Raises:
        ValueError: it is none of the four kinds of questions that there are.
    """
    if answer in NUMBERS[1:] and (found := re.fullmatch(r"How many (.+)s are in the image\?", question)):
        return Wanted.model_validate({"class": found[1], "count": NUMBERS.index(answer)}).words(exactly=True)
    if answer == "Yes" and (found := re.fullmatch(r"Are there any (.+)s in the image\?", question)):
        return Wanted.model_validate({"class": found[1]}).words()
    if answer == "Yes" and (found := re.fullmatch(r"(Is|Are) the (\S+) (.+)\?", question)):
        return f"the {found[2]} {found[1].lower()} {found[3]}"
    raise ValueError(f"{question[:80]!r} with the answer {answer[:80]!r} is no question of GenEval 2")


def _plural(noun: str) -> str:
    first, _, last = noun.rpartition(" ")
    if last in PLURALS:
        plural = PLURALS[last]
    elif last.endswith("ife"):
        plural = f"{last[:-2]}ves"
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        plural = f"{last[:-1]}ies"
    else:
        plural = f"{last}{'es' if last.endswith(('s', 'x', 'ch', 'sh')) else 's'}"
    return f"{first} {plural}".strip()


def read_tasks(place: str) -> list[AnyTask]:
    """The tasks of a file of GenEval's format or GenEval 2's; fields that a line has beside those do not count.

    Args:
        place: a path, or s3://bucket/key.

    Raises:
        UserError: it cannot be read, or a line is no such task, or its prompt stands in another one.
    """
    try:
        lines = read_place(place).decode().splitlines()
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
        raise UserError(f"evaluation.capability.file={place}: {reason}; correct the path") from None
    except UnicodeDecodeError:
        raise UserError(f"evaluation.capability.file={place}: is not UTF-8; give a .jsonl file") from None
    tasks: dict[str, AnyTask] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"evaluation.capability.file={place}: line {number}"
        kind: type[Task] | type[Questions] = Questions if '"vqa_list"' in line else Task
        try:
            task = kind.model_validate_json(line)
        except ValidationError as error:
            raise UserError(f"{where}: {problem_in(error, 'the line')}; wanted a line of GenEval's metadata") from None
        if task.prompt in tasks:
            raise UserError(f"{where}: the prompt {task.prompt[:80]!r} stands there twice; take one away")
        tasks[task.prompt] = task
    if not tasks:
        raise UserError(f"evaluation.capability.file={place}: is empty; give a file of GenEval's metadata")
    return list(tasks.values())


def composed(count: int) -> list[Task]:
    """`count` tasks that drtune brings, GenEval's six categories in turn; more of them begin with the same."""
    return list(islice(_composed(), count))


def _composed() -> Iterator[Task]:
    """Tasks without end, no prompt twice."""
    rng = random.Random(SEED)
    known: set[str] = set()
    while True:
        for tag in ("single_object", "two_object", "counting", "colors", "position", "color_attr"):
            if (task := _task(tag, rng)).prompt not in known:
                known.add(task.prompt)
                yield task


def _task(tag: str, rng: random.Random) -> Task:
    first, second = rng.sample(OBJECTS, 2)
    colour, other = rng.sample(COLOURS, 2)
    count, relation = rng.randint(2, 4), rng.choice(list(RELATIONS))
    match tag:
        case "single_object":
            return _of(tag, {"class": first})
        case "two_object":
            return _of(tag, {"class": first}, {"class": second})
        case "counting":
            return _of(tag, {"class": first, "count": count}, exclude={"class": first, "count": count + 1})
        case "colors":
            return _of(tag, {"class": first, "color": colour})
        case "position":
            return _of(tag, {"class": second}, {"class": first, "position": [relation, 0]})
        case _:
            return _of(tag, {"class": first, "color": colour}, {"class": second, "color": other})


def _of(tag: str, *include: dict[str, object], exclude: dict[str, object] | None = None) -> Task:
    wanted = [Wanted.model_validate(one) for one in include]
    if position := wanted[-1].position:
        said = f"{wanted[1].words()} {RELATIONS[position[0]]} {wanted[0].words()}"
    else:
        said = " and ".join(one.words() for one in wanted)
    fields = {"include": include, "exclude": [exclude] if exclude else []}
    return Task.model_validate({"tag": tag, "prompt": f"a photo of {said}", **fields})
