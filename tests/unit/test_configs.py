from pathlib import Path

import pytest
import yaml

from components.monitor.policy import MonitorPolicy
from drtune.config import Config, differences, load_config
from drtune.gate import Policy
from drtune.plan.estimate import estimate
from drtune.plan.units import parse_bytes

CONFIGS = Path(__file__).parents[2] / "configs"
POLICIES = [CONFIGS / "gate.yaml", CONFIGS / "gate-hps.yaml", CONFIGS / "monitor.yaml"]
CLUSTERS = [CONFIGS / "cluster.yaml"]
RUNS = sorted(set(CONFIGS.glob("*.yaml")) - {*POLICIES, *CLUSTERS})
GPUS = {
    "miniature.yaml": (1, "1GiB"),
    "sd15.yaml": (1, "24GiB"),
    "sdxl-hps.yaml": (1, "80GiB"),
    "sdxl-hps-2x8.yaml": (16, "80GiB"),
    "sd35.yaml": (1, "80GiB"),
    "flux.yaml": (1, "80GiB"),
}
"""How many of which GPU each is made for, as its first lines say."""


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


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.name)
def test_every_configuration_fits_on_the_gpus_that_it_is_made_for(path: Path) -> None:
    processes, gpu = GPUS[path.name]
    planned = estimate(load_config(path, [f"processes={processes}"]))
    assert planned.fits(parse_bytes(gpu))
    assert path.name == "miniature.yaml" or gpu.replace("GiB", " GiB") in path.read_text(encoding="utf-8")


def test_every_policy_is_valid() -> None:
    for policy, config in (("gate.yaml", "miniature.yaml"), ("gate-hps.yaml", "sdxl-hps.yaml")):
        wanted = {reward for rewards in Policy.read(CONFIGS / policy).against.values() for reward in rewards}
        assert wanted <= set(load_config(CONFIGS / config).reward_names)
    assert MonitorPolicy.read(CONFIGS / "monitor.yaml").thresholds.rewards
