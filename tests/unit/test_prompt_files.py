"""Prompt files as they come from elsewhere: each has a prompt a record, in its own words."""

from __future__ import annotations

import io
import json

import pandas as pd
import pytest

from drtune.errors import UserError
from drtune.prompts.prepare import parse, prepare
from drtune.prompts.records import SPLITS

KITE, BOAT, LAMP = TEXTS = [
    "a red kite on a green field",
    "a small boat on a dark field",
    "a blue lamp on a sand field",
]


def read(content: str, name: str) -> list[tuple[str, str]]:
    """Every prompt with its category, where nothing is refused."""
    prompts, problems = parse(content.encode(), name)
    assert problems == []
    return [(prompt.text, prompt.category) for prompt in prompts]


def lines(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.mark.parametrize("header", ["Prompts,Category", "PROMPT,CATEGORY", " caption ,Style", "texts,tag"])
def test_a_header_counts_in_any_case_and_in_the_plural(header: str) -> None:
    assert read(f"{header}\n{KITE},Colors\n{BOAT},Colors\n", "p.csv") == [(KITE, "Colors"), (BOAT, "Colors")]


def test_the_tag_of_geneval_is_the_category() -> None:
    record = {"tag": "single_object", "include": [{"class": "kite", "count": 1}], "prompt": KITE}
    assert read(lines(record), "p.jsonl") == [(KITE, "single_object")]


def test_the_questions_of_geneval_2_stand_beside_its_prompts() -> None:
    questions = [["How many kites are in the image?", "one"], ["Is the kite red?", "Yes"]]
    record = {"prompt": KITE, "atom_count": 3, "vqa_list": questions, "skills": ["count", "attribute"]}
    assert read(lines(record), "geneval2_data.jsonl") == [(KITE, "")]


def test_the_annotations_of_coco_hold_the_captions() -> None:
    annotations = [{"image_id": number, "id": number, "caption": text} for number, text in enumerate(TEXTS)]
    content = json.dumps({"info": {}, "images": [{"id": 0}], "annotations": annotations})
    assert read(content, "p.json") == [(text, "") for text in TEXTS]


def test_lists_by_style_have_it_as_their_category_and_those_by_split_as_their_side() -> None:
    styles = {"anime": [KITE, {"prompt": BOAT}], "photo": [{"text": LAMP, "category": "mine"}]}
    assert read(json.dumps(styles), "p.json") == [(KITE, "anime"), (BOAT, "anime"), (LAMP, "mine")]
    prompts, _ = parse(json.dumps({"train": [KITE], "test": [BOAT]}).encode(), "p.json")
    assert [(prompt.split, prompt.category) for prompt in prompts] == [("train", ""), ("eval", "")]
    assert read(json.dumps({"prompts": TEXTS}), "p.json") == [(text, "") for text in TEXTS]
    _, [problem] = parse(json.dumps({"anime": [KITE, 3]}).encode(), "p.json")
    assert (problem.where, problem.reason) == ("record 2 of anime", "wrong type")


@pytest.mark.parametrize(
    ("category", "expected"),
    [(0.0, "0"), (2.0, "2"), (0.5, "0.5"), (3, "3"), (None, ""), (float("nan"), ""), (["a", "b"], "a, b"), ([], "")],
)
def test_no_category_of_a_table_loses_its_prompt(category: object, expected: str) -> None:
    assert read(lines({"prompt": KITE, "category": category}), "p.jsonl") == [(KITE, expected)]


def test_numbers_with_gaps_in_parquet_are_the_categories_that_they_were() -> None:
    file = io.BytesIO()
    pd.DataFrame({"prompt": TEXTS, "category": [0, None, 2]}).to_parquet(file)
    prompts, problems = parse(file.getvalue(), "p.parquet")
    assert ([prompt.category for prompt in prompts], problems) == (["0", "", "2"], [])


def test_a_blank_field_does_not_hide_the_one_that_is_filled() -> None:
    assert read(f"text,prompt\n,{KITE}\n  ,{BOAT}\n{LAMP},not this\n", "p.csv") == [(t, "") for t in TEXTS]


def test_of_two_columns_of_one_name_none_is_guessed() -> None:
    for content, name in [
        ("prompt,category,prompt\na,c,b\n", "p.csv"),
        ("Prompt\tprompt \na\tb\n", "p.tsv"),
        ('[{"prompt": "a", "Prompt": "b"}]', "p.json"),
    ]:
        with pytest.raises(UserError, match=r"prompts p\..*(2 columns|two fields) 'prompt'"):
            parse(content.encode(), name)
    prompts, [problem] = parse(b'"a cat"\n{"prompt": "a", "prompt": "b"}\n', "p.jsonl")
    assert ([prompt.text for prompt in prompts], problem.reason) == (["a cat"], "two fields 'prompt'")


def test_the_quotes_of_a_quoted_table_are_not_the_prompts() -> None:
    sign, wall = 'A sign that says "number 0", in neon', 'The words "fly 0" on a wall'
    quoted = sign.replace('"', '""')
    assert read(f'Prompt\tCategory\n"{quoted}"\tc\n', "p.tsv") == [(sign, "c")]
    assert read(f"Prompt\tCategory\n{wall}\tc\n", "p.tsv") == [(wall, "c")]
    # A line that begins with a quote of its own does not make the others any less quoted.
    assert read(f'Prompt\n"{quoted}"\n"hello" on a sign\n"GIGGLE" or "hush"\n', "p.tsv") == [
        (sign, ""),
        ('"hello" on a sign', ""),
        ('"GIGGLE" or "hush"', ""),
    ]


def test_what_pandas_writes_comes_back_whatever_it_holds() -> None:
    texts = ['two\nlines "and" quotes', '"all of it"', 'an 8" pipe', "plain", 'ends with "one"']
    content = pd.DataFrame({"prompt": texts, "category": "c"}).to_csv(sep="\t", index=False)
    assert [text for text, _ in read(content, "p.tsv")] == [text.replace("\n", " ") for text in texts]


def test_a_quote_that_is_never_closed_does_not_swallow_the_lines_below() -> None:
    content = 'prompt\tcategory\n"never closed\tc\na cat\tc\nan 8"\tc\n'
    assert [text for text, _ in read(content, "p.tsv")] == ['"never closed', "a cat", 'an 8"']


def test_the_names_that_splits_have_elsewhere_count() -> None:
    assert SPLITS == {"train": "train", "eval": "eval", "test": "eval", "val": "eval", "validation": "eval"}
    prompts, _ = parse(lines(*({"prompt": f"a {name}", "split": name.upper()} for name in SPLITS)).encode(), "p.jsonl")
    assert [prompt.split for prompt in prompts] == ["train", "eval", "eval", "eval", "eval"]


def test_an_unknown_split_is_refused_with_those_that_count(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("unknown")
    rows = [{"prompt": text, "split": split} for text, split in zip(TEXTS, ["train", "val", "held"], strict=True)]
    (folder / "p.jsonl").write_text(lines(*rows), encoding="utf-8")
    with pytest.raises(UserError, match=r"split 'held' is not known; name a split train, or eval, test, val or valid"):
        prepare(folder / "p.jsonl", folder / "set")
    assert prepare(folder / "p.jsonl", folder / "set", held_out=True).num_eval == 3  # there no split counts
