"""The ``prompt`` section of the configuration."""

import datetime
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rollout.examples import BUILT_IN_EXAMPLES, Example, read_examples
from rollout.prompt_template import INSTRUCTION, PromptTemplate, has_problem, read_template
from rollout.template_errors import TemplateFailure, lone_surrogate

TAKEN_BY_CARAVAN = (
    "add_generation_prompt",
    "chat_template",
    "continue_final_message",
    "conversation",
    "max_length",
    "messages",
    "padding",
    "raise_exception",
    "return_assistant_tokens_mask",
    "return_dict",
    "return_tensors",
    "strftime_now",
    "tokenize",
    "tokenizer_kwargs",
    "truncation",
)
"""Arguments of ``apply_chat_template`` and names in its templates that Caravan sets itself."""


class PromptSettings(BaseModel):
    """Instruction, template, chat template and examples of the prompts. Files are read when the settings are."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    system: str | None = Field(
        None,
        description="the instruction: the system message, or the beginning of the user message if the chat template accepts no "
        'system message; "": none; null: Caravan\'s own (docs/prompts.md)',
    )
    template: str | None = Field(
        None,
        description="a Jinja file, or a text with {{ prompt }}, over the problem's fields: the user message, or without a chat "
        "template the whole text; null: Caravan's own (docs/prompts.md); config.yaml of a run holds its text",
    )
    chat: Literal["auto", "on", "off"] = Field(
        "auto",
        description="render prompts with the tokenizer's chat template. auto: if it has one; on: refuse a tokenizer without one; "
        "off: a text to continue",
    )
    chat_template_kwargs: dict[str, Any] = Field(
        {},
        description="variables of the chat template, passed to apply_chat_template: {enable_thinking: false}, "
        "{reasoning_effort: low}",
    )
    few_shot: tuple[Example, ...] | None = Field(
        None,
        description="solved examples: a JSONL file with `prompt` and `solution`, or a list of such; null: three built-in ones; "
        "config.yaml of a run holds their texts",
    )
    num_few_shot: int = Field(
        0, ge=0, description="solved examples before each problem; default: all of prompt.few_shot if it is set, else 0"
    )
    date: datetime.date | None = Field(
        None,
        description="the date that a chat template may write into prompts; null: the day of the run's first start, also when it "
        "is resumed or its adapter is evaluated",
    )
    template_hash: str | None = Field(
        None,
        description="digest of the prompt template as rendered for an example, from `caravan prompts`; prompts with another one "
        "are refused; null: not compared. A run writes it to its config.yaml",
    )

    @model_validator(mode="before")
    @classmethod
    def _read_files(cls, values: Any) -> Any:
        """Replace the names of files by their content, which a run keeps in its configuration."""
        if not isinstance(values, dict):
            return values
        values = {key: value for key, value in values.items() if not (key == "num_few_shot" and value is None)}
        if isinstance(template := values.get("template"), str):
            try:
                values["template"] = read_template(template)
            except ValueError as error:
                raise ValueError(f"prompt.template: {error}") from None
        if isinstance(few_shot := values.get("few_shot"), str | Path):
            try:
                values["few_shot"] = read_examples(Path(few_shot))
            except ValueError as error:
                raise ValueError(f"prompt.few_shot={few_shot}: {error}") from None
        if isinstance(values.get("few_shot"), list | tuple):
            values.setdefault("num_few_shot", len(values["few_shot"]))
        return values

    @field_validator("chat", mode="before")
    @classmethod
    def _read_switch(cls, chat: Any) -> Any:
        return {True: "on", False: "off"}[chat] if isinstance(chat, bool) else chat  # YAML reads on and off as booleans

    @field_validator("chat_template_kwargs", mode="before")
    @classmethod
    def _check_kwargs(cls, kwargs: Any) -> Any:
        kwargs = {} if kwargs is None else kwargs
        if isinstance(kwargs, dict) and (taken := [name for name in kwargs if name in TAKEN_BY_CARAVAN]):
            raise ValueError(f"chat_template_kwargs={kwargs}: Caravan sets {', '.join(taken)} itself: remove it")
        try:
            json.dumps(kwargs, default=str)
        except (TypeError, ValueError, RecursionError) as error:  # a YAML anchor inside itself, a key that is no text
            raise ValueError(f"chat_template_kwargs cannot be passed on: {error}") from None
        return kwargs

    @model_validator(mode="after")
    def _check_characters(self) -> "PromptSettings":
        for name, value in self.model_dump().items():
            if half := lone_surrogate(json.dumps(value, ensure_ascii=False, default=str)):
                raise ValueError(f"prompt.{name}: holds {half}, half of a character (a UTF-16 surrogate): remove it")
        return self

    @model_validator(mode="after")
    def _check_examples(self) -> "PromptSettings":
        source, available = (
            ("the built-in examples are", BUILT_IN_EXAMPLES)
            if self.few_shot is None
            else ("prompt.few_shot has", self.few_shot)
        )
        if self.num_few_shot > len(available):
            raise ValueError(
                f"prompt.num_few_shot={self.num_few_shot}: {source} {len(available)}; give as many in prompt.few_shot"
            )
        return self

    @model_validator(mode="after")
    def _check_template(self) -> "PromptSettings":
        if self.template is None:
            return self
        probe = BUILT_IN_EXAMPLES[0].as_problem()
        try:
            template = PromptTemplate(self.template)
            text = template.render(probe, system=self.instruction, examples=self.examples)
        except TemplateFailure as failure:
            raise ValueError(f"prompt.template: {failure}") from None
        if not has_problem(text, probe):
            raise ValueError(
                "prompt.template: its output does not contain the problem's statement: write {{ prompt }}, or {{ statement }} "
                "and {{ signature }}, unchanged"
            )
        if self.num_few_shot and "examples" not in template.fields:
            raise ValueError(
                f"prompt.num_few_shot={self.num_few_shot}: prompt.template shows no examples: write "
                "{% for example in examples %} there, or set prompt.num_few_shot=0"
            )
        return self

    @property
    def instruction(self) -> str:
        """The text of the instruction; empty: none."""
        return INSTRUCTION if self.system is None else self.system

    @property
    def examples(self) -> tuple[Example, ...]:
        """The solved examples that precede each problem."""
        return (BUILT_IN_EXAMPLES if self.few_shot is None else self.few_shot)[: self.num_few_shot]
