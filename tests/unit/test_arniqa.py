"""ARNIQA: a tiny random ResNet as published, against torchvision's forward, written out in plain torch."""

from __future__ import annotations

import shutil
import warnings
from hashlib import sha256
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from drtune.errors import UserError
from drtune.files.images import to_tensor
from drtune.rewards import load_reward, score_finished
from drtune.rewards.arniqa import encoder_of, rating_of
from tests.words import picture

FOLDER, FILE, RATINGS = "chaofengc/IQA-PyTorch-Weights", "ARNIQA.pth", "regressor_kadid10k.pth"
STEM, WIDTHS, BLOCKS = 8, (16, 24, 32, 40), (1, 2, 1, 1)


class TorchLinearRegression(nn.Module):
    """What the regressors are scripts of: `weights` (1, 2 D) and `biases` ()."""

    def __init__(self, weights: Tensor, biases: Tensor) -> None:
        super().__init__()
        self.weights, self.biases = nn.Parameter(weights), nn.Parameter(biases)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weights.T + self.biases


def state_dict() -> dict[str, Tensor]:
    """The names and shapes of ARNIQA.pth: torchvision's ResNet-50 as nn.Sequential, and the projector."""
    generator = torch.Generator().manual_seed(11)
    state: dict[str, Tensor] = {}

    def conv(name: str, out: int, into: int, side: int) -> None:
        state[f"{name}.weight"] = torch.randn(out, into, side, side, generator=generator) * (into * side**2) ** -0.5

    def norm(name: str, width: int) -> None:
        for part in ("weight", "running_var"):
            state[f"{name}.{part}"] = 0.5 + torch.rand(width, generator=generator)
        for part in ("bias", "running_mean"):
            state[f"{name}.{part}"] = 0.3 * torch.randn(width, generator=generator)
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    conv("model.0", STEM, 3, 7)
    norm("model.1", STEM)
    before = STEM
    for stage, (width, blocks) in enumerate(zip(WIDTHS, BLOCKS, strict=True)):
        for block in range(blocks):
            name = f"model.{4 + stage}.{block}"
            inner = width // 4
            for number, (out, into, side) in enumerate([(inner, before, 1), (inner, inner, 3), (width, inner, 1)], 1):
                conv(f"{name}.conv{number}", out, into, side)
                norm(f"{name}.bn{number}", out)
            if block == 0:
                conv(f"{name}.downsample.0", width, before, 1)
                norm(f"{name}.downsample.1", width)
            before = width
    state["projector.0.weight"] = torch.zeros(4, 4)
    return state


def ratings() -> TorchLinearRegression:
    generator = torch.Generator().manual_seed(12)
    return TorchLinearRegression(torch.randn(1, 2 * WIDTHS[-1], generator=generator), torch.tensor(3.0))


def write_mirror(folder: Path) -> None:
    (folder / FOLDER).mkdir(parents=True)
    torch.save(state_dict(), folder / FOLDER / FILE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript
        torch.jit.script(ratings()).save(folder / FOLDER / RATINGS)


def features(x: Tensor) -> Tensor:
    """Unit features of torchvision's `ResNet.forward` without its last layer (models/resnet.py, Bottleneck)."""
    state = {key.removeprefix("model."): tensor.double() for key, tensor in state_dict().items()}

    def norm(x: Tensor, name: str) -> Tensor:
        mean, deviation, weight, bias = (
            state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, deviation, weight, bias, eps=1e-5)

    x = F.relu(norm(F.conv2d(x, state["0.weight"], stride=2, padding=3), "1"))
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    for stage, blocks in enumerate(BLOCKS):
        for block in range(blocks):
            name, stride = f"{4 + stage}.{block}", 2 if stage and not block else 1
            y = F.relu(norm(F.conv2d(x, state[f"{name}.conv1.weight"]), f"{name}.bn1"))
            y = F.conv2d(y, state[f"{name}.conv2.weight"], stride=stride, padding=1)
            y = norm(F.conv2d(F.relu(norm(y, f"{name}.bn2")), state[f"{name}.conv3.weight"]), f"{name}.bn3")
            if not block:
                x = norm(F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride), f"{name}.downsample.1")
            x = F.relu(x + y)
    return F.normalize(x.mean((2, 3)), dim=1)


def original(image: Image.Image) -> float:
    """torchmetrics 1.9.0, functional/image/arniqa.py: full and half size, normalised as ImageNet's, rated, scaled."""
    full = to_tensor([image.convert("RGB")]).double()
    half = F.interpolate(full, (image.height // 2, image.width // 2), mode="bilinear", antialias=True)
    mean, deviation = (
        torch.tensor(row).double()[:, None, None] for row in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    both = torch.cat([features((pixels - mean) / deviation) for pixels in (full, half)], dim=1)
    return ((ratings().double()(both).item()) - 1) / 4


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_mirror(tmp_path)
    monkeypatch.setenv("DRTUNE_REWARDS", str(tmp_path))
    return tmp_path / FOLDER


def test_the_score_is_what_the_original_makes_of_the_file(mirror: Path) -> None:
    reward = load_reward("arniqa", antialias=True)
    for width, height in ((100, 70), (64, 64), (33, 45)):
        image = picture(width, height)
        score = score_finished(reward, [image], to_tensor([image]), [""])
        assert score.item() == pytest.approx(original(image), abs=2e-6)
    digests = (sha256((mirror / file).read_bytes()).hexdigest() for file in (FILE, RATINGS))
    files = ", ".join(f"{file} sha256 {digest}" for file, digest in zip((FILE, RATINGS), digests, strict=True))
    assert reward.provenance == f"{files}, resized with antialias"


def test_a_published_encoder_is_a_resnet_50_of_transformers() -> None:
    encoder = encoder_of(state_dict())
    assert encoder.config.hidden_sizes == list(WIDTHS)
    assert encoder.config.depths == list(BLOCKS)
    assert not encoder.config.downsample_in_bottleneck


def test_ratings_are_read_without_running_what_is_in_the_archive(mirror: Path) -> None:
    with ZipFile(mirror / RATINGS, "a") as archive:
        archive.writestr("regressor_kadid10k/code/__torch__.py", "raise RuntimeError")
    rating = rating_of(mirror / RATINGS, 2 * WIDTHS[-1])
    assert torch.equal(rating.weight, ratings().weights)
    assert torch.equal(rating.bias, ratings().biases[None])


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda folder: (folder / RATINGS).write_bytes(b"no"), "holds no ratings .File is not a zip file"),
        (
            lambda folder: shutil.copyfile(folder / FILE, folder / RATINGS),
            r"holds no ratings \(\d+ tensors, not one of 80 numbers and one of 1\)",
        ),
        (
            lambda folder: torch.save(state_dict() | {"model.7.0.bn3.bias": torch.zeros(3)}, folder / FILE),
            r"is no ARNIQA checkpoint \(encoder\.stages\.3\..*normalization\.bias is \(3,\), not \(40,\)\)",
        ),
        (
            lambda folder: torch.save(state_dict() | {"model.fc.weight": torch.zeros(3)}, folder / FILE),
            r"is no ARNIQA checkpoint \('fc\.weight' is no weight of a ResNet\)",
        ),
        (lambda folder: torch.save({}, folder / FILE), "is no ARNIQA checkpoint .'0.weight'"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_files_that_are_no_such_network_are_refused_in_one_line(mirror: Path, break_it, told: str) -> None:
    break_it(mirror)
    with pytest.raises(UserError, match=f"reward arniqa: .*{told}") as refusal:
        load_reward("arniqa", antialias=True)
    assert "\n" not in str(refusal.value)
