"""Exports of a run: loaded by PEFT and transformers, compared with the learner's weights, and refusals."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from cluster.cli.main import main
from cluster.config.model_path import tiny_model_path
from cluster.errors import ConfigError, ModelError, RunFolderError
from cluster.ledger.run_folder import RunFolder
from cluster.models import export as exporting
from cluster.models.export_card import card
from tests.cluster.small_run import make_extended, make_finished, make_unfinished

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_unfinished(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def finished(unfinished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_finished(unfinished, tmp_path_factory.mktemp("runs") / "run")
    held_out = {
        "reward": 0.25,
        "reward_standard_error": 0.0123,
        "pass_rate": 0.2,
        "solved_once": 0.5,
        "num_problems": 8,
        "num_completions": 16,
    }
    rows = [{"step": 0, "name": "before", **held_out}, {"step": 4, "name": "after", **held_out, "reward": 0.75}]
    (run / "evaluation.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (run / "reward.png").write_bytes(b"a picture")
    return run


def logprobs_of(model: Path, ids: list[int], adapter: Path | None = None) -> torch.Tensor:
    """Return log-probabilities [T, V] of a model, loaded with transformers and peft."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    if adapter:
        loaded = PeftModel.from_pretrained(loaded, adapter)
    with torch.no_grad():
        logprobs: torch.Tensor = loaded.eval()(torch.tensor([ids])).logits[0].log_softmax(-1)
    return logprobs


def test_an_exported_adapter_equals_the_runs_and_loads_in_peft(finished: Path, tmp_path: Path) -> None:
    assert main(["export", str(finished), str(tmp_path / "out")]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "README.md",
        "reward.png",
    }
    weights = exporting.ADAPTER_FILES[1]
    assert (tmp_path / "out" / weights).read_bytes() == (finished / "adapter" / weights).read_bytes()
    ids = [5, 40, 7, 90]
    with_adapter, without = logprobs_of(tiny_model_path(), ids, tmp_path / "out"), logprobs_of(tiny_model_path(), ids)
    assert (with_adapter - without).abs().max() > 1e-4


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-4), ("bfloat16", 0.05)])
def test_a_merged_model_agrees_with_model_and_adapter(
    dtype: str, bound: float, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["export", str(finished), "--merge", str(out), "--dtype", dtype]) == 0
    printed = capsys.readouterr().out
    assert "nats per token from base model with adapter" in printed
    assert not list(out.glob("adapter*"))
    assert json.loads((out / "config.json").read_text())["dtype"] == dtype
    ids = list(range(10, 60))  # tokens that the export did not compare
    expected = logprobs_of(tiny_model_path(), ids, finished / "adapter")
    targets = torch.arange(len(ids) - 1), torch.tensor(ids[1:])
    gap = (logprobs_of(out, ids)[:-1][targets] - expected[:-1][targets]).abs().mean()
    assert gap < bound
    if dtype == "float32":
        assert gap < 0.1 * (logprobs_of(tiny_model_path(), ids)[:-1][targets] - expected[:-1][targets]).abs().mean()


