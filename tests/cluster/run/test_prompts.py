"""The prompts of a run: rendering by tokenizer and chat template, and the date in them."""

import json
import textwrap
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.main import main
from cluster.config.config import Config
from cluster.config.load import load_config
from cluster.console import View
from cluster.errors import ConfigError, ModelError, RunFolderError
from cluster.ledger.run_folder import RunFolder
from cluster.models.sft_pairs import pairs_of
from cluster.run import prompts
from cluster.run.loading import load_and_render
from cluster.run.preflight import check_settings
from cluster.run.prompts import prompt_date, render_prompts
from cluster.run.resume import resumed_config
from rollout.prompt_settings import PromptSettings
from rollout.prompt_template import CONTINUATION, FIELDS, INSTRUCTION, QUESTION
from tests.rollout.chat_templates import CHATML, DEEPSEEK, GEMMA, LLAMA, PARTS, QWEN3, tokenizer_with

ROWS = [
    {
        "id": f"p{number}",
        "prompt": f"(** Add {number}. *)\nlet add_{number} (n : int) : int =",
        "tests": f"let () = assert (add_{number} 1 = {number + 1})",
        "solution": f"let add_{number} (n : int) : int =\n  n + {number}",
    }
    for number in range(4)
]
NEW_YEAR, LATER = date(2026, 1, 1), date(2026, 1, 2)


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Config]:
    """Configurations of a model whose tokenizer lies in a folder, with a few problems."""
    problems = tmp_path / "problems.jsonl"
    problems.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))

    def build(template: Any, *settings: str, **tokenizer: Any) -> Config:
        tokenizer_with(template, **tokenizer).save_pretrained(tmp_path / "model")
        places = [f"model.path={tmp_path / 'model'}", f"data.dataset={problems}", f"run.folder={tmp_path / 'runs'}"]
        return load_config(None, [*places, "run.name=r", *settings], environment={})

    return build


def set_today(monkeypatch: pytest.MonkeyPatch, today: date) -> None:
    class Calendar(date):
        @classmethod
        def today(cls) -> date:  # type: ignore[override]
            return today

    monkeypatch.setattr(prompts, "date", Calendar)


def texts(config: Config) -> list[str]:
    return [prompt.text for prompt in load_and_render(config, View()).prompts.values()]


def test_a_special_property_of_a_template_is_logged_once(config: Callable[..., Config], capsys: Any) -> None:
    usable = load_and_render(config(GEMMA), View())
    assert len(usable.prompts) == len(ROWS)
    printed = "".join(capsys.readouterr())
    assert printed.count("accepts no system message") == 1


@pytest.mark.parametrize(
    ("template", "named"),
    [
        ({"rag": CHATML, "tool_use": CHATML}, "several chat templates (rag, tool_use)"),
        (CHATML + "{{ helper() }}", "UndefinedError: 'helper' is undefined"),
        ("{% for m in messages %}", "TemplateSyntaxError"),
        ("Hello", "does not contain the problem's text"),
    ],
)
@pytest.mark.parametrize("command", ["train", "eval", "sample", "sft"])
def test_a_template_that_cannot_be_used_ends_each_command_in_one_line(
    template: Any, named: str, command: str, config: Callable[..., Config], tmp_path: Path, capsys: Any
) -> None:
    config(template)
    settings = [f"model.path={tmp_path / 'model'}", f"data.dataset={tmp_path / 'problems.jsonl'}", "data.held_out=1"]
    out = ["--out", str(tmp_path / "out")] if command == "sft" else []
    assert main([command, *out, *settings, f"run.folder={tmp_path / 'runs'}", "run.name=r"]) == 1
    printed = capsys.readouterr().err.strip().splitlines()
    assert printed[-1].startswith(f"caravan: model.path={tmp_path / 'model'}: ") and named in printed[-1]
    assert "Traceback" not in "\n".join(printed)
    assert not (tmp_path / "out").exists() and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("broken", ["{", '{"version": "1.0"}', '{"model": {"type": "Odd"}}'])
