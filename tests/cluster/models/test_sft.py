"""``caravan sft``: its examples, its output, interruptions and refusals."""

import errno
import json
import os
import shutil
import signal
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.main import main
from cluster.config.load import load_config
from cluster.config.model_path import tiny_model_path
from cluster.models import sft, tiny
from cluster.models.sft_folder import SftFolder
from cluster.models.sft_pairs import answer, pairs_of
from cluster.problems.dataset import split
from cluster.types import Problem, Prompt

pytestmark = pytest.mark.slow

CONFIG = "configs/demo.yaml"


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    """A file of 60 built-in problems, every tenth without a solution; solutions end with a comment that is new to the model."""
    rows = [
        {"id": one.id, "prompt": one.prompt, "tests": one.tests}
        | ({"solution": f"{one.solution}\n(* taught *)"} if number % 10 else {})
        for number, one in enumerate(tiny.training_split()[0][:60])
    ]
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def command(problems: Path, out: Path, *options: str) -> list[str]:
    data = [f"data.dataset={problems}", "data.held_out=20", "data.drop_unpassable=false", "learner.lora.r=8"]
    return ["sft", "-c", CONFIG, "--out", str(out), *options, *data]


def mean_logprob(model: Path, problem: Problem, adapter: Path | None = None) -> float:
    """The mean logprob of the tokens of a solution, as transformers and peft compute it."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    if adapter:
        loaded = PeftModel.from_pretrained(loaded, adapter)
    tokenizer = AutoTokenizer.from_pretrained(model)
    ((prompt, completion),) = pairs_of([problem], tiny.prompts_of([problem], tokenizer), tokenizer)
    with torch.no_grad():
        scores = loaded.eval()(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    mean: float = scores.gather(-1, torch.tensor(completion)[:, None]).mean().item()
    return mean


@pytest.mark.parametrize(("full", "quantization"), [(True, "null"), (False, "null"), (False, "nf4")])
def test_sft_raises_the_likelihood_of_solutions_and_excludes_held_out_problems(
    full: bool,
    quantization: str,
    problems: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained_on: list[Problem] = []

    def recording_pairs_of(wanted: list[Problem], *arguments: object, **options: object) -> object:
        trained_on.extend(wanted)
        return pairs_of(wanted, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(sft, "pairs_of", recording_pairs_of)
    out = tmp_path / "out"
    options = ["--steps", "12", "--learning-rate", "1e-3", "--warmup-steps", "2", *(["--full"] if full else [])]
    assert main([*command(problems, out, *options), f"learner.quantization={quantization}"]) == 0

    from cluster.problems.dataset import load_problems

    training, held_out = split(load_problems(str(problems)).problems, 20, load_config(Path(CONFIG)).data.split_seed)
    assert {one.id for one in trained_on} == {one.id for one in training if one.solution}
    assert not {one.id for one in trained_on} & {one.id for one in held_out}

    before, after = (
        statistics.fmean(mean_logprob(model, one) for one in trained_on[:10]) for model in (tiny_model_path(), out)
    )
    assert after > before + 0.1
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"  # like the base model
    assert (out / "adapter").exists() != full
    if not full:
        assert mean_logprob(tiny_model_path(), trained_on[0], out / "adapter") == pytest.approx(
            mean_logprob(out, trained_on[0]), abs=0.05
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "problems.jsonl"]
    assert not (out / "training").exists()
    lines = (out / "sft.log").read_text().splitlines()
    assert [line.split()[1] for line in lines] == [f"{step}/12" for step in range(1, 13)]
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")] == lines


def weights_of(model: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    weights: dict[str, Any] = load_file(model / "model.safetensors")
    return weights


SHORT = ["--steps", "6", "--save-steps", "2", "--learning-rate", "1e-3", "--warmup-steps", "1", "--batch-size", "8"]


@pytest.mark.parametrize("full", [True, False])
def test_an_interrupted_training_resumes_and_makes_the_same_model(
    full: bool, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C after step 3; then the disk is full when the model is written; then the command succeeds."""
    import torch

    options = [*SHORT, *(["--full"] if full else [])]
    assert main(command(problems, tmp_path / "whole", *options)) == 0
    out = tmp_path / "out"
    done = sft.Steps.done

    def interrupted(self: sft.Steps, step: int, loss: float) -> None:
        done(self, step, loss)
        if step == 2:  # the interrupt takes effect after the next step
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(sft.Steps, "done", interrupted)
    assert main(command(problems, out, *options)) == 130
    printed = capsys.readouterr().err
    assert f"stopped after step 3 of 6, saved in {out}/training/checkpoint-3; the same command continues" in " ".join(
        printed.split()
    )
    assert not (out / "config.json").exists()
    monkeypatch.setattr(sft.Steps, "done", done)

    assert main(command(problems, out, *options[2:], "--steps", "7")) == 2
    assert "was started with other settings (num_steps was 6 and is 7)" in capsys.readouterr().err

    with monkeypatch.context() as patched:
        patched.setattr(
            SftFolder, "move_into_place", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left"))
        )
        assert main(command(problems, out, *options)) == 1
    printed = " ".join(capsys.readouterr().err.split())
    assert f"cannot be written to {out}: OSError: [Errno 28] No space left" in printed
    assert f"the trained weights are in {out}/training/checkpoint-6" in printed

    from learner.sft import train as supervised

    with monkeypatch.context() as patched:
        patched.setattr(supervised, "fine_tune", None)  # no step is left
        assert main(command(problems, out, *options)) == 0
    whole, resumed = weights_of(tmp_path / "whole"), weights_of(out)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    logs = [(path / "sft.log").read_text() for path in (tmp_path / "whole", out)]
    assert [line.split()[3] for line in logs[0].splitlines()] == [line.split()[3] for line in logs[1].splitlines()]


