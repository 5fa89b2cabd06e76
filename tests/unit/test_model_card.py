from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from markdown_it import MarkdownIt
from PIL import Image

from drtune.config import Config, MethodConfig, RewardTerm, load_config
from drtune.contracts import Capability, Check, DataSource, Decision, EvaluationReport, PromptSet, TunedModel
from drtune.errors import UserError
from drtune.evaluation.capability.shares import score_of
from drtune.models.loading import BASES
from drtune.publishing.model_card import KINDS, LICENSES, METHODS, PICTURE, draw_picture, render_model_card
from tests.folders import Folders, make_folders, with_highlights
from tests.reports import report_of, score, tuned_model
from tests.unit.test_markdown import TEXTS


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


def test_only_a_base_of_a_hub_is_named_there_and_its_licence_goes_with_it(tmp_path: Path) -> None:
    def front_matter(base_model: str) -> dict[str, Any]:
        card = _card(make_folders(tmp_path / base_model.replace("/", "-"), base_model=base_model))
        values: dict[str, Any] = yaml.safe_load(card.split("---\n", 2)[1])
        return values

    assert not {"base_model", "base_model_relation"} & front_matter("/models/my base").keys()
    assert "license" not in front_matter("owner/base")
    sdxl = front_matter("stabilityai/stable-diffusion-xl-base-1.0")
    assert (sdxl["license"], sdxl["base_model_relation"]) == ("openrail++", "adapter")
    flux = front_matter("black-forest-labs/FLUX.1-dev")
    assert (flux["license"], flux["license_name"]) == ("other", "flux-1-dev-non-commercial-license")
    assert flux["license_link"] == "https://huggingface.co/black-forest-labs/FLUX.1-dev"


def test_the_licence_of_every_base_that_a_shipped_configuration_tunes_is_known() -> None:
    for path in (Path(__file__).parents[2] / "configs").glob("*.yaml"):
        base_model = yaml.safe_load(path.read_text(encoding="utf-8")).get("base_model")
        assert base_model is None or base_model in LICENSES


def test_pictures_are_shown_with_their_prompts_the_worst_too(tmp_path: Path) -> None:
    folders = make_folders(tmp_path)
    report = with_highlights(EvaluationReport.load(folders.report), folders.report)
    draw_picture(report, folders.report, tmp_path / PICTURE)
    with Image.open(tmp_path / PICTURE) as picture:
        assert picture.size == (4 * 256 + 3 * 4, 2 * (256 + 16) + 4)  # with captions
        columns = [[picture.getpixel((128 + 260 * column, y)) for y in (128, 388)] for column in range(4)]
    assert columns == [[(index, 0, 0), (index, 0, 255)] for index in (0, 1, 2, 4)]  # 4 is the first of those lost

    model, decision = TunedModel.load(folders.model), Decision.load(folders.decision)
    config = load_config(folders.model / "config.yaml")
    card = render_model_card("my-model", model, report, decision, config)
    assert "](before-after.png)\n" in card
    assert "\n1. prompt 0 (among the largest gains)\n" in card
    assert "\n1. prompt 4 (the largest loss)\n" in card
    gained = report.model_copy(update={"lost": report.gained[3:]})
    assert "\n1. prompt 3 (the smallest gain)\n" in render_model_card("my-model", model, gained, decision, config)

    (folders.report / "thumbnails" / "0-base.png").unlink()
    with pytest.raises(UserError, match=r"0-base.png: cannot be read \(No such file or directory\); evaluate again"):
        draw_picture(report, folders.report, tmp_path / PICTURE)


@settings(max_examples=30)
@given(TEXTS, TEXTS)
def test_no_name_path_or_reason_breaks_a_table_or_becomes_markup(one: str, other: str) -> None:
    source = DataSource(path=one, sha256="", git_revision=other, dvc_md5=one)
    prompts = PromptSet(sha256=other, num_train=1, num_eval=1, categories={}, problems={}, source=source)
    model = tuned_model(base_model=one, base_revision=other, prompts=prompts, code_revision=one)
    asked = [score_of(category, 40, base=0.9, gained=1, lost=2) for category in (None, other)]
    found = Capability(judge=one, provenance="", scores=tuple(asked), lost=())
    report = report_of(score(one), score(other + "x"), model=model, capability=found)
    checks = (Check(passed=True, reason=one), Check(passed=True, reason=other))
    decision = Decision(publish=True, checks=checks, report_sha256=one, policy_sha256=other)
    config = Config().model_copy(update={"rewards": {one: RewardTerm(), other + "x": RewardTerm()}})
    card = render_model_card("my-model", model, report, decision, config)
    tokens = MarkdownIt("commonmark").enable("table").parse(card.split("---\n", 2)[2])
    compile(next(token.content for token in tokens if token.type == "fence"), "snippet", "exec")
    kinds = [token.type for token in tokens]
    assert kinds.count("table_open") == 4
    assert kinds.count("td_open") == 6 * len({one, other + "x"}) + 5 * len(asked) + 2 * (len(config.rewards) + 6 + 10)
    assert kinds.count("heading_open") == 7
    assert kinds.count("bullet_list_open") == 2 if any(map(str.strip, (one, other))) else 1
    assert "html_block" not in kinds
    inline = {child.type for token in tokens for child in token.children or []}
    assert inline <= {"text", "softbreak", "code_inline", "link_open", "link_close"}


def test_scores_stand_in_a_table_without_categories(tmp_path: Path) -> None:
    lines = _card(make_folders(tmp_path)).splitlines()
    row = lines.index("| Reward | Tuned on | Base | This model | Gain | Win rate |")
    assert lines[row + 2 : row + 5] == [
        "| symmetry | yes | 0.5600 | 0.8300 | +0.2700 (+0.2500 to +0.2900) | 95 % (93 to 97) |",
        "| brightness | no | 0.5000 | 0.4000 | -0.1000 (-0.1200 to -0.0800) | 90 % (88 to 92) |",
        "",
    ]


