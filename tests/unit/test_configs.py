from pathlib import Path

import pytest
import yaml

from drtune.config import Config, load_config
from drtune.gate import load_policy

CONFIGS = Path(__file__).parents[2] / "configs"
POLICIES = [CONFIGS / "gate.yaml"]
RUNS = sorted(set(CONFIGS.glob("*.yaml")) - set(POLICIES))


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
    differing = {whole(difference.split(" ")[0]) for difference in load_config(path).differences(Config())}
    assert given <= differing


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.name)
def test_every_policy_is_valid(path: Path) -> None:
    assert load_policy(path).rewards
