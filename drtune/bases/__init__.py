"""The base models that can be tuned, one file each; which one it is, the pipeline's own model_index.json says."""

from drtune.bases.base import Base, Conditions, EncodedPrompts
from drtune.bases.loading import BASES, DTYPES, load_base, quiet_libraries

__all__ = ["BASES", "DTYPES", "Base", "Conditions", "EncodedPrompts", "load_base", "quiet_libraries"]
