"""Supervised training by the command: what it learns from, what it writes, and what it refuses."""

import json
import statistics
from pathlib import Path

import pytest

from cluster import sft as teaching
from cluster import tiny
from cluster.cli import main
from cluster.config import load_config
from cluster.problems import split
from cluster.sft_pairs import answer, pairs_of
from cluster.types import Problem

pytestmark = pytest.mark.slow

CONFIG = "configs/demo.yaml"


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    """60 of the built-in problems, every tenth without a solution, as a file; the solutions end as the model has never seen."""
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


def worth(model: Path, problem: Problem, adapter: Path | None = None) -> float:
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
    return scores.gather(-1, torch.tensor(completion)[:, None]).mean().item()


@pytest.mark.parametrize("full", [True, False])
def test_it_makes_a_model_that_knows_the_solutions_better_and_has_not_seen_those_held_out(
    full: bool, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Problem] = []

    def seen(wanted: list[Problem], *arguments: object, **options: object) -> object:
        asked.extend(wanted)
        return pairs_of(wanted, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(teaching, "pairs_of", seen)
    out = tmp_path / "out"
    options = ["--steps", "12", "--learning-rate", "1e-3", "--warmup-steps", "2", *(["--full"] if full else [])]
    assert main(command(problems, out, *options)) == 0

    from cluster.problems import load_problems

    training, held_out = split(load_problems(str(problems)).problems, 20, load_config(Path(CONFIG)).data.split_seed)
    assert {one.id for one in asked} == {one.id for one in training if one.solution}
    assert not {one.id for one in asked} & {one.id for one in held_out}

    before, after = (
        statistics.fmean(worth(model, one) for one in asked[:10]) for model in (tiny.tiny_model_path(), out)
    )
    assert after > before + 0.1
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"  # as the model that it was made of
    assert (out / "adapter").exists() != full
    if not full:
        assert worth(tiny.tiny_model_path(), asked[0], out / "adapter") == pytest.approx(worth(out, asked[0]), abs=0.05)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "problems.jsonl"]


def test_a_chat_model_is_taught_the_whole_definition_and_one_that_continues_the_body() -> None:
    problem = Problem(id="p", statement="", signature="let f x =", tests="", solution="let f x =\n  x + 1\n")
    assert answer(problem, is_chat=True) == "let f x =\n  x + 1\n(* END *)"
    assert answer(problem, is_chat=False) == "  x + 1\n(* END *)"
    thinking = answer(problem, is_chat=True, opened_thought="<think>")
    assert thinking == "\n</think>\n\nlet f x =\n  x + 1\n(* END *)"


def test_what_cannot_be_done_is_one_line(problems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(arguments: list[str]) -> str:
        assert main(arguments) != 0
        told = capsys.readouterr().err.strip().splitlines()
        return told[-1]

    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").touch()
    assert "is not an empty folder" in refused(command(problems, full))
    without = tmp_path / "without.jsonl"
    rows = [json.loads(line) for line in problems.read_text().splitlines()]
    without.write_text("".join(f"{json.dumps({**row, 'solution': None})}\n" for row in rows))
    assert "none of 40 problems has a reference solution" in refused(command(without, tmp_path / "out"))
    told = refused(command(problems, tmp_path / "out", "--batch-size", "10", "--micro-batch-size", "4"))
    assert "a batch of 10 pairs cannot be cut into micro-batches of 4" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "much"])
def test_a_learning_rate_is_a_number_above_0(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["sft", "--out", "out", "--learning-rate", text])
    assert "is not a number above 0" in capsys.readouterr().err
