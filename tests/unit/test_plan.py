"""A plan counts what a run really holds and does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from drtune.cli.main import main
from drtune.config import Config, load_config
from drtune.errors import UserError
from drtune.models.loading import load_base
from drtune.models.miniature.world import scenes
from drtune.prompts.prepare import open_prompts, prepare
from drtune.training.plan.architectures import shell
from drtune.training.plan.autocast import cuda_autocast
from drtune.training.plan.estimate import Estimate, estimate, remedy
from drtune.training.plan.memory import measure
from drtune.training.plan.meter import LiveBytes, SavedBytes, bytes_of
from drtune.training.plan.published import published
from drtune.training.plan.rewards import networks, reward_shell
from drtune.training.plan.sharded import gathered_bytes
from drtune.training.plan.table import as_text
from drtune.training.plan.units import UNITS, parse_bytes
from drtune.training.plan.work import Count, count_work, drawn_plans
from drtune.training.processes import Processes
from drtune.training.run import Trainer
from tests.pipelines import FolderOf, side_of

SHORT = ("batch_size=2", "sampler.steps=6", "method.trained_steps=3", "method.early_stop=2")
MIB = UNITS["MiB"]


def work_of(*overrides: str) -> tuple[Count, Count]:
    config = load_config(None, ["sampler.steps=6", "method.trained_steps=3", "method.early_stop=2", *overrides])
    return count_work(config, shell(config).sampler(config.sampler), drawn_plans(config))


@pytest.mark.parametrize(
    ("overrides", "forwards", "backwards"),
    [
        ([], (5 + 3, 6 + 3), (3, 3)),
        (["compute.keep_graphs=2"], (5 + 1, 6 + 1), (3, 3)),
        (["compute.replay_batch=3"], (5 + 3, 6 + 3), (3, 3)),
        (["base_penalty=0.1"], (5 + 6, 6 + 6), (3, 3)),
        (["method.name=refl"], (5, 6 + 1), (1, 1)),
        (["method.name=draft_k"], (6 + 3, 6 + 3), (3, 3)),
        (["method.name=draft_lv", "method.renoised=2"], (6 + 1 + 2 * 2, 6 + 1 + 2 * 2), (3, 3)),
        (["method.name=alignprop"], (6 + 1, 6 + 3), (1, 3)),
        (["method.name=full"], (12, 12), (6, 6)),
        (["method.name=leapalign"], (6 + 2, 6 + 2), (2, 2)),
        (["method.name=direct_align", "method.recoveries=2"], (6 + 4, 6 + 4), (2, 2)),
        (["method.name=direct_align", "method.pictures=pictures"], (2, 2), (1, 1)),
        (["method.name=srpo", "method.rho=0.1"], (6 + 4, 6 + 4), (2, 2)),
        (["method.name=srpo", "method.weight_rho=0.1"], (2 * (6 + 4), 2 * (6 + 4)), (4, 4)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_work_of_every_method_is_that_of_its_own_plans(
    overrides: list[str], forwards: tuple[int, int], backwards: tuple[int, int]
) -> None:
    made, back = work_of(*overrides)
    assert forwards[0] <= made.least <= made.mean <= made.most <= forwards[1]
    assert (back.least, back.most) == backwards


def run_of(config: Config, tmp_path: Path) -> Trainer:
    (tmp_path / "captions.txt").write_text("\n".join(scene.caption for scene in scenes(seed=7, count=60)))
    prepare(tmp_path / "captions.txt", tmp_path / "prompts")
    return Trainer(config, open_prompts(tmp_path / "prompts"), tmp_path / "out", Processes())


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(["sampler.guidance_scale=3"], marks=pytest.mark.slow),
        pytest.param(
            ["sampler.guidance_scale=3", "sampler.guidance_gradient=conditional", "compute.replay_batch=3"],
            marks=pytest.mark.slow,
        ),
        pytest.param(["compute.keep_graphs=2", "method.name=draft_k"], marks=pytest.mark.slow),
        pytest.param(["compute.gradient_checkpointing=true", "compute.decode_batch_size=1"], marks=pytest.mark.slow),
        pytest.param(["compute.micro_batch_size=1", "rewards={preference: 1, symmetry: 1}"], marks=pytest.mark.slow),
        pytest.param(["method.name=draft_k", "sampler.eta=1"], marks=pytest.mark.slow),
        ["weights=full"],
    ],
    ids=" ".join,
)
def test_the_plan_of_an_update_holds_what_a_real_update_holds(overrides: list[str], tmp_path: Path) -> None:
    config = load_config(None, [*SHORT, *overrides])
    planned = estimate(config).memory
    trainer = run_of(config, tmp_path)
    for weight in trainer.state.weights.values():
        weight.grad = torch.zeros_like(weight)
    pipeline = trainer.base.pipeline
    standing = [*trainer.base.network.parameters(), *trainer.base.network.buffers(), *pipeline.vae.parameters()]
    standing += [weight.grad for weight in trainer.state.weights.values() if weight.grad is not None]
    for reward, _ in trainer.reward.terms:
        reward(torch.rand(1, 3, 32, 32), ["a red circle"])  # what it makes once, it has made
        standing += [tensor for value in vars(reward).values() for tensor in tensors_in(value)]
    live, saved = LiveBytes(standing), SavedBytes(standing)
    plan = drawn_plans(config)[0]
    with live, saved:
        trainer._supervise(1, trainer.slots[: config.compute.rollout_batch(config.batch_size)], plan)
    update = [planned.phases[name] for name in ("roll out", "decode and reward", "sweep back")]
    assert max(phase.saved for phase in update) == pytest.approx(saved.peak, rel=0.05)
    assert max(phase.in_flight for phase in update) == pytest.approx(live.peak, rel=0.05)


def tensors_in(value: object) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, torch.nn.Module):
        return [*value.parameters(), *value.buffers()]
    return [tensor for part in vars(value).values() for tensor in tensors_in(part)] if hasattr(value, "model") else []


@pytest.mark.parametrize(
    "kind",
    [
        "miniature",
        "sd21",
        "sdxl",
        "sd3",
        "sd3_without_t5",
        "flux_dev",
        "z_image",
        "flux2_klein",
        "qwen_image",
        "qwen_image_21",
    ],
)
@pytest.mark.parametrize("precision", ["fp32", pytest.param("fp16", marks=pytest.mark.slow)])
def test_the_weights_of_a_base_are_counted_to_the_byte(kind: str, precision: str, folder_of: FolderOf) -> None:
    name = kind if kind == "miniature" else str(folder_of(kind))
    overrides = [f"base_model={name}", f"compute.precision={precision}"]
    size = [] if kind == "miniature" else [f"height={side_of(kind)}", f"width={side_of(kind)}"]
    config = load_config(None, [*overrides, *size])
    base = load_base(name, precision=precision, height=config.height, width=config.width)
    planned = shell(config)
    for part, real in base.pipeline.components.items():
        if isinstance(real, torch.nn.Module):
            made = getattr(planned.pipeline, part)
            assert {key: (tensor.shape, tensor.dtype) for key, tensor in made.state_dict().items()} == {
                key: (tensor.shape, tensor.dtype) for key, tensor in real.state_dict().items()
            }
    memory = measure(config, planned, planned.sampler(config.sampler), drawn_plans(config))
    assert memory.weights["network, frozen"] == bytes_of([*base.network.parameters(), *base.network.buffers()])
    base.prepare(config.compute)
    vae = base.pipeline.vae
    assert memory.weights["VAE"] == bytes_of([*vae.parameters(), *vae.buffers()])
    assert memory.parameters["network"] == sum(weight.numel() for weight in base.network.parameters())


MILLIONS = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": (859.5, 123.1, 83.7),
    "stabilityai/stable-diffusion-2-1": (865.9, 340.4, 83.7),
    "stabilityai/stable-diffusion-xl-base-1.0": (2567.5, 123.1 + 694.7, 83.7),
    "stabilityai/stable-diffusion-3.5-medium": (2243.2, 123.7 + 694.7 + 4762.3, 83.8),
    "stabilityai/stable-diffusion-3.5-large": (8056.6, 123.7 + 694.7 + 4762.3, 83.8),
    "black-forest-labs/FLUX.1-dev": (11901.4, 123.1 + 4762.3, 83.8),
    "black-forest-labs/FLUX.1-schnell": (11891.2, 123.1 + 4762.3, 83.8),
    "black-forest-labs/FLUX.2-klein-4B": (3875.5, 4022.5, 84.0),
    "black-forest-labs/FLUX.2-klein-base-4B": (3875.5, 4022.5, 84.0),
    "black-forest-labs/FLUX.2-klein-9B": (9078.6, 8190.7, 84.0),
    "black-forest-labs/FLUX.2-klein-base-9B": (9078.6, 8190.7, 84.0),
    "Tongyi-MAI/Z-Image": (6154.9, 4022.5, 83.8),
    "Tongyi-MAI/Z-Image-Turbo": (6154.9, 4022.5, 83.8),
    "Qwen/Qwen-Image": (20430.4, 8292.2, 126.9),
    "Qwen/Qwen-Image-2.1": (7115.1, 8767.1, 337.7),
    "Qwen/Qwen-Image-2.1-Turbo": (7115.1, 8767.1, 337.7),
}


@pytest.mark.slow
def test_every_published_architecture_has_as_many_parameters_as_the_published_weights() -> None:
    assert set(published()["models"]) == set(MILLIONS)
    for name, expected in MILLIONS.items():
        base = shell(load_config(None, [f"base_model={name}"]))
        parts = {key: part for key, part in base.pipeline.components.items() if isinstance(part, torch.nn.Module)}
        encoders = [part for key, part in parts.items() if key.startswith("text_encoder")]
        counted = [
            sum(weight.numel() for module in modules for weight in module.parameters()) / 1e6
            for modules in ([base.network], encoders, [base.pipeline.vae])
        ]
        assert counted == pytest.approx(list(expected), abs=0.2)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("hps", 986.1),
        ("hps_v2", 986.1),
        ("pickscore", 986.1),
        ("clipscore", 427.6),
        ("aesthetic", 304.9),
        ("imagereward", 446.4),
        ("arniqa", 23.5),
        ("hpsv3", 7748.6),
        ("vqascore", 8292.2),
    ],
)
def test_a_published_reward_has_as_many_parameters_as_its_weights(name: str, millions: float) -> None:
    parts = networks([reward_shell(name, antialias=True)])
    assert sum(weight.numel() for part in parts for weight in part.parameters()) / 1e6 == pytest.approx(
        millions, abs=0.2
    )


@pytest.mark.slow
def test_every_published_reward_takes_part_without_its_weights() -> None:
    rewards = "{hps: 1, pickscore: 0.1, clipscore: 0.1, aesthetic: 0.1, imagereward: 1}"
    made = estimate(load_config(None, [*SHORT, f"rewards={rewards}"])).memory
    assert made.weights["rewards"] == pytest.approx(4 * made.parameters["rewards"], rel=1e-3)
    assert made.phases["decode and reward"].saved > 100 * MIB


def test_a_vision_language_reward_is_counted_by_its_weights_and_the_rest_is_told() -> None:
    made = estimate(load_config(None, [*SHORT, "rewards={vqascore: 1}"]))
    assert made.memory.weights["rewards"] == pytest.approx(2 * made.memory.parameters["rewards"], rel=1e-6)  # buffers
    assert "vision-language model as reward the weights are counted, and not what its gradient holds" in as_text(made)


def test_a_reward_of_your_own_takes_part(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def redness(images, prompts):\n    return images[:, 0].mean((1, 2))\n")
    made = estimate(load_config(None, [*SHORT, f"rewards={{'{tmp_path}/mine.py:redness': 1}}"]))
    assert made.memory.phases["decode and reward"].saved > 0
    assert "your own rewards are not counted" in as_text(made)


def test_a_reward_that_looks_at_values_cannot_be_planned(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def mine(images, prompts):\n    assert images.max() > 0\n    return images.mean((1, 2, 3))\n"
    )
    with pytest.raises(UserError, match=r"mine\.py:mine: one of them looks at values") as refusal:
        estimate(load_config(None, [*SHORT, f"rewards={{'{tmp_path}/mine.py:mine': 1}}"]))
    assert "\n" not in str(refusal.value)


@pytest.mark.slow
def test_processes_share_out_full_weights_and_what_follows_them() -> None:
    one, two = (estimate(load_config(None, [*SHORT, "weights=full", f"processes={n}"])).memory for n in (1, 2))
    for part in ("trained", "gradients", "optimizer"):
        assert two.weights[part] == one.weights[part] // 2
    assert two.weights["VAE"] == one.weights["VAE"]


class Nested(torch.nn.Module):
    """A root of 1 number around two blocks of 10, one of which has a block of 100 inside."""

    _no_split_modules = ("Block",)

    def __init__(self) -> None:
        super().__init__()
        self.own = torch.nn.Parameter(torch.zeros(1))
        self.blocks = torch.nn.ModuleList([Block(10, Block(100)), Block(10)])


class Block(torch.nn.Module):
    def __init__(self, size: int, *inside: torch.nn.Module) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(size))
        self.inside = torch.nn.ModuleList(inside)


def test_sharded_weights_are_whole_on_the_way_to_a_block_and_one_ahead() -> None:
    assert gathered_bytes(Nested()) == 4 * ((1 + 10 + 100) + 100)


def test_bytes_that_die_are_no_longer_counted() -> None:
    standing = torch.zeros(1000)
    live = LiveBytes([standing])
    with live:
        kept = standing + 1
        view = kept[10:]
        assert live.now == 4000
        for _ in range(3):
            (standing + 1).sum()
        assert live.peak == 8000 + 4
        del kept
        assert live.now == 4000
        del view
    assert live.now == 0


def test_a_saved_tensor_counts_once_and_until_the_backward_pass() -> None:
    weight = torch.zeros(1000, requires_grad=True)
    saved = SavedBytes([weight])
    with saved:
        squared = weight.exp()
        result = (squared * squared).sum()
        assert saved.now == 4000
        result.backward()
    assert (saved.now, saved.peak) == (0, 4000)


def test_autocast_on_a_gpu_norms_in_fp32() -> None:
    images = torch.randn(1, 4, 8, 8, dtype=torch.bfloat16)
    norm, linear = torch.nn.LayerNorm(8), torch.nn.Linear(8, 8)
    with cuda_autocast():
        assert F.group_norm(images, 2).dtype == torch.bfloat16
        with torch.autocast("cpu", torch.bfloat16):
            assert F.group_norm(images, 2).dtype == torch.float32
            assert norm(images).dtype == torch.float32
            assert F.interpolate(images, scale_factor=2.0).dtype == torch.float32
            assert F.silu(images).dtype == torch.bfloat16
            assert linear(images).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert F.group_norm(images, 2).dtype == torch.bfloat16


@pytest.fixture(scope="module")
def miniature() -> Estimate:
    return estimate(load_config(None))


def test_an_update_is_planned_in_the_largest_size_and_samples_in_that_of_the_evaluation(miniature: Estimate) -> None:
    both, large = (estimate(load_config(None, size)) for size in (["other_sizes=[16x16,64x32]"], ["width=64"]))
    for name, phase in both.memory.phases.items():
        assert phase == (miniature if name in ("encode prompts", "samples") else large).memory.phases[name]
    assert large.memory.phases["samples"].peak > miniature.memory.phases["samples"].peak
    assert ", 32 x 32, 16 x 16, 64 x 32, fp32" in as_text(both)


def test_noise_that_is_drawn_on_the_way_takes_part() -> None:
    config = load_config(None, [*SHORT, "method.name=draft_k", "sampler.eta=1"])
    assert estimate(config).memory.phases["sweep back"].saved > 0


@pytest.mark.slow
def test_what_does_not_fit_is_told_changes_that_make_it_fit(miniature: Estimate) -> None:
    gpu = 30 * MIB
    assert not miniature.fits(gpu)
    told: list[str] = []
    found = remedy(miniature, gpu, told.append)
    assert found.estimate.fits(gpu)
    assert found.changes == {"compute.precision": "bf16", "compute.micro_batch_size": 1}
    assert told == ["trying compute.precision=bf16", "trying compute.micro_batch_size=1"]


@pytest.mark.parametrize(
    ("text", "size"), [("80GiB", 80 * 2**30), ("24GB", 24 * 10**9), ("0.5 TiB", 2**39), ("512MiB", 2**29)]
)
def test_a_size_of_memory_is_read(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@given(st.text())
def test_any_other_text_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UserError) as refusal:
        parse_bytes(f"{text} bytes")
    assert len(str(refusal.value).splitlines()) == 1


@given(st.integers(1, 10**6), st.sampled_from(sorted(UNITS)))
def test_a_whole_number_of_any_unit_is_read_exactly(number: int, unit: str) -> None:
    assert parse_bytes(f"{number}{unit}") == number * UNITS[unit]


def run(*options: str) -> Result:
    settings = [word for setting in SHORT for word in ("--set", setting)]
    return CliRunner().invoke(main, ["plan", *settings, *options])


def test_the_command_tells_people_and_programs_the_same() -> None:
    for_people, for_programs = run("--gpu", "1GiB"), run("--gpu", "1GiB", "--json")
    assert for_people.exit_code == for_programs.exit_code == 0
    content = json.loads(for_programs.stdout)
    assert content["forwards"]["most"] == 9
    assert content["fits"] is True
    phases = content["memory"]["phases"].values()
    assert content["peak"] == max(phase["standing"] + phase["in_flight"] for phase in phases)
    assert f"peak: {content['peak'] / MIB:.2f} MiB" in for_people.stdout
    assert "\nfits: " in for_people.stdout


@pytest.mark.slow
def test_a_gpu_that_is_too_small_in_any_case_is_exit_code_1() -> None:
    least = ("compute.precision=bf16", "compute.micro_batch_size=1", "compute.gradient_checkpointing=true")
    least = (*least, "evaluation.batch_size=1")
    refused = run(*(word for setting in least for word in ("--set", setting)), "--gpu", "1MiB")
    assert refused.exit_code == 1
    assert refused.stderr == ""
    hint = "give compute.quantization=nf4, lower height and width, take a smaller base, or a larger GPU"
    assert refused.stdout.splitlines()[-1] == hint


def test_an_architecture_that_is_not_known_is_one_line() -> None:
    with pytest.raises(
        UserError, match=r"base_model='somewhere/else': no folder .* known are stable-diffusion"
    ) as refusal:
        shell(load_config(None, ["base_model=somewhere/else"]))
    assert "\n" not in str(refusal.value)


def test_steps_that_a_base_does_not_take_are_refused_before_anything_is_measured() -> None:
    turbo = ["base_model=Qwen/Qwen-Image-2.1-Turbo", "method.trained_steps=2", "method.early_stop=2"]
    for steps in (["sampler.steps=9"], ["sampler.steps=8", "evaluation.sampler.steps=9"]):
        with pytest.raises(UserError, match="steps=9: this base has 8 noise levels of its own; give 8"):
            estimate(load_config(None, [*turbo, *steps]))


def test_a_folder_with_a_part_missing_is_one_line(folder_of: FolderOf, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folder_of("sdxl"), tmp_path / "base"))
    (folder / "unet" / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"unet/config\.json: cannot be read"):
        shell(load_config(None, [f"base_model={folder}"]))
