"""The configuration: a tree of settings with their defaults, and how files and `--set` change it.

It may know files; it needs no torch.
"""

from drtune.config.loading import differences, load_config, load_section
from drtune.config.tree import (
    FRESH,
    NON_DIFFERENTIABLE,
    PROMPTLESS,
    REWARDS,
    ComputeSection,
    Config,
    DeploymentSamplerConfig,
    EvaluationConfig,
    HeldOut,
    LoraSection,
    MethodConfig,
    OptimizerConfig,
    RewardTerm,
    SamplerConfig,
    TuningSamplerConfig,
    Weighting,
    is_reward,
    reward_name,
)

__all__ = [
    "FRESH",
    "NON_DIFFERENTIABLE",
    "PROMPTLESS",
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
    "SamplerConfig",
    "TuningSamplerConfig",
    "Weighting",
    "differences",
    "is_reward",
    "load_config",
    "load_section",
    "reward_name",
]