def test_a_generation_config_that_cannot_be_saved_does_not_prevent_saving_the_model(
    problems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(tiny_model_path(), tmp_path / "model"))
    (model / "generation_config.json").write_text('{"temperature": 0.6, "eos_token_id": 0}')
    arguments = [*command(problems, tmp_path / "out", "--full", *SHORT), f"model.path={model}"]
    assert main(arguments) == 0
    assert json.loads((tmp_path / "out/generation_config.json").read_text())["do_sample"] is True
    (model / "generation_config.json").write_text("{oops")
    assert main([*command(problems, tmp_path / "other", "--full", *SHORT), f"model.path={model}"]) == 1
    assert "its generation_config.json cannot be used" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_chat_model_learns_the_whole_definition_and_a_base_model_the_body() -> None:
    problem = Problem(id="p", statement="", signature="let f x =", tests="", solution="let f x =\n  x + 1\n")
    chat = Prompt(problem_id="p", text="let f x =\n<|assistant|>\n", token_ids=())
    assert answer(problem, chat) == "let f x =\n  x + 1\n(* END *)"
    assert answer(problem, replace(chat, text="let f x =\n")) == "  x + 1\n(* END *)"
    assert answer(problem, replace(chat, text="let f x =")) == "\n  x + 1\n(* END *)"
    thinking = answer(problem, replace(chat, opened_thought="<think>"))
    assert thinking == "\n</think>\n\nlet f x =\n  x + 1\n(* END *)"


def test_an_impossible_training_is_refused_in_one_line(
    problems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(arguments: list[str]) -> str:
        assert main(arguments) != 0
        printed = capsys.readouterr().err.strip().splitlines()
        return printed[-1]

    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").touch()
    assert "is not an empty folder" in refused(command(problems, full))
    without = tmp_path / "without.jsonl"
    rows = [json.loads(line) for line in problems.read_text().splitlines()]
    without.write_text("".join(f"{json.dumps({**row, 'solution': None})}\n" for row in rows))
    assert "none of 40 problems has a reference solution" in refused(command(without, tmp_path / "out"))
    printed = refused(command(problems, tmp_path / "out", "--batch-size", "10", "--micro-batch-size", "4"))
    assert "a batch of 10 pairs cannot be split into micro-batches of 4" in printed
    printed = refused([*command(problems, tmp_path / "out", "--full"), "learner.quantization=nf4"])
    assert "--full trains all weights, and learner.quantization=nf4 freezes them" in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "much"])
def test_a_learning_rate_is_a_number_above_0(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["sft", "--out", "out", "--learning-rate", text])
    assert "is not a number above 0" in capsys.readouterr().err
