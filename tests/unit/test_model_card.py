from __future__ import annotations

from pathlib import Path
from typing import get_args

import yaml

from drtune.config import MethodConfig, load_config
from drtune.contracts import Decision, EvaluationReport, TunedModel
from drtune.models.loading import BASES
from drtune.publishing.model_card import KINDS, METHODS, render_model_card
from tests.folders import Folders, make_folders


def _card(folders: Folders) -> str:
    return render_model_card(
        "my-model",
        TunedModel.load(folders.model),
        EvaluationReport.load(folders.report),
        Decision.load(folders.decision),
        load_config(folders.model / "config.yaml"),
    )


def _snippet(card: str) -> str:
    return card.partition("```python\n")[2].partition("```")[0]


def test_front_matter_is_what_a_hub_expects(tmp_path: Path) -> None:
    card = _card(make_folders(tmp_path, base_model="owner/base"))
    _, front_matter, _ = card.split("---\n", 2)
    values = yaml.safe_load(front_matter)
    assert values["base_model"] == "owner/base"
    assert values["library_name"] == "diffusers"
    assert values["pipeline_tag"] == "text-to-image"
    assert "lora" in values["tags"]


def test_scores_stand_in_a_table_without_categories(tmp_path: Path) -> None:
    lines = _card(make_folders(tmp_path)).splitlines()
    row = lines.index("| Reward | Tuned on | Base | This model | Gain | Win rate |")
    assert lines[row + 2 : row + 5] == [
        "| symmetry | yes | 0.5600 | 0.8300 | +0.2700 (+0.2500 to +0.2900) | 95 % (93 to 97) |",
        "| brightness | no | 0.5000 | 0.4000 | -0.1000 (-0.1200 to -0.0800) | 90 % (88 to 92) |",
        "",
    ]


def test_every_table_row_has_as_many_cells_as_its_head(tmp_path: Path) -> None:
    for table in _card(make_folders(tmp_path)).split("\n\n"):
        rows = [line for line in table.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1


def test_settings_provenance_and_reasons_are_stated(tmp_path: Path) -> None:
    card = _card(make_folders(tmp_path))
    for line in (
        "| Reward | symmetry, weight 1.0 |",
        "| Reward | preference, weight 0.5 |",
        "| Method | DRTune, trained_steps 4, early_stop 3 |",
        "| Sampler | ddim, 12 steps, guidance 1.0 |",
        "| Optimizer updates | 80, 8 prompts each, learning rate 0.0002 |",
        f"| Data revision | {'4a1b' * 10} |",
        f"| DVC md5 | {'d751' * 8} |",
        f"| Prompts sha256 | {'1c3e' * 16} |",
        f"| Code revision | {'77aa' * 10} |",
        f"| Weights sha256 | {TunedModel.load(tmp_path / 'model').weights_sha256} |",
        "- symmetry: gain 0.27, at least 0.10 wanted",
        "- brightness: not lost",
    ):
        assert f"\n{line}\n" in card


def test_the_snippet_is_python_for_each_kind_of_base(tmp_path: Path) -> None:
    miniature = _snippet(_card(make_folders(tmp_path / "a")))
    hub = _snippet(_card(make_folders(tmp_path / "b", base_model="owner/base")))
    pinned = _snippet(_card(make_folders(tmp_path / "c", base_model="owner/base", base_revision="fp16")))
    for snippet in (miniature, hub, pinned):
        compile(snippet, "snippet", "exec")
        assert "\n    num_inference_steps=12,\n    guidance_scale=3.0,\n)" in snippet
        assert "prompt=" not in snippet
        assert "height" not in snippet
    assert "from_pretrained(drtune.models.miniature.CHECKPOINT, dtype=torch.float32)" in miniature
    assert 'from_pretrained("owner/base", dtype=torch.float32)' in hub
    assert '"owner/base", revision="fp16", dtype=torch.float32' in pinned


def test_a_whole_network_is_loaded_into_the_pipeline(tmp_path: Path) -> None:
    card = _card(make_folders(tmp_path, weights="full"))
    snippet = _snippet(card)
    compile(snippet, "snippet", "exec")
    assert 'pipe.unet = AutoModel.from_pretrained(folder, subfolder="network"' in snippet
    assert "lora" not in card.lower()
    assert "adapter" not in card.lower()


def test_the_names_of_base_method_and_settings_are_those_of_the_run(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, base_model="owner/flux", weights="full")
    report = EvaluationReport.load(folders.report).model_copy(
        update={
            "pipeline": "FluxPipeline",
            "scheduler": "FlowMatchEulerDiscreteScheduler",
            "negative_prompt": 'a "bad" one',
        }
    )
    settings = ["height=512", "width=768", "compute.precision=bf16", "method.name=alignprop"]
    config = load_config(folders.model / "config.yaml", settings)
    model, decision = TunedModel.load(folders.model), Decision.load(folders.decision)
    card = render_model_card("my-model", model, report, decision, config)
    snippet = _snippet(card)
    compile(snippet, "snippet", "exec")
    assert 'FluxPipeline.from_pretrained("owner/flux", dtype=torch.bfloat16)' in snippet
    assert "pipe.transformer = AutoModel" in snippet
    assert '    negative_prompt="a \\"bad\\" one",\n    height=512,\n    width=768,\n' in snippet
    assert "by\n[AlignProp](https://arxiv.org/abs/2310.03739)" in card
    assert "12 steps of `FlowMatchEulerDiscreteScheduler` at guidance 3.0" in card
    assert "\n| Method | AlignProp, trained_steps 4 |\n| Sampler | flow_euler, 12 steps, guidance 1.0 |\n" in card
    assert "- flux\n" in card


def test_every_base_and_method_is_known() -> None:
    assert {name: (kind.network, kind.sampler) for name, kind in KINDS.items()} == {
        name: (base.network_name, base.samplers[0]) for name, base in BASES.items()
    }
    assert set(METHODS) == set(get_args(MethodConfig.model_fields["name"].annotation))
    for method in METHODS.values():
        assert set(method.keys) <= set(MethodConfig.model_fields)


def test_the_same_content_gives_the_same_card(tmp_path: Path) -> None:
    assert _card(make_folders(tmp_path / "a")) == _card(make_folders(tmp_path / "b"))
