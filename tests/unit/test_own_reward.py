"""A reward of your own: what is accepted, what is refused and how, and where its file goes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from drtune.config import RewardTerm, load_config
from drtune.errors import UserError
from drtune.evaluation.checks import overridden
from drtune.files.local import sha256_file
from drtune.rewards import Reward, WeightedSum, load_reward
from drtune.rewards.files import keep_files

DOCS = Path(__file__).parents[2] / "docs" / "rewards.md"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "my_file.py"


def load(file: Path, code: str, *, differentiable: bool = True) -> Reward:
    file.write_text(code, encoding="utf-8")
    return load_reward(f"{file}:my_reward", antialias=True, differentiable=differentiable)


GOOD = "def my_reward(images, prompts):\n    return images.mean((1, 2, 3)) * len(prompts[0])\n"


def test_a_function_is_a_reward(file: Path) -> None:
    reward = load(file, GOOD)
    assert reward.name == f"{file}:my_reward"
    assert reward.provenance == f"my_file.py sha256 {sha256_file(file)}"
    assert reward(torch.full((2, 3, 4, 4), 0.5), ["four", "x"]).tolist() == [2.0, 2.0]


def test_so_are_an_object_that_can_be_called_and_a_dataclass(file: Path) -> None:
    code = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Scaled:
    scale: float
    def __call__(self, images, prompts):
        return self.scale * images.mean((1, 2, 3))

my_reward = Scaled(3.0)
"""
    assert load(file, code)(torch.ones(1, 3, 4, 4), ["x"]).tolist() == [3.0]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return images.mean()", r"returns shape \(\), wanted \(2,\) for 2 images: one score each"),
        ("return images.mean((2, 3))", r"returns shape \(2, 3\), wanted \(2,\)"),
        ("return images.mean((0, 2, 3))", r"returns shape \(3,\), wanted \(2,\)"),
        ("return images.mean((1, 2, 3)).tolist()", r"returns a list, wanted a tensor of shape \(2,\)"),
        ("pass", r"returns a NoneType, wanted a tensor"),
        ("return (images > 0.5).sum((1, 2, 3))", r"returns torch\.int64, wanted floating point"),
        ("return images.detach().mean((1, 2, 3))", r"is not differentiable, no gradient reaches the images"),
        ("return (images > 0.5).float().mean((1, 2, 3))", r"is not differentiable"),
        ("import torch\n    return torch.zeros(2, requires_grad=True) + 1", r"is not differentiable"),
    ],
)
def test_what_returns_no_differentiable_scores_is_refused_in_one_line(file: Path, body: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        load(file, f"def my_reward(images, prompts):\n    {body}\n")
    assert str(refusal.value).startswith(f"reward {file}:my_reward: ")
    assert "\n" not in str(refusal.value)


def test_a_reward_that_only_evaluates_need_not_be_differentiable(file: Path) -> None:
    reward = load(file, "def my_reward(images, prompts):\n    return images.round().mean((1, 2, 3)).detach()\n",
                  differentiable=False)  # fmt: skip
    assert reward(torch.ones(1, 3, 4, 4), ["x"]).tolist() == [1.0]
    with pytest.raises(UserError, match="is not differentiable"):
        WeightedSum.load({reward.name: RewardTerm()}, antialias=True)


def test_a_missing_file_a_missing_function_and_what_is_no_function_are_told(file: Path) -> None:
    with pytest.raises(UserError, match=r"my_file\.py cannot be read \(No such file or directory\); give the path"):
        load_reward(f"{file}:my_reward", antialias=True)
    with pytest.raises(UserError, match=r"my_file\.py has no my_reward; name a function that is there"):
        load(file, "def other(): pass\n")
    with pytest.raises(UserError, match=r"my_reward is a float, wanted a function"):
        load(file, "my_reward = 1.0\n")


def test_an_exception_of_the_function_shows_its_own_lines_alone(file: Path) -> None:
    with pytest.raises(UserError) as refusal:
        load(
            file,
            "def my_reward(images, prompts):\n    return helper(images)\n\ndef helper(images):\n    return 1 / 0\n",
        )
    first, *lines = str(refusal.value).splitlines()
    assert first == f"reward {file}:my_reward: fails on images of shape (2, 3, 256, 256):"
    assert lines[1] == f'  File "{file}", line 2, in my_reward'
    assert lines[-1] == "ZeroDivisionError: division by zero"
    assert "own.py" not in str(refusal.value)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def my_reward(:\n", r"fails to load:\n.*line 1\n(.*\n)*SyntaxError"),
        ("import nothing_like_it\n", r"fails to load:\n(.*\n)*ModuleNotFoundError: No module named 'nothing_like_it'"),
    ],
)
def test_a_file_that_cannot_be_loaded_shows_where(file: Path, code: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(file, code)


def test_a_shape_that_goes_wrong_later_is_told_then(file: Path) -> None:
    reward = load(file, "def my_reward(images, prompts):\n    return images.mean((1, 2, 3)).squeeze()\n")
    with pytest.raises(UserError, match=r"returns shape \(\), wanted \(1,\) for 1 images"):
        reward(torch.ones(1, 3, 4, 4), ["x"])


def test_its_file_is_kept_with_the_model_and_taken_from_there(file: Path, tmp_path: Path) -> None:
    name, model = load(file, GOOD).name, tmp_path / "model"
    assert keep_files(["symmetry", name], model) == {"rewards/my_file.py": sha256_file(file)}
    file.unlink()
    assert load_reward(name, antialias=True, model_folder=model)(torch.ones(1, 3, 4, 4), ["x"]).tolist() == [1.0]


def test_a_file_that_was_changed_since_the_run_began_is_refused(file: Path, tmp_path: Path) -> None:
    name, model = load(file, GOOD).name, tmp_path / "model"
    kept = keep_files([name], model)
    assert keep_files([name], model) == kept
    file.write_text(GOOD + "# better\n", encoding="utf-8")
    with pytest.raises(
        UserError, match=r"my_file\.py differs from .*model.rewards.my_file\.py, which this run has kept"
    ):
        keep_files([name], model)
    assert sha256_file(model / "rewards" / "my_file.py") == kept["rewards/my_file.py"]


def test_the_example_of_the_documentation_is_a_reward(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n# warm\.py\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    file = tmp_path / "warm.py"
    file.write_text(example, encoding="utf-8")
    total = WeightedSum.load({f"{file}:warm": RewardTerm(hinge=0.3)}, antialias=True)
    orange, blue = torch.tensor([1.0, 0.5, 0.0]), torch.tensor([0.0, 0.25, 1.0])
    images = torch.stack([orange, blue])[:, :, None, None].expand(2, 3, 8, 8)
    assert total(images, ["x", "y"]).tolist() == pytest.approx([0.3, -1.0])
    assert total.take_means()[f"{file}:warm"].item() == pytest.approx(0.0)


def test_one_that_ends_the_program_is_refused_and_does_not_end_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import sys\n\ncalls = []\n\n"
        "def late(images, prompts):\n    calls.append(1)\n"
        "    return sys.exit(0) if len(calls) > 1 else images.mean((1, 2, 3))\n"
    )
    reward = load_reward(f"{file}:late", antialias=True)
    with pytest.raises(UserError, match="ends the program"):
        reward(torch.rand(2, 3, 8, 8), ["a", "b"])


def test_an_evaluation_is_refused_at_once_when_a_file_is_neither_there_nor_kept(tmp_path: Path) -> None:
    config = load_config(None, ["rewards.gone.py:fn=1"])
    (tmp_path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    with pytest.raises(UserError, match=r"reward gone\.py:fn: gone\.py cannot be read"):
        overridden(tmp_path, [])
    (tmp_path / "rewards").mkdir()
    (tmp_path / "rewards" / "gone.py").write_text("def fn(images, prompts): ...")
    assert overridden(tmp_path, []).rewards == config.rewards
    with pytest.raises(UserError, match=r"reward other\.py:fn: other\.py cannot be read"):
        overridden(tmp_path, ["evaluation.rewards=[other.py:fn]"])
