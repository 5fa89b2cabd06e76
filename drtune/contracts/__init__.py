"""What travels between the steps: small frozen values, each kept as `manifest.json` in the folder of its payload.

    prepare_prompts -> PromptSet -> train -> TunedModel -> evaluate -> EvaluationReport
                    -> decide -> Decision -> publish -> RegistryEntry
    monitor -> DriftVerdict

Every value names the digests of what it came from, so that any published file can be followed back to its prompts.
It may know files; it needs no torch.
"""

from drtune.contracts.base import MANIFEST, Contract
from drtune.contracts.capability import ANSWERS, Capability, CapabilityScore, LostPrompt
from drtune.contracts.curve import CurvePoint, curve_lines, read_curve, write_curve
from drtune.contracts.evaluation import (
    BESIDE_REWARDS,
    CMMD,
    DIVERSITY_ACROSS,
    DIVERSITY_WITHIN,
    DRIFT,
    DRIFT_PIXELS,
    LOOKS,
    MIN_PROMPTS,
    SCORES,
    TABLES,
    Agreement,
    BenchmarkRow,
    Contestant,
    EvaluationReport,
    Highlight,
    Measure,
    ScaleCurve,
    ScalePoint,
    Score,
    Standing,
)
from drtune.contracts.model import ADAPTER, CONFIG, NETWORK, NETWORK_CONFIG, DataSource, PromptSet, TunedModel
from drtune.contracts.monitoring import DriftCheck, DriftOutcome, DriftVerdict, Observed
from drtune.contracts.publication import Check, Decision, RegistryEntry
from drtune.contracts.seeds import MIN_SEEDS, SeedGain, SeedRun, SeedsResult
from drtune.contracts.study import (
    GRADES,
    GradeGain,
    JudgeAgreement,
    Preference,
    Protocol,
    QuestionResult,
    RaterResult,
    Strength,
    Study,
    StudyPair,
    StudyResult,
)

__all__ = [
    "ADAPTER",
    "ANSWERS",
    "BESIDE_REWARDS",
    "CMMD",
    "CONFIG",
    "DIVERSITY_ACROSS",
    "DIVERSITY_WITHIN",
    "DRIFT",
    "DRIFT_PIXELS",
    "GRADES",
    "LOOKS",
    "MANIFEST",
    "MIN_PROMPTS",
    "MIN_SEEDS",
    "NETWORK",
    "NETWORK_CONFIG",
    "SCORES",
    "TABLES",
    "Agreement",
    "BenchmarkRow",
    "Capability",
    "CapabilityScore",
    "Check",
    "Contestant",
    "Contract",
    "CurvePoint",
    "DataSource",
    "Decision",
    "DriftCheck",
    "DriftOutcome",
    "DriftVerdict",
    "EvaluationReport",
    "GradeGain",
    "Highlight",
    "JudgeAgreement",
    "LostPrompt",
    "Measure",
    "Observed",
    "Preference",
    "PromptSet",
    "Protocol",
    "QuestionResult",
    "RaterResult",
    "RegistryEntry",
    "ScaleCurve",
    "ScalePoint",
    "Score",
    "SeedGain",
    "SeedRun",
    "SeedsResult",
    "Standing",
    "Strength",
    "Study",
    "StudyPair",
    "StudyResult",
    "TunedModel",
    "curve_lines",
    "read_curve",
    "write_curve",
]
