"""Prompts: what is read from every kind of file, what is refused and where, and a split that stays as it is."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from drtune.contracts import DataSource, PromptSet
from drtune.errors import UserError
from drtune.files.local import sha256_file
from drtune.prompts.prepare import EVAL_FRACTION, MAX_CHARACTERS, Prompt, open_prompts, parse, prepare, split_of
from drtune.prompts.records import SUFFIXES

NUMBERS = [f"prompt number {number}" for number in range(60)]


def texts_of(content: bytes | str, name: str) -> list[str]:
    prompts, problems = parse(content.encode() if isinstance(content, str) else content, name)
    assert not problems
    return [prompt.text for prompt in prompts]


def problems_of(content: bytes | str, name: str) -> list[tuple[str, str]]:
    _, problems = parse(content.encode() if isinstance(content, str) else content, name)
    return [(problem.where, problem.reason) for problem in problems]


def to_parquet(**columns: list[object]) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.table(columns), file)
    return file.getvalue()


CAT_AND_DOG = {
    "prompts.txt": "a cat, sleeping\na dog\n",
    "windows.TXT": "\ufeffa cat, sleeping\r\na dog",
    "prompts.csv": 'id,Prompt\n1,"a cat, sleeping"\n2,a dog\n',
    "prompts.tsv": "CAPTION\tid\na cat, sleeping\t1\na dog\t2\n",
    "strings.json": '["a cat, sleeping", "a dog"]',
    "objects.json": '[{"Text": "a cat, sleeping"}, {"prompt": "a dog", "caption": "not this"}]',
    "prompts.jsonl": '{"caption": "a cat, sleeping", "text": null}\n"a dog"\n',
    "prompts.parquet": to_parquet(image=[b"\x00", b"\xff"], TEXT=["a cat, sleeping", "a dog"]),
}


@pytest.mark.parametrize("name", CAT_AND_DOG)
def test_every_kind_of_file_gives_the_same_prompts(name: str) -> None:
    assert texts_of(CAT_AND_DOG[name], name) == ["a cat, sleeping", "a dog"]


def test_quotes_of_a_prompt_in_tsv_are_its_own_and_in_csv_they_quote() -> None:
    assert texts_of('prompt\n"hello" on a sign\nan 8" pipe\n', "p.tsv") == ['"hello" on a sign', 'an 8" pipe']
    assert texts_of('prompt\n"""hello"" on a sign"\nan 8" pipe\n', "p.csv") == ['"hello" on a sign', 'an 8" pipe']


def test_white_space_and_unicode_are_normalised() -> None:
    assert texts_of("  a\tcafe\u0301 \u00a0 at   night \n", "p.txt") == ["a café at night"]
    assert texts_of("a dog\n\ufeffa fox\na\u200bcat\n", "p.txt") == ["a dog", "a fox", "a cat"]


def test_categories_are_kept_and_numbers_become_text() -> None:
    prompts, _ = parse(b'[{"text": "a", "Style": " photo "}, {"text": "b", "category": 3}, "c"]', "p.json")
    assert [prompt.category for prompt in prompts] == ["photo", "3", ""]


@pytest.mark.parametrize(
    ("content", "name", "problems"),
    [
        ("a\n\n  \nb\n", "p.txt", [("line 2", "empty"), ("line 3", "empty")]),
        ("a\nA\n a \n", "p.txt", [("line 2", "duplicate"), ("line 3", "duplicate")]),
        ("x" * MAX_CHARACTERS + "\n" + "y" * (MAX_CHARACTERS + 1), "p.txt", [("line 2", "too long")]),
        (b"fine\ncaf\xe9\n", "p.txt", [("line 2", "wrong encoding")]),
        ("fine\ncaf\ufffd\n", "p.txt", [("line 2", "wrong encoding")]),
        (r'["fine", "\ud800"]', "p.json", [("record 2", "wrong encoding")]),
        ("a\x1b[31m\nb\x85c\n", "p.txt", [("line 1", "control characters"), ("line 2", "control characters")]),
        ('["a", 3, null, {"text": ["b"]}, {"text": "c", "category": {}}]', "p.json",
         [*((f"record {number}", "wrong type") for number in (2, 3, 4)), ("record 5", "category of the wrong type")]),
        ('[{"text": "a"}, {"title": "b"}, {"text": null}]', "p.json",
         [("record 2", "no text field"), ("record 3", "no text field")]),
        ('"a"\n{"text": \n\n"b"\n', "p.jsonl", [("line 2", "not JSON"), ("line 3", "empty")]),
        ('id,text\n1,"two\nlines"\n2\n\n3,a cat, asleep\n4,\n', "p.csv",
         [("line 4", "no text field"), ("line 5", "empty"), ("line 6", "more fields than columns"),
          ("line 7", "empty")]),
        ("text\tid\na\t1\nb\t2\t3\n", "p.tsv", [("line 3", "more fields than columns")]),
        (to_parquet(text=["a", None, "a"]), "p.parquet", [("record 2", "no text field"), ("record 3", "duplicate")]),
    ],
)  # fmt: skip
def test_what_is_not_taken_is_named_by_line_or_record(
    content: bytes | str, name: str, problems: list[tuple[str, str]]
) -> None:
    assert problems_of(content, name) == problems


