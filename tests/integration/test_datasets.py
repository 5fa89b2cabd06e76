"""Prompts by the name of a data set, from a stand-in of the hub."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
from huggingface_hub import HfApi
from hypothesis import given
from hypothesis import strategies as st

from components.prepare_prompts.run import refuse_absent
from drtune.errors import UserError
from drtune.files.local import LARGEST_READ
from drtune.prompts.datasets import Address, is_from, read_dataset, source_of
from drtune.prompts.prepare import prepare
from tests.hub import COMMIT, Hub


@pytest.fixture
def hub() -> Iterator[Hub]:
    table = io.BytesIO()
    pd.DataFrame({"Caption_Text": ["a red ring", "a cat"], "id": [1, 2]}).to_parquet(table)
    with Hub() as hub:
        hub.datasets["owner/set"] = {
            "README.md": b"# A set",
            "LICENSE.txt": b"Apache License",
            "dataset_infos.json": b"{}",
            "data/train-00000-of-00002.jsonl": b'{"prompt": "a cat"}\n{"prompt": "a dog", "style": "photo"}\n',
            "data/train-00001-of-00002.jsonl": b'{"prompt": "A Cat"}\n{"prompt": ""}\n',
            "data/test.csv": b"prompt\na house\n",
            "more/captions.parquet": table.getvalue(),
            "list.txt": b"a boat\na tree\n",
        }
        yield hub


def read(hub: Hub, address: str) -> tuple[list[str], list[str]]:
    found = read_dataset(f"hf://datasets/{address}", HfApi(endpoint=hub.url))
    return [prompt.text for prompt in found.prompts], [f"{one.where}: {one.reason}" for one in found.problems]


def test_files_of_a_split_a_folder_or_by_name_are_read_and_no_licence(hub: Hub) -> None:
    prompts, problems = read(hub, "owner/set?split=train")
    assert prompts == ["a cat", "a dog"]
    second = "data/train-00001-of-00002.jsonl"
    assert sorted(problems) == [f"{second}: duplicate", f"{second}: line 2: empty"]
    assert read(hub, "owner/set/data")[0] == ["a house", "a cat", "a dog"]
    assert read(hub, "owner/set@main/list.txt")[0] == ["a boat", "a tree"]
    assert read(hub, "owner/set/more?column=caption_text")[0] == ["a red ring", "a cat"]
    with pytest.raises(
        UserError, match=r"captions\.parquet: no column text, prompt, caption \(columns: 'Caption_Text, id'\)"
    ):
        read(hub, "owner/set/more")


def test_a_prompt_set_names_the_commit_that_it_was_read_from(hub: Hub, tmp_path: Path) -> None:
    address = "hf://datasets/owner/set?split=train"
    made = prepare(read_dataset(address, HfApi(endpoint=hub.url)), tmp_path / "set", held_out=True)
    assert (made.source.path, made.source.git_revision, made.num_eval) == (address, COMMIT, 2)
    assert made.categories == {"": 1, "photo": 1}
    assert is_from(made, Path(address))  # which has but one slash
    assert not is_from(made, "hf://datasets/owner/set")
    with pytest.raises(UserError, match=r"prompts hf://datasets/owner: is no data set of the hub"):
        source_of(Path("hf://datasets/owner"))
    refuse_absent(address)  # which is for the step to look up


def test_what_is_not_there_is_told_in_one_line(hub: Hub) -> None:
    for address, told in (
        ("owner/other", "has no such data set; correct the name, or set HF_TOKEN if it is private"),
        ("owner/set@v9", "the data set has no such revision"),
        ("owner/set?split=dev", r"none of its files is meant \(it holds LICENSE.txt, README.md, "),
        ("owner/set?size=3", "is no data set of the hub; give hf://datasets/owner/name"),
        ("owner", "is no data set of the hub"),
    ):
        with pytest.raises(UserError, match=told) as raised:
            read(hub, address)
        assert "\n" not in str(raised.value)
    hub.datasets["owner/large"] = {"a.jsonl": b"x"}
    hub.sizes["a.jsonl"] = LARGEST_READ + 1
    with pytest.raises(UserError, match=r"a\.jsonl has 256 MiB, more than 256; name a smaller file"):
        read(hub, "owner/large")
    with pytest.raises(OSError, match=r"no answer \(ConnectError\); try again, or correct HF_ENDPOINT"):
        read_dataset("hf://datasets/owner/set", HfApi(endpoint="http://127.0.0.1:1"))


@given(st.text(max_size=40))
def test_any_address_is_read_or_refused_in_one_line(text: str) -> None:
    with suppress(UserError):
        assert Address.read(f"hf://datasets/{text}").repository.count("/") == 1