@pytest.fixture
def moved(finished: Path, tmp_path: Path) -> Path:
    """The run with a copy of its model in a folder, with a chat template and a generation config that cannot be saved."""
    home = tmp_path / "home" / "me"
    model = home / "my-model"
    shutil.copytree(tiny_model_path(), model)
    (model / "generation_config.json").write_text('{"temperature": 0.6, "eos_token_id": 0}')
    (model / "chat_template.jinja").write_text("{{ messages[0].content }}")
    run = shutil.copytree(finished, home / "runs" / "run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["path"] = str(model)
    config["data"]["dataset"] = str(home / "problems.jsonl")
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    adapter = json.loads((run / "adapter/adapter_config.json").read_text())
    (run / "adapter/adapter_config.json").write_text(json.dumps(adapter | {"base_model_name_or_path": str(model)}))
    return run


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("base", [None, "me/base"])
def test_an_export_contains_the_tokenizer_and_no_path_of_this_machine(
    merge: bool, base: str | None, moved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = [*(["--merge"] if merge else []), *(["--base-name", base] if base else [])]
    assert main(["export", str(moved), str(out), *options]) == 0
    printed = " ".join(capsys.readouterr().err.split())
    assert ("the export calls the base model 'my-model', after its folder" in printed) == (base is None)
    texts = {path.name: path.read_text() for path in out.iterdir() if path.suffix in (".json", ".md", ".jinja")}
    assert "/me/" not in "".join(texts.values()).replace("me/base", "") and str(tmp_path) not in "".join(texts.values())
    assert texts["chat_template.jinja"] == "{{ messages[0].content }}"
    assert ("base_model: me/base" in texts["README.md"]) == (base is not None)
    assert "`problems.jsonl`" in texts["README.md"]
    if merge:
        assert json.loads(texts["generation_config.json"])["do_sample"] is True
        from transformers import AutoModelForCausalLM, AutoTokenizer

        assert AutoTokenizer.from_pretrained(out).chat_template
        AutoModelForCausalLM.from_pretrained(out)
    else:
        assert json.loads(texts["adapter_config.json"])["base_model_name_or_path"] == (base or "my-model")


def test_the_adapter_of_a_run_names_its_model_without_a_path(finished: Path, unfinished: Path) -> None:
    for folder in (finished / "adapter", unfinished / "checkpoints/checkpoint-3"):
        assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "tiny"


def test_a_full_disk_is_reported_in_one_line_and_no_file_remains(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors import SafetensorError
    from transformers import PreTrainedModel

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    assert main(["export", str(finished), "--merge", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().err.strip().splitlines()
    assert "the model cannot be saved: SafetensorError" in printed[-1] and "No space left" in printed[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_merged_model_that_disagrees_is_refused_and_no_file_remains(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from learner.training import merge

    def write_without_adapter(model: str, adapter: Path, folder: Path, *, dtype: str) -> None:
        shutil.copytree(model, folder, dirs_exist_ok=True)  # without the adapter

    monkeypatch.setattr(merge, "write_merged", write_without_adapter)
    with pytest.raises(ModelError, match=r"the written model is .* nats per token away .* allowed for float32"):
        exporting.export(RunFolder(finished), tmp_path / "out", step=None, merge=True, dtype="float32")
    assert list(tmp_path.iterdir()) == []


def test_the_former_final_adapter_of_an_extended_run_can_be_exported_without_its_checkpoint(
    finished: Path, tmp_path: Path
) -> None:
    run = make_extended(finished, tmp_path / "run")
    shutil.rmtree(run / "checkpoints/checkpoint-4")
    for step, adapter in ((None, run / "adapter"), ("4", finished / "adapter")):
        out = tmp_path / f"out-{step}"
        assert main(["export", str(run), str(out), *(["--step", step] if step else [])]) == 0
        name = "adapter_model.safetensors"
        assert (out / name).read_bytes() == (adapter / name).read_bytes()


def test_a_step_exports_its_checkpoint(unfinished: Path, tmp_path: Path) -> None:
    assert main(["export", str(unfinished), str(tmp_path / "one"), "--step", "1"]) == 0
    assert main(["export", str(unfinished), str(tmp_path / "last")]) == 0
    weights = [
        (folder / "adapter_model.safetensors").read_bytes()
        for folder in (
            tmp_path / "one",
            unfinished / "checkpoints/checkpoint-1",
            tmp_path / "last",
            unfinished / "checkpoints/checkpoint-3",
        )
    ]
    assert weights[0] == weights[1] != weights[2] == weights[3]
    assert "# run, step 1" in (tmp_path / "one/README.md").read_text()


def test_a_finished_run_without_its_checkpoints_still_has_its_adapter(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run, ignore=shutil.ignore_patterns("checkpoints"))
    problems = {"training": 1, "held_out": 2, "unpassable": 3}
    (run / "summary.json").write_text(json.dumps({"steps": 4, "problems": problems}))
    source = exporting.find_source(RunFolder(run), exporting._config_of(RunFolder(run)), 4)
    assert (source.folder, source.step) == (run / "adapter", 4)
    assert main(["export", str(run), str(tmp_path / "out")]) == 0
    assert "Problems: 1 training, 2 held out, 3 unpassable." in (tmp_path / "out/README.md").read_text()


def test_the_card_has_data_configuration_curve_and_evaluation(finished: Path, tmp_path: Path) -> None:
    assert main(["export", str(finished), "--merge", str(tmp_path / "merged")]) == 0
    text = (tmp_path / "merged/README.md").read_text()
    _, front, _ = text.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "transformers",
        "tags": ["ocaml", "grpo"],
    }  # "tiny" is no id of the hub
    assert "`kiranpg/ocaml-training-problems`, 100 problems held out" in text
    assert "| before training (step 0) | 0.250 ± 0.012 | 20.0% | 50.0% | 8 | 16 |" in text
    assert "| after training (step 4) | 0.750 ± 0.012 | 20.0% | 50.0% | 8 | 16 |" in text
    assert "learner.kl_target: 0.0001" in text
    assert "learner.epsilon" not in text  # left at its default
    metrics = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    (row,) = (line for line in text.splitlines() if line.startswith("| 3 |"))
    assert f" {metrics[2]['reward']:.3f} " in row and f" {metrics[2]['entropy']:.3f} " in row
    assert "![Reward over the steps of the run](reward.png)" in text
    assert (tmp_path / "merged/reward.png").read_bytes() == b"a picture"
    assert "after training" not in card(
        RunFolder(finished), exporting._config_of(RunFolder(finished)), step=3, written_dtype=None, base="tiny"
    )


def test_an_impossible_export_is_refused_in_one_line(finished: Path, unfinished: Path, tmp_path: Path) -> None:
    def refused(run: Path, out: Path, error: type[Exception], step: int | None = None) -> str:
        with pytest.raises(error) as caught:
            exporting.export(RunFolder(run), out, step=step, merge=False, dtype=None)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "config.yaml cannot be read (No such file" in refused(tmp_path / "nowhere", tmp_path / "x", RunFolderError)
    printed = refused(unfinished, tmp_path / "x", RunFolderError, step=2)
    assert "does not contain an adapter of step 2; steps with a checkpoint: 1, 3" in printed
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("keep")
    assert f"{full} is not an empty folder" in refused(finished, full, ConfigError)
    assert f"{full / 'mine'} is not an empty folder" in refused(finished, full / "mine", ConfigError)
    assert "cannot be written" in refused(finished, full / "mine" / "below", ConfigError)
    assert [path.name for path in full.iterdir()] == ["mine"]
    with pytest.raises(ConfigError, match="--dtype float32 has no effect without --merge"):
        exporting.export(RunFolder(finished), tmp_path / "x", step=None, merge=False, dtype="float32")
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(finished / "config.yaml", run)
    assert "an adapter to export; steps with a checkpoint: none" in refused(run, full, RunFolderError)


def test_an_export_is_pushed_only_on_request_as_a_private_repository(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import huggingface_hub

    calls: list[tuple[str, object]] = []

    class Hub:
        def create_repo(self, name: str, **options: object) -> object:
            calls.append((name, options))
            if name == "not mine":
                raise ValueError("no such\nname")
            return type("Url", (str,), {"repo_id": name})(f"hub/{name}")

        def upload_folder(self, *, repo_id: str, folder_path: Path) -> None:
            calls.append((repo_id, sorted(path.name for path in folder_path.iterdir())))

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert main(["export", str(finished), str(tmp_path / "kept")]) == 0
    assert calls == []
    assert main(["export", str(finished), str(tmp_path / "pushed"), "--push-to-hub", "me/it"]) == 0
    files = ["README.md", *exporting.ADAPTER_FILES, "reward.png", "tokenizer.json", "tokenizer_config.json"]
    assert calls == [("me/it", {"private": True, "exist_ok": True}), ("me/it", files)]
    assert "pushed: hub/me/it" in capsys.readouterr().out
    assert main(["export", str(finished), str(tmp_path / "other"), "--push-to-hub", "not mine"]) == 2
    assert "--push-to-hub not mine: no such name. The export is in" in capsys.readouterr().err