@pytest.mark.parametrize(
    ("content", "name", "error"),
    [
        (b"text", "p.xlsx", r"p\.xlsx: unknown suffix '\.xlsx'; give .*\.parquet"),
        (b"text", "prompts", r"prompts: unknown suffix ''"),
        (b"a,b\n1,2\n", "p.csv", r"p\.csv: no column text, prompt, caption \(columns: 'a, b'\)"),
        (b"", "p.tsv", r"p\.tsv: no column"),
        (b'text\n"never closed\nb\nc\n', "p.csv", r"p\.csv: line 2 is not CSV"),
        (b'text\nfine\n"a "quoted" word"\n', "p.csv", r"p\.csv: line 3 is not CSV"),
        (to_parquet(a=["b"]), "p.parquet", r"p\.parquet: no column text"),
        (b"PAR1", "p.parquet", r"p\.parquet: not valid Parquet"),
        (
            to_parquet(text=["a"], category=pa.array([2**31 - 1], pa.date32())),
            "p.parquet",
            r"not valid Parquet \(days=",
        ),
        (to_parquet(text=pa.repeat("a", 6_000_000)), "p.parquet", r"p\.parquet: holds more than 5000000 records"),
        (b'["a"', "p.json", r"p\.json: not valid JSON"),
        (b"[" * 100_000, "p.json", r"p\.json: not valid JSON"),
        (b'{"text": "a"}', "p.json", r"p\.json: holds one dict; give a list"),
        ("a".encode("utf-16"), "p.txt", r"p\.txt: is in UTF-16; save it as UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_one_line(content: bytes, name: str, error: str) -> None:
    with pytest.raises(UserError, match=error) as raised:
        parse(content, name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("", r"not one usable prompt \(no records at all\)"),
        ("\n\n\x00\n", r"not one usable prompt \(1 control characters, 2 empty\)"),
        ("prompt number 1\n", "none of its 1 prompts is for eval; add prompts"),
        ("prompt number 0\n", "none of its 1 prompts is for train"),
    ],
)
def test_a_file_without_prompts_for_both_sides_is_refused(tmp_path: Path, content: str, error: str) -> None:
    source = tmp_path / "p.txt"
    source.write_text(content)
    with pytest.raises(UserError, match=f"p.txt: {error}"):
        prepare(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["p.txt"]


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.txt: cannot be read \(No such file or directory\)"):
        prepare(tmp_path / "absent.txt", tmp_path / "out")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(UserError, match=r"folder\.txt: cannot be read \(Is a directory\)"):
        prepare(tmp_path / "folder.txt", tmp_path / "out")


def test_a_prompt_set_is_written_with_its_counts_and_problems(tmp_path: Path) -> None:
    source = tmp_path / "p.txt"
    source.write_text("\n".join([*NUMBERS, "", NUMBERS[7].upper()]))
    written = prepare(source, tmp_path / "out")

    assert written == PromptSet.load(tmp_path / "out")
    assert written.num_train + written.num_eval == len(NUMBERS)
    assert written.categories == {"": len(NUMBERS)}
    assert written.problems == {"duplicate": 1, "empty": 1}
    assert written.source == DataSource(path=str(source), sha256=sha256_file(source))
    assert [json.loads(line) for line in (tmp_path / "out/problems.jsonl").read_text().splitlines()] == [
        {"where": "line 61", "reason": "empty", "excerpt": ""},
        {"where": "line 62", "reason": "duplicate", "excerpt": "PROMPT NUMBER 7"},
    ]
    with pytest.raises(UserError, match="exists already"):
        prepare(source, tmp_path / "out")
    assert prepare(source, tmp_path / "out", overwrite=True) == written


def test_prompts_are_loaded_by_side_and_only_if_unchanged(tmp_path: Path) -> None:
    source = tmp_path / "p.jsonl"
    source.write_text(
        '{"text": "a naïve cat", "split": "EVAL", "category": "x"}\n{"text": "a dog", "split": "train"}\n'
    )
    written = prepare(source, tmp_path / "out")
    opened = open_prompts(tmp_path / "out")
    assert (opened.folder, opened.prompt_set) == (tmp_path / "out", written)
    assert opened.eval == (Prompt("a naïve cat", "x"),)
    assert opened.train == (Prompt("a dog", ""),)

    with (tmp_path / "out/prompts.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(UserError, match=r"prompts\.jsonl: is not the one that .* names.*; prepare the prompts again"):
        open_prompts(tmp_path / "out")


def test_about_one_prompt_in_six_is_held_out() -> None:
    sides = Counter(split_of(f"a picture of {number}") for number in range(6000))
    assert sides["eval"] / 6000 == pytest.approx(EVAL_FRACTION, abs=0.015)


def test_the_split_is_the_same_in_every_version_of_the_program() -> None:
    assert [number for number in range(40) if split_of(f"prompt number {number}") == "eval"] == [0, 24, 29, 36]


@given(old=st.sets(st.text(min_size=1), min_size=1), new=st.sets(st.text(min_size=1)))
def test_adding_prompts_never_moves_others(old: set[str], new: set[str]) -> None:
    before, _ = parse(json.dumps(sorted(old)).encode(), "p.json")
    after, _ = parse(json.dumps(sorted(new) + sorted(old)).encode(), "p.json")
    sides = {prompt.text.casefold(): prompt.split for prompt in after}
    assert all(sides[prompt.text.casefold()] == prompt.split for prompt in before)


def assert_accounted_for(content: bytes, name: str, records: int) -> None:
    prompts, problems = parse(content, name)
    assert len(prompts) + len(problems) == records
    assert len({problem.where for problem in problems}) == len(problems)
    for prompt in prompts:
        assert prompt.text == " ".join(prompt.text.split()) != ""
        assert len(prompt.text) <= MAX_CHARACTERS
        prompt.text.encode()


def count_lines(content: bytes) -> int:
    lines = re.split(rb"\r\n|\r|\n", content)
    return len(lines) - (lines[-1] == b"")


@given(st.binary() | st.text().map(str.encode))
def test_every_line_of_a_text_file_is_accounted_for(content: bytes) -> None:
    assert_accounted_for(b"a\n" + content, "p.txt", 1 + count_lines(content))
    assert_accounted_for(b"1\n" + content, "p.jsonl", 1 + count_lines(content))
    unquoted = content.replace(b'"', b"")  # a quoted field may have many lines
    assert_accounted_for(b"prompt\tcategory\n" + unquoted, "p.tsv", count_lines(unquoted))


@given(st.lists(st.tuples(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))))
def test_every_row_of_a_csv_file_is_accounted_for(rows: list[tuple[str, str]]) -> None:
    file = io.StringIO()
    csv.writer(file).writerows([("prompt", "category"), *rows])
    assert_accounted_for(file.getvalue().encode(), "p.csv", len(rows))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["text", "Prompt", "style", "split", ""]), inner),
    max_leaves=5,
)


