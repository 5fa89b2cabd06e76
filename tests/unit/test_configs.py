from pathlib import Path

import pytest
import yaml

from components.monitor.policy import MonitorPolicy
from drtune.config import Config, differences, load_config
from drtune.publishing.policy import Policy
from drtune.training.plan.estimate import estimate
from drtune.training.plan.units import parse_bytes

CONFIGS = Path(__file__).parents[2] / "configs"
POLICIES = [CONFIGS / "gate.yaml", CONFIGS / "gate-hps.yaml", CONFIGS / "monitor.yaml"]
CLUSTERS = list(CONFIGS.glob("cluster*.yaml"))
RUNS = sorted(set(CONFIGS.glob("*.yaml")) - {*POLICIES, *CLUSTERS})
GPUS = {
    "miniature.yaml": "1GiB",
    "sd15.yaml": "24GiB",
    "sdxl-hps.yaml": "80GiB",
    "sdxl-hps-24gb.yaml": "24GiB",
    "sdxl-hps-full.yaml": "80GiB",
    "sd35.yaml": "80GiB",
    "flux.yaml": "80GiB",
    "z-image.yaml": "80GiB",
    "z-image-24gb.yaml": "24GiB",
    "qwen-image.yaml": "80GiB",
    "qwen-image21.yaml": "80GiB",
    "flux2-klein.yaml": "24GiB",
}
"""The GPU that each is made for, as its first lines say; sdxl-hps-2x8.yaml is for 16 of that of sdxl-hps.yaml."""


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.name)
def test_every_configuration_is_valid(path: Path) -> None:
    assert isinstance(load_config(path), Config)


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.name)
def test_a_configuration_holds_differences_only(path: Path) -> None:
    def whole(key: str) -> str:
        return key.split(".")[0] if key.startswith("rewards.") else key  # the weights are one value: given all or none

    def leaves(tree: dict[str, object], prefix: str = "") -> set[str]:
        return {
            leaf
            for key, value in tree.items()
            for leaf in (leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {whole(f"{prefix}{key}")})
        }

    given = leaves(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    differing = {whole(difference.split(" ")[0]) for difference in differences(load_config(path), Config())}
    assert given <= differing


@pytest.mark.parametrize(
    "name",
    [name if name == "miniature.yaml" else pytest.param(name, marks=pytest.mark.slow) for name in GPUS],
)
def test_every_configuration_fits_on_the_gpu_that_it_is_made_for(name: str) -> None:
    gpu = GPUS[name]
    assert estimate(load_config(CONFIGS / name)).fits(parse_bytes(gpu))
    assert name == "miniature.yaml" or gpu.replace("GiB", " GiB") in (CONFIGS / name).read_text(encoding="utf-8")


def test_a_gpu_of_the_two_nodes_holds_what_the_single_one_holds() -> None:
    single, of_sixteen = load_config(CONFIGS / "sdxl-hps.yaml"), load_config(CONFIGS / "sdxl-hps-2x8.yaml")
    assert [change.split(" ")[0] for change in differences(of_sixteen, single)] == ["batch_size"]
    # A LoRA is held by every process, and pictures are taken a micro-batch at a time.
    assert of_sixteen.compute.micro_batch_size == single.compute.micro_batch_size
    assert of_sixteen.batch_size / 16 >= (of_sixteen.compute.micro_batch_size or of_sixteen.batch_size)
    assert GPUS.keys() == {path.name for path in RUNS} - {"sdxl-hps-2x8.yaml"}


def test_every_policy_is_valid() -> None:
    for policy, config in (("gate.yaml", "miniature.yaml"), ("gate-hps.yaml", "sdxl-hps.yaml")):
        wanted = {reward for rewards in Policy.read(CONFIGS / policy).against.values() for reward in rewards}
        assert wanted <= set(load_config(CONFIGS / config).reward_names)
    assert MonitorPolicy.read(CONFIGS / "monitor.yaml").thresholds.rewards
