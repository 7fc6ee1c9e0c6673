"""Tests of the recorded data of a run, and of its split when the data changes."""

import asyncio
import dataclasses
import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.config.config import Config
from cluster.config.load import load_config
from cluster.console import View
from cluster.errors import ConfigError, DatasetError, RunFolderError
from cluster.ledger.run_folder import RunFolder
from cluster.problems.dataset import split
from cluster.problems.run_data import RunData, run_of_evaluation, split_for_run, updated_data
from cluster.run.evaluate import data_of_adapter
from cluster.run.loading import RenderedProblems
from cluster.run.resume import resumed_config
from cluster.run.train import train
from cluster.types import Problem

HELD_OUT = 5


def make_problem(name: object, text: str = "") -> Problem:
    tests = f"let () = assert (f {text or name} = 1)"
    return Problem(id=str(name), statement="(** F. *)", signature="let f (n : int) : int =", tests=tests)


PROBLEMS = [make_problem(number) for number in range(20)]


def config(*overrides: str) -> Config:
    return load_config(None, ["dataset=some.jsonl", f"held_out={HELD_OUT}", *overrides], environment={})


def started(problems: Sequence[Problem] = PROBLEMS) -> tuple[RunData, list[Problem], list[Problem]]:
    training, held_out = split(problems, HELD_OUT, 0)
    return updated_data(None, problems, training, held_out), training, held_out


def ids(problems: Sequence[Problem]) -> list[str]:
    return [one.id for one in problems]


def reread(folder: Path, data: RunData) -> RunData:
    """Return the data after it was written to a folder and read again."""
    folder.mkdir(exist_ok=True)
    (folder / "data.jsonl").write_text(data.to_jsonl(), encoding="utf-8")
    again = RunData.read(RunFolder(folder))
    assert again is not None
    return again


def test_the_same_data_in_any_order_is_split_as_before(tmp_path: Path) -> None:
    data, training, held_out = started()
    data = reread(tmp_path, data)
    assert data.check(PROBLEMS, tmp_path, allowed=False) == ""
    assert "another order" in data.check(PROBLEMS[::-1], tmp_path, allowed=False)
    for problems in (PROBLEMS, PROBLEMS[::-1]):
        assert split_for_run(data, problems, config()) == (training, held_out)
        assert split_for_run(data, problems, config("split_seed=7")) == (training, held_out)


def test_other_data_is_refused_with_the_differences(tmp_path: Path) -> None:
    data, *_ = started()
    now = [
        make_problem("3", "changed"),
        *PROBLEMS[4:15],
        make_problem("nineteen", "19"),
        *map(make_problem, ("x", "y")),
    ]
    with pytest.raises(RunFolderError) as error:
        data.check(now, tmp_path, allowed=False)
    message = str(error.value)
    for part in (
        "7 removed ('0', '1', '2', '15', '16', and 2 more)",
        "2 added ('x', 'y')",
        "1 changed ('3')",
        "1 with another id ('19' is now 'nineteen')",
        "--allow-changed-data",
        "run.name=NAME",
    ):
        assert part in message, message
    assert "\n" not in message
    assert data.check(now, tmp_path, allowed=True).startswith("the data has changed: 7 removed")


def test_other_solutions_and_difficulties_are_changes_too(tmp_path: Path) -> None:
    data, *_ = started()
    for change in ({"solution": "let f n = n"}, {"difficulty": "hard"}):
        with pytest.raises(RunFolderError, match=r"1 changed \('0'\)"):
            data.check([dataclasses.replace(PROBLEMS[0], **change), *PROBLEMS[1:]], tmp_path, allowed=False)


