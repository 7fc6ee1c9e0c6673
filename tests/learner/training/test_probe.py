"""Scoring of the probe prompt: exact logprobs, from tiles of the head, without a tensor of all logits."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from trl.trainer import utils as trl_utils

from learner.training import probe
from tests.learner.factories import TEMPERATURE, VOCABULARY, group

pytestmark = pytest.mark.slow
MakeLearner = Callable[..., Any]

PROMPT = tuple(random.Random(0).randrange(3, VOCABULARY) for _ in range(40))
TILE = 32  # columns of the head that are computed at a time


class MostLogits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the largest number of rows of a computed tensor with a column for each token of the vocabulary."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_rows = 0

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.dim() >= 2 and result.size(-1) == VOCABULARY:
            if any(isinstance(each, torch.Tensor) and each.data_ptr() == result.data_ptr() for each in args):
                return result  # a view, such as the transposed weight of the head
            self.num_rows = max(self.num_rows, result.numel() // VOCABULARY)
        return result


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trl_utils, "_CHUNKED_LOGPROB_CHUNK_SIZE", TILE)


def on_training_thread(learner: Any, action: Callable[[], Any]) -> tuple[Any, int]:
    """Return the action's result, and the largest number of rows of logits that it computed."""

    def recorded() -> tuple[Any, int]:
        with MostLogits() as logits:
            return action(), logits.num_rows

    result: tuple[Any, int] = learner._training.run(recorded)
    return result


def logprobs_of_logits(learner: Any) -> list[float]:
    model = learner._trainer.model.eval()
    with torch.no_grad():
        scores = model(input_ids=torch.tensor([PROMPT])).logits[0, :-1].log_softmax(-1)
    model.train()
    logprobs: list[float] = scores.gather(-1, torch.tensor(PROMPT[1:])[:, None])[:, 0].tolist()
    return logprobs


def test_the_probe_prompt_has_the_logprobs_of_the_logits_without_a_tensor_of_them(make_learner: MakeLearner) -> None:
    learner = make_learner(dropout=0.5)
    learner.step([group([1.0, 0.0, 0.5])])  # at another temperature; after it the adapter is not zero
    expected, num_rows = on_training_thread(learner, lambda: logprobs_of_logits(learner))
    assert num_rows == len(PROMPT)  # the recorder sees logits
    other = PROMPT[::-1]
    (_, found), num_rows = on_training_thread(learner, lambda: learner._trainer.score([other, PROMPT]))
    assert found == pytest.approx(expected, abs=1e-5)
    assert num_rows == 0


def test_scoring_does_not_change_the_next_step(make_learner: MakeLearner) -> None:
    reports = []
    for name in ("plain", "scoring"):
        learner = make_learner(dropout=0.5, checkpoints=name)  # seeds this process's random state
        if name == "scoring":
            learner._training.run(lambda trainer=learner._trainer: trainer.score([PROMPT]))
        reports.append(learner.step([group([1.0, 0.0, 0.5])])[1].metrics)
    assert reports[0] | {"seconds": 0} == reports[1] | {"seconds": 0}


def test_the_training_gap_is_measured_at_the_runs_temperature_from_a_bounded_number_of_logits(
    make_learner: MakeLearner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "NUM_COMPARED", 8)
    learner = make_learner()
    trainer = learner._trainer
    learner._training.run(lambda: trainer.score([PROMPT]))  # sets the temperature of the head to 1
    gap, num_rows = on_training_thread(learner, lambda: trainer.training_gap(PROMPT))
    assert gap < 1e-5
    assert 8 <= num_rows <= 9
    monkeypatch.setattr(trainer.args, "temperature", 2 * TEMPERATURE)
    assert learner._training.run(lambda: trainer.training_gap(PROMPT)) < 1e-5
    assert trainer.temperature == 2 * TEMPERATURE


@pytest.mark.parametrize("num_tokens", [2, 3, 40])
def test_a_head_that_scales_its_logits_differently_has_a_gap(num_tokens: int, make_learner: MakeLearner) -> None:
    learner = make_learner()
    trainer = learner._trainer
    trainer.temperature = trainer.args.temperature = 1.0  # while the head computes at TEMPERATURE
    gap = learner._training.run(lambda: trainer.training_gap(PROMPT[:num_tokens]))
    assert gap > 0.1
