"""The embedded model: a tiny Stable Diffusion XL of a drawn world."""

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"
"""Folder of the trained miniature: a `StableDiffusionXLPipeline`, and in it `preference/` and `probe.safetensors`."""