def test_a_broken_tokenizer_file_is_refused_in_one_line(
    broken: str, config: Callable[..., Config], tmp_path: Path
) -> None:
    used = config(CHATML)
    (tmp_path / "model" / "tokenizer.json").write_text(broken)
    with pytest.raises(ModelError, match="no tokenizer can be loaded") as refused:
        render_prompts(used, [])
    assert "\n" not in str(refused.value)


def test_a_tokenizer_class_that_loses_the_spaces_of_its_file_is_refused_with_the_fix(
    config: Callable[..., Config], tmp_path: Path
) -> None:
    used, path = config(None), tmp_path / "model" / "tokenizer_config.json"
    # As some models on the hub have it: transformers 5 then puts SentencePiece's pre-tokenizer into a byte-level tokenizer.
    for name, is_whole in (("LlamaTokenizerFast", False), ("PreTrainedTokenizerFast", True)):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": name}))
        if is_whole:
            assert len(load_and_render(used, View()).prompts) == len(ROWS)
        else:
            with pytest.raises(ModelError, match="write PreTrainedTokenizerFast there"):
                load_and_render(used, View())


def test_problems_whose_text_is_lost_are_named_and_the_others_kept(config: Callable[..., Config], capsys: Any) -> None:
    template = CHATML.replace("{{ message.content }}", "{{ message.content | replace('add_2', 'f') }}")
    usable = load_and_render(config(template), View())
    assert [problem.id for problem in usable.problems] == ["p0", "p1", "p3"]
    assert "1 problems excluded for incomplete prompts" in "".join(capsys.readouterr()).replace("\n", " ")
    template = CHATML.replace("{{ message.content }}", "{{ message.content | replace('add_', 'f') }}")
    with pytest.raises(ModelError, match="has no prompt for any problem"):
        load_and_render(config(template), View())