def test_data_without_a_common_problem_is_refused_even_if_changes_are_allowed(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no problem in common"):
        started()[0].check([make_problem(number, "other") for number in range(20)], tmp_path, allowed=True)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_no_problem_ever_changes_sides(seed: int) -> None:
    """Remove, restore, move, rename and change rows over several starts."""
    draw = random.Random(seed)
    data, training, held_out = started()
    sides = {one.tests: "training" for one in training} | {one.tests: "held out" for one in held_out}
    now = list(PROBLEMS)
    for start in range(3):
        now = [one for one in PROBLEMS if draw.random() < 0.7]
        if draw.random() < 0.5:  # use row numbers as ids
            now = [dataclasses.replace(one, id=str(number)) for number, one in enumerate(now)]
        now += [make_problem(f"new {start} {number}") for number in range(draw.randrange(3))]
        draw.shuffle(now)
        try:
            training, held_out = split_for_run(data, now, config())
        except DatasetError:
            return
        data = updated_data(data, now, training, held_out)
        assert sorted(ids([*training, *held_out])) == sorted(ids(now))
        for side, problems in (("training", training), ("held out", held_out)):
            for one in problems:
                assert sides.setdefault(one.tests, side) == side
        assert split_for_run(data, now, config()) == (training, held_out)


def test_a_problem_whose_text_changed_stays_on_its_side() -> None:
    data, _, held_out = started()
    name = held_out[0].id
    now = [make_problem(one.id, "changed") if one.id == name else one for one in PROBLEMS]
    assert ids(split_for_run(data, now, config())[1]) == ids(held_out)


def test_an_excluded_problem_stays_excluded_until_its_text_changes() -> None:
    training, held_out = split(PROBLEMS[1:], HELD_OUT, 0)
    data = updated_data(None, PROBLEMS, training, held_out)
    assert split_for_run(data, PROBLEMS, config()) == (training, held_out)
    changed = [make_problem(0, "changed"), *PROBLEMS[1:]]
    assert ids(split_for_run(data, changed, config())[0]) == [*ids(training), "0"]


def test_data_without_a_training_problem_is_refused() -> None:
    data, _, held_out = started()
    with pytest.raises(DatasetError, match="all its problems are held out"):
        split_for_run(data, held_out, config())


def test_damaged_data_is_refused_with_advice(tmp_path: Path) -> None:
    assert RunData.read(RunFolder(tmp_path)) is None
    (tmp_path / "data.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(RunFolderError, match="Restore it, or start another run"):
        RunData.read(RunFolder(tmp_path))


def interrupted(folder: Path, dataset: Path, problems: Sequence[Problem], *, has_recorded_data: bool = True) -> Config:
    """Make a run that was started with these problems and has a checkpoint; return its configuration."""
    keys = [f"run.folder={folder.parent}", f"run.name={folder.name}", f"dataset={dataset}", "model.path=tiny"]
    write(dataset, problems)
    made = load_config(None, [*keys, f"held_out={HELD_OUT}"], environment={})
    with RunFolder(folder).opened(made):
        (folder / "checkpoints/checkpoint-20").mkdir()
    if has_recorded_data:
        reread(folder, started(problems)[0])
    return made


def write(path: Path, problems: Sequence[Problem]) -> None:
    rows = [{"id": one.id, "prompt": one.prompt, "tests": one.tests} for one in problems]
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def test_both_ways_to_resume_a_run_with_other_data_are_refused_before_anything_starts(tmp_path: Path) -> None:
    data = tmp_path / "p.jsonl"
    same = interrupted(tmp_path / "run", data, PROBLEMS)
    write(data, PROBLEMS[3:])
    for again in (same, resumed_config(tmp_path / "run", ["max_steps=40"]), resumed_config(tmp_path / "run", [])):
        with pytest.raises(RunFolderError, match=r"other data: 3 removed \('0', '1', '2'\)"):
            asyncio.run(train(again, View()))


def test_the_same_data_may_be_in_another_file(tmp_path: Path) -> None:
    interrupted(tmp_path / "new", tmp_path / "p.jsonl", PROBLEMS)
    interrupted(tmp_path / "old", tmp_path / "p.jsonl", PROBLEMS, has_recorded_data=False)
    moved = tmp_path / "moved.json"
    write(moved, PROBLEMS)
    resumed = resumed_config(tmp_path / "new", [f"dataset={moved}"])
    with RunFolder(tmp_path / "new").opened(resumed):
        assert resumed.data.dataset == str(moved) and not resumed.resume_overrides
    with pytest.raises(ConfigError, match=r"data\.dataset cannot change"):
        resumed_config(tmp_path / "old", [f"dataset={moved}"])


@pytest.mark.parametrize("override", ["held_out=7", "split_seed=3", "drop_unpassable=false"])
def test_another_split_is_refused_by_name(tmp_path: Path, override: str) -> None:
    made = interrupted(tmp_path / "run", tmp_path / "p.jsonl", PROBLEMS)
    with pytest.raises(ConfigError, match=rf"data\.{override.partition('=')[0]} cannot change"):
        resumed_config(tmp_path / "run", [override])
    key, _, value = override.partition("=")
    other = made.changed({f"data.{key}": json.loads(value)})
    with pytest.raises(RunFolderError, match=rf"another configuration: data\.{key}="):
        asyncio.run(train(other, View()))


def test_an_adapter_or_a_trained_model_is_evaluated_by_the_split_of_its_run(tmp_path: Path) -> None:
    made = interrupted(tmp_path / "run", tmp_path / "p.jsonl", PROBLEMS)
    assert run_of_evaluation(made).path == tmp_path / "run"  # type: ignore[union-attr]
    assert run_of_evaluation(made.changed({"data.held_out": 3})) is None
    for adapter in ("adapter", "checkpoints/checkpoint-20"):
        found = run_of_evaluation(made.changed({"model.adapter": str(tmp_path / "run" / adapter), "run.name": "other"}))
        assert found is not None and found.path == tmp_path / "run"
    for model in ("model", "checkpoints/checkpoint-20"):
        (tmp_path / "run" / model).mkdir(parents=True, exist_ok=True)
        found = run_of_evaluation(made.changed({"model.path": str(tmp_path / "run" / model), "run.name": "other"}))
        assert found is not None and found.path == tmp_path / "run"
    assert run_of_evaluation(made.changed({"model.adapter": str(tmp_path / "elsewhere/adapter")})) is None


def test_an_evaluation_of_changed_data_uses_the_held_out_problems_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = interrupted(tmp_path / "run", tmp_path / "p.jsonl", PROBLEMS).changed(
        {"model.adapter": str(tmp_path / "run/adapter")}
    )
    _, _, held_out = started()
    now = (*PROBLEMS[3:], make_problem("new"))
    data = data_of_adapter(made, RenderedProblems(loaded=now, problems=now, prompts={}), View())
    assert data is not None
    assert set(ids(split_for_run(data, now, made)[1])) == set(ids(held_out)) & set(ids(now))
    assert "1 problems are not among those of" in " ".join(capsys.readouterr().err.split())
    other = tuple(make_problem(number, "other") for number in range(20))
    assert data_of_adapter(made, RenderedProblems(loaded=other, problems=other, prompts={}), View()) is None
