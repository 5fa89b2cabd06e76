"""The two container images of the pipeline. Nothing is installed in a pod: everything is in them.

`make images` builds both under these names. DRTUNE_IMAGE_REGISTRY (such as ghcr.io/example) says where they are pushed
to and pulled from, DRTUNE_IMAGE_TAG which build is meant; an image states both for the pods that its own pod starts.
DRTUNE_PLATFORM_IMAGE and DRTUNE_TRAINER_IMAGE name one whole instead, as by its digest: name@sha256:...
"""

import os


def _image(name: str) -> str:
    if whole := os.environ.get(f"DRTUNE_{name.upper()}_IMAGE"):
        return whole
    registry = os.environ.get("DRTUNE_IMAGE_REGISTRY", "").rstrip("/")
    tag = os.environ.get("DRTUNE_IMAGE_TAG") or "0.1.0"
    return f"{registry}/drtune-{name}:{tag}" if registry else f"drtune-{name}:{tag}"


PLATFORM_IMAGE = _image("platform")
"""Light: prompts, gate, registry, KFP; no torch."""
TRAINER_IMAGE = _image("trainer")
"""The platform with torch, diffusers and the rewards."""
USER_ID = 65532
"""User and group that both run as; a namespace with the restricted pod standard wants pods to state that."""