@pytest.mark.parametrize("template", [None, CHATML, GEMMA, PARTS, DEEPSEEK])
@pytest.mark.parametrize("adds", ["", "both"])
def test_supervised_training_reads_the_prompts_that_are_sampled_from(
    template: str | None, adds: str, config: Callable[..., Config], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    usable = load_and_render(config(template, adds=adds), View())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    pairs = pairs_of(usable.problems, usable.prompts, tokenizer)
    assert [prompt for prompt, _ in pairs] == [usable.prompts[problem.id].token_ids for problem in usable.problems]
    taught = tokenizer.decode(pairs[1][1])
    assert taught.endswith("  n + 1\n(* END *)</s>") and taught.count("</s>") == 1
    assert taught.startswith("  n" if template is None else "\n</think>\n\nlet" if template == DEEPSEEK else "let")


def test_a_run_keeps_the_date_of_its_first_day(
    config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unset = config(LLAMA)
    folder = RunFolder(tmp_path / "runs" / "r")
    set_today(monkeypatch, NEW_YEAR)
    with folder.opened(unset.with_prompt(date=folder.prompt_date() or prompt_date(unset))):
        first = texts(unset.with_prompt(date=NEW_YEAR))
    assert "01 Jan 2026" in first[0]

    set_today(monkeypatch, LATER)
    assert texts(unset) != first
    (folder.checkpoints / "checkpoint-1").mkdir()
    again = unset.with_prompt(date=folder.prompt_date() or prompt_date(unset))
    with folder.opened(again):
        assert texts(again) == first
    assert texts(load_config(folder.config, environment={})) == first
    folder.data.write_text("")
    for adapter in (folder.adapter, folder.checkpoints / "checkpoint-1"):
        assert texts(unset.changed({"model.adapter": adapter})) == first
    assert texts(unset.changed({"model.adapter": tmp_path / "elsewhere" / "adapter"})) != first
    with pytest.raises(RunFolderError, match=r"prompt\.date"), folder.opened(unset.with_prompt(date=LATER)):
        pass


def test_a_run_without_a_date_gets_one_when_it_is_resumed(config: Callable[..., Config], tmp_path: Path) -> None:
    unset = config(LLAMA)
    folder = RunFolder(tmp_path / "runs" / "r")
    with folder.opened(unset):
        (folder.checkpoints / "checkpoint-1").mkdir()
    assert folder.prompt_date() is None
    with folder.opened(unset.with_prompt(date=NEW_YEAR)):
        folder.write_config()
    assert folder.prompt_date() == NEW_YEAR


CHANGES = [
    ("prompt.system=Other.", "prompt.system=Other. (was Be brief.)"),
    (
        "prompt.template=other.jinja",
        r"prompt.template: 'Different: {{ system }}' in line 1 (was 'Solve: {{ system }}')",
    ),
    ("prompt.chat=off", "prompt.chat=off (was auto)"),
    ("prompt.chat_template_kwargs={}", "prompt.chat_template_kwargs.enable_thinking=None (was False)"),
    ("chat_template_kwargs.enable_thinking=true", "prompt.chat_template_kwargs.enable_thinking=True (was False)"),
    ("prompt.few_shot=other.jsonl", "prompt.few_shot=[{"),
]


@pytest.fixture
def started(config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The prompt settings of a run with a checkpoint; its files of prompts are in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name, word in (("mine", "Solve"), ("other", "Different")):
        body = "{% for one in examples %}\n{{ one.solution }}\n{% endfor %}\n{{ prompt }}"
        Path(f"{name}.jinja").write_text(f"{word}: {{{{ system }}}}\n{body}")
        Path(f"{name}.jsonl").write_text(json.dumps({"prompt": f"let {name} x =", "solution": f"let {name} x = x"}))
    files = ["prompt.template=mine.jinja", "prompt.few_shot=mine.jsonl"]
    settings = [*files, "prompt.system=Be brief.", "chat_template_kwargs.enable_thinking=false"]
    used, folder = check_settings(config(QWEN3, *settings))
    with folder.opened(used):
        used = used.with_prompt(template_hash=load_and_render(used, View()).template_hash)
        folder.keep_config(used)
        (folder.checkpoints / "checkpoint-1").mkdir()
        (folder.path / "data.jsonl").touch()
    return settings


def test_a_resumed_run_notices_a_changed_prompt(started: list[str], config: Callable[..., Config]) -> None:
    same, folder = check_settings(config(QWEN3, *started))
    with folder.opened(same):
        pass
    for change, message in CHANGES:
        changed = load_config(folder.config, [change], environment={})
        with (
            pytest.raises(RunFolderError, match="started with another configuration") as refused,
            folder.opened(changed),
        ):
            pass
        assert message in str(refused.value) and "\n" not in str(refused.value)
        with pytest.raises(ConfigError, match="cannot change during a run"):
            resumed_config(folder.path, [change])


def test_a_resumed_run_needs_neither_the_template_nor_the_examples_and_notices_another_chat_template(
    started: list[str], config: Callable[..., Config], tmp_path: Path
) -> None:
    first = texts(config(QWEN3, *started))
    for file in tmp_path.glob("mine.*"):
        file.unlink()
    run = tmp_path / "runs" / "r"
    assert "Solve: {{ system }}\n" in (run / "config.yaml").read_text()
    assert texts(resumed_config(run, [])) == first
    config(QWEN3.replace("<|im_start|>", "<|eot_id|>"))  # writes the tokenizer
    with pytest.raises(ModelError, match=r"prompt\.template_hash=.*has changed"):
        load_and_render(resumed_config(run, []), View())
    Path("mine.jinja").write_text("{{ prompt }}{% for one in examples %}{% endfor %}{{ system }}")
    Path("mine.jsonl").write_text(json.dumps({"prompt": "let mine x =", "solution": "let mine x = x"}))
    with pytest.raises(RunFolderError, match=r"prompt\.template: "):
        again, folder = check_settings(config(QWEN3, *started))
        folder.opened(again).__enter__()


def test_an_adapter_is_evaluated_with_the_prompt_of_its_run(
    started: list[str], config: Callable[..., Config], tmp_path: Path, capsys: Any
) -> None:
    first = texts(config(QWEN3, *started))
    adapter = f"model.adapter={tmp_path / 'runs' / 'r' / 'adapter'}"
    capsys.readouterr()
    assert texts(config(QWEN3, adapter)) == first
    logged = "".join(capsys.readouterr())
    assert "prompt.system" in logged and "the run that trained the adapter" in logged and "warning" not in logged
    other = texts(config(QWEN3, adapter, "prompt.system=Other."))
    assert other == [text.replace("Be brief.", "Other.") for text in first]
    assert "warning: prompt.system: the adapter was trained with another value" in "".join(capsys.readouterr())
    assert texts(config(CHATML.replace("<|im_start|>", "<|eot_id|>"), adapter, "chat_template_kwargs={}")) != first


def test_prompts_shows_what_the_model_reads_and_what_ends_a_completion(
    config: Callable[..., Config], tmp_path: Path, capsys: Any
) -> None:
    used = config("{{ bos_token }}" + QWEN3, adds="bos")
    (prompt, *_) = load_and_render(used, View()).prompts.values()
    places = [f"model.path={tmp_path / 'model'}", f"data.dataset={tmp_path / 'problems.jsonl'}", "rollout.stop=[STOP]"]
    capsys.readouterr()
    assert main(["prompts", *places, "chat_template_kwargs.enable_thinking=false", "--problem", "p2"]) == 0
    shown = capsys.readouterr().out
    text = prompt.text.replace("add_0", "add_2").replace("Add 0", "Add 2")
    assert f"\n{text}<think>\n\n</think>\n\n\n" in shown and "add_0" not in shown
    for line in (
        "begin of text   <s> (",
        ") x 1, which",
        "stop strings    'STOP'",
        "EOS tokens      </s> (",
        "template hash",
    ):
        assert line in shown
    assert main(["prompts", *places]) == 0
    assert "4 problems of 4" in capsys.readouterr().out
    assert main(["prompts", *places, "--problem", "none"]) == 1
    assert "has no problem 'none'" in capsys.readouterr().err
    assert main(["prompts", *places, "--problem", "p2", "max_prompt_tokens=9"]) == 1
    assert main(["prompts", *places, "prompt.template={{ x }}"]) == 2
    assert "prompt.template: line 1: there is no field 'x'" in capsys.readouterr().err


def test_tokens_without_an_embedding_are_refused_with_both_numbers(
    config: Callable[..., Config], tmp_path: Path
) -> None:
    settings = config(CHATML)
    largest = max(
        max(prompt.token_ids)
        for prompt in render_prompts(settings, load_and_render(settings, View()).problems).prompts.values()
    )
    write = (tmp_path / "model" / "config.json").write_text
    write(json.dumps({"model_type": "qwen2", "vocab_size": largest + 1}))
    assert load_and_render(settings, View()).prompts
    write(json.dumps({"model_type": "qwen2", "vocab_size": largest}))
    with pytest.raises(ModelError, match=f"holds token {largest}, and the model has embeddings for {largest} tokens"):
        load_and_render(settings, View())


def test_the_page_on_prompts_holds_the_instruction_and_both_templates() -> None:
    page = (Path(__file__).parents[3] / "docs" / "prompts.md").read_text()
    assert f"\n> {INSTRUCTION}\n" in page
    for template in (QUESTION, CONTINUATION):
        assert textwrap.indent(template.rstrip("\n"), "    ") in page
    assert all(f"`{field}`" in page for field in FIELDS)
    assert all(f"`{name}`" in page for name in PromptSettings.model_fields)