def test_a_score_on_too_few_prompts_has_no_interval(tmp_path: Path) -> None:
    folders = make_folders(tmp_path)
    report = EvaluationReport.load(folders.report)
    few = {"gain_low": None, "gain_high": None, "win_low": None, "win_high": None, "p_value": None}
    scores = tuple(one.model_copy(update=few) for one in report.scores)
    report.model_copy(update={"scores": scores}).save(folders.report)
    assert "\n| symmetry | yes | 0.5600 | 0.8300 | +0.2700 (too few prompts) | 95 % |\n" in _card(folders)


def test_every_table_row_has_as_many_cells_as_its_head(tmp_path: Path) -> None:
    for table in _card(make_folders(tmp_path)).split("\n\n"):
        rows = [line for line in table.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1


def test_settings_provenance_and_reasons_are_stated(tmp_path: Path) -> None:
    relative = ("praise=a bright", "blame=a dark", "hinge=0.1")
    card = _card(make_folders(tmp_path, settings=[f"rewards.preference.{setting}" for setting in relative]))
    for line in (
        "| Reward | 1 \N{MULTIPLICATION SIGN} symmetry |",
        "| Reward | 0.5 \N{MULTIPLICATION SIGN} preference (tuned on 'a bright' less 'a dark' up to 0.1) |",
        "| Method | DRTune, trained_steps 4, early_stop 3 |",
        "| Sampler | ddim, 12 steps, guidance 1.0 |",
        "| Optimizer updates | 80, 8 prompts each, learning rate 0.0002 |",
        f"| Data revision | {'4a1b' * 10} |",
        f"| DVC md5 | {'d751' * 8} |",
        f"| Prompts sha256 | {'1c3e' * 16} |",
        f"| Code revision | {'77aa' * 10} |",
        f"| Config sha256 | {TunedModel.load(tmp_path / 'model').config_sha256} |",
        f"| Policy sha256 | {'c7aa' * 16} |",
        f"| Weights sha256 | {TunedModel.load(tmp_path / 'model').weights_sha256} |",
        "- symmetry: gain 0.27, at least 0.10 wanted",
        "- brightness: not lost",
    ):
        assert f"\n{line}\n" in card


def test_the_cluster_file_is_named_by_its_digest_where_there_was_one(tmp_path: Path) -> None:
    folders = make_folders(tmp_path)
    assert "Cluster file" not in _card(folders)
    TunedModel.load(folders.model).model_copy(update={"cluster_sha256": "c1de" * 16}).save(folders.model)
    assert f"\n| Cluster file sha256 | {'c1de' * 16} |\n" in _card(folders)


def test_the_snippet_is_python_for_each_kind_of_base(tmp_path: Path) -> None:
    miniature = _snippet(_card(make_folders(tmp_path / "a")))
    hub = _snippet(_card(make_folders(tmp_path / "b", base_model="owner/base")))
    pinned = _snippet(_card(make_folders(tmp_path / "c", base_model="owner/base", base_revision="fp16")))
    for snippet in (miniature, hub, pinned):
        compile(snippet, "snippet", "exec")
        assert "\n    num_inference_steps=12,\n    guidance_scale=3.0,\n)" in snippet
        assert "prompt=" not in snippet
        assert "\n    height=32,\n    width=32,\n" in snippet
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
            "height": 512,
            "width": 768,
        }
    )
    changes = ["compute.precision=bf16", "method.name=alignprop"]
    config = load_config(folders.model / "config.yaml", changes)
    model, decision = TunedModel.load(folders.model), Decision.load(folders.decision)
    card = render_model_card("my-model", model, report, decision, config)
    snippet = _snippet(card)
    compile(snippet, "snippet", "exec")
    assert 'FluxPipeline.from_pretrained("owner/flux", dtype=torch.bfloat16)' in snippet
    assert "pipe.transformer = AutoModel" in snippet
    late = _snippet(render_model_card("my-model", model, report.model_copy(update={"base_steps": 3}), decision, config))
    compile(late, "snippet", "exec")
    assert "    if step + 1 == 3:\n" in late
    assert "    callback_on_step_end=put_on,\n).images[0]" in late
    assert '    negative_prompt="a \\"bad\\" one",\n    height=512,\n    width=768,\n' in snippet
    assert "by\n[AlignProp](https://arxiv.org/abs/2310.03739)" in card
    assert "12 steps of `FlowMatchEulerDiscreteScheduler` at guidance 3.0" in card
    assert "\n| Method | AlignProp, trained_steps 4 |\n| Sampler | flow_euler, 12 steps, guidance 1.0 |\n" in card
    assert "- flux\n" in card


def test_every_base_and_method_is_known() -> None:
    assert {name: (kind.network, kind.sampler) for name, kind in KINDS.items()} == {
        name: (base.network_name, base.samplers[0]) for name, base in BASES.items()
    }
    for name, kind in KINDS.items():
        assert BASES[name].guidance_argument(3.0) == {kind.guidance: 2 + kind.unguided}
        assert BASES[name].names_negative == kind.names_negative
    assert set(METHODS) == set(get_args(MethodConfig.model_fields["name"].annotation))
    for method in METHODS.values():
        assert set(method.keys) <= set(MethodConfig.model_fields)


def test_the_same_content_gives_the_same_card(tmp_path: Path) -> None:
    assert _card(make_folders(tmp_path / "a")) == _card(make_folders(tmp_path / "b"))
