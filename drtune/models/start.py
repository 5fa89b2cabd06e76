"""An adapter that exists already as the start of the one that is tuned: drtune's, diffusers' or kohya's.

It is read without torch, so that a mistake shows at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, deserialize

from drtune.config import FRESH, Config
from drtune.contracts import ADAPTER
from drtune.errors import UserError
from drtune.files.given import is_on_s3, read_place
from drtune.files.local import sha256_bytes

LARGEST = 2**33
"""Bytes of such a file: a LoRA of rank 128 on FLUX.1 has some 2 GB."""
OTHER_KINDS = re.compile(r"dora_scale|lora_magnitude_vector|hada_w|lokr_|\.diff$|\.diff_b$|lora_mid")
"""In the names of adapters that are more, or something else, than two matrices a layer."""


@dataclass(frozen=True)
class Start:
    """The file of an adapter, as it was read."""

    content: bytes
    sha256: str


def read_start(config: Config) -> Start | None:
    """The file that `lora.init` names, if it names one.

    Raises:
        UserError: there is no such file, or it is no LoRA of plain matrices in safetensors.
    """
    if not (place := config.start):
        return None
    shown = f"lora.init={place!r}"
    if not is_on_s3(place) and Path(place).is_dir():
        files = (ADAPTER, Path(ADAPTER).name)
        found = [Path(place) / file for file in files if (Path(place) / file).is_file()]
        if not found:
            raise UserError(f"{shown}: holds none of {', '.join(files)}; give the file of an adapter")
        place = str(found[0])
    try:
        content = read_place(place, most=LARGEST)
    except OSError as error:
        raise UserError(
            f"{shown}: cannot be read ({error.strerror}); give {' or '.join(FRESH)}, the file of an adapter, the "
            "folder of a run, or s3://bucket/key"
        ) from None
    try:
        names = [name for name, _ in deserialize(content)]  # type: ignore[no-untyped-call]  # of Rust
    except SafetensorError as error:
        raise UserError(f"{shown}: is no safetensors file ({str(error).splitlines()[0]})") from None
    if other := next(filter(OTHER_KINDS.search, names), None):
        raise UserError(f"{shown}: holds {other}, which a LoRA of two matrices a layer has not; give a plain LoRA")
    return Start(content, sha256_bytes(content))
