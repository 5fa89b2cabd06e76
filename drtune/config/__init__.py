"""The configuration: a tree of settings with their defaults, and how files and `--set` change it.

It may know files; it needs no torch.
"""

from drtune.config.loading import differences, load_config, load_section
from drtune.config.rewards import (
    NON_DIFFERENTIABLE,
    PROMPTLESS,
    PUBLISHED,
    REWARDS,
    RewardTerm,
    is_reward,
    reward_name,
)
from drtune.config.tree import (
    FRESH,
    ComputeSection,
    Config,
    DeploymentSamplerConfig,
    EvaluationConfig,
    HeldOut,
    LoraSection,
    MethodConfig,
    OptimizerConfig,
    TuningSamplerConfig,
    Weighting,
)

__all__ = [
    "FRESH",
    "NON_DIFFERENTIABLE",
    "PROMPTLESS",
    "PUBLISHED",
    "REWARDS",
    "ComputeSection",
    "Config",
    "DeploymentSamplerConfig",
    "EvaluationConfig",
    "HeldOut",
    "LoraSection",
    "MethodConfig",
    "OptimizerConfig",
    "RewardTerm",
    "TuningSamplerConfig",
    "Weighting",
    "differences",
    "is_reward",
    "load_config",
    "load_section",
    "reward_name",
]
