"""The two container images of the pipeline. Nothing is installed in a pod: everything is in them."""

PLATFORM_IMAGE = "drtune-platform:0.1.0"
"""Light: prompts, gate, registry, KFP; no torch."""
TRAINER_IMAGE = "drtune-trainer:0.1.0"
"""The platform with torch, diffusers and the rewards."""
