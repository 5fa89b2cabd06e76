"""The two container images of the pipeline. Nothing is installed in a pod: everything is in them.

`make images` builds both under these names. DRTUNE_IMAGE_REGISTRY (such as ghcr.io/example) says where they are pushed
to and pulled from, DRTUNE_IMAGE_TAG which build is meant; an image states both for the pods that its own pod starts.
"""

import os


def _image(name: str) -> str:
    registry = os.environ.get("DRTUNE_IMAGE_REGISTRY", "").rstrip("/")
    tag = os.environ.get("DRTUNE_IMAGE_TAG") or "0.1.0"
    return f"{registry}/{name}:{tag}" if registry else f"{name}:{tag}"


PLATFORM_IMAGE = _image("drtune-platform")
"""Light: prompts, gate, registry, KFP; no torch."""
TRAINER_IMAGE = _image("drtune-trainer")
"""The platform with torch, diffusers and the rewards."""
USER_ID = 65532
"""User and group that both run as; a namespace with the restricted pod standard wants pods to state that."""