@given(st.lists(JSON_VALUES))
def test_every_record_of_a_json_file_is_accounted_for(values: list[object]) -> None:
    assert_accounted_for(json.dumps(values).encode(), "p.json", len(values))


@given(st.lists(st.none() | st.text(st.characters(codec="utf-8"))))
def test_every_row_of_a_parquet_file_is_accounted_for(texts: list[str | None]) -> None:
    content = to_parquet(text=pa.array(texts, pa.string()), n=list(range(len(texts))))
    assert_accounted_for(content, "p.parquet", len(texts))


@given(st.binary() | st.text(alphabet='"\\,\t\r\n[]{}:text \ufeff\x00é').map(str.encode), st.sampled_from(SUFFIXES))
def test_no_content_raises_anything_but_a_user_error(content: bytes, suffix: str) -> None:
    with suppress(UserError):
        parse(content, f"p{suffix}")


def test_a_benchmark_is_held_out_whole_whatever_it_says_itself(tmp_path: Path) -> None:
    source = tmp_path / "benchmark.jsonl"
    source.write_text('{"text": "a cat", "split": "train"}\n{"text": "a dog"}\n', encoding="utf-8")
    prepared = prepare(source, tmp_path / "set", held_out=True)
    assert (prepared.num_train, prepared.num_eval) == (0, 2)
    assert [prompt.text for prompt in open_prompts(tmp_path / "set").eval] == ["a cat", "a dog"]
