"""The prompts of a run: their settings, and their rendering with the model's tokenizer."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from cluster.config.config import Config
from cluster.config.model_path import model_path
from cluster.console import View
from cluster.errors import ModelError
from cluster.problems.run_data import run_of_evaluation
from cluster.types import Problem
from rollout.model import check_vocabulary
from rollout.prompt import PromptRenderer, RenderedPrompts
from rollout.prompt_settings import PromptSettings
from rollout.stopping import end_token_ids


def with_prompt_of_run(config: Config, view: View) -> Config:
    """Return the configuration with the prompt of the run that trained ``model.adapter``, where it sets no other.

    A log line names the settings that come from the run, a warning those that differ from it.
    """
    run = run_of_evaluation(config) if config.model.adapter else None
    if run is None:
        return config
    kept = {name: value for name, value in run.prompt_settings().items() if value is not None}
    given = {name: getattr(config.prompt, name) for name in config.prompt.model_fields_set}
    own = {name: value for name, value in given.items() if value is not None}
    of_run, used = (_with_settings(config, settings) for settings in (kept, {**kept, **own}))
    differing = [name for name in own if getattr(used, name) != getattr(of_run, name)]
    if differing:
        names = ", ".join(f"prompt.{name}" for name in differing)
        view.warn(f"{names}: the adapter was trained with another value, in {run.config}")
        used = used.model_copy(update={"template_hash": config.prompt.template_hash})
    default = PromptSettings()
    taken = [name for name in kept if name not in own and getattr(of_run, name) != getattr(default, name)]
    if shown := [f"prompt.{name}" for name in taken if name not in ("date", "template_hash")]:
        view.log(f"{', '.join(shown)}: as in {run.config}, the run that trained the adapter")
    return config.model_copy(update={"prompt": used})


def _with_settings(config: Config, settings: Mapping[str, Any]) -> PromptSettings:
    return config.changed({f"prompt.{name}": value for name, value in settings.items()}).prompt


def check_template_hash(config: Config, rendered: RenderedPrompts, view: View, *, is_refused: bool) -> None:
    """Refuse prompts with another digest than ``prompt.template_hash``, or warn of it. Raises ModelError."""
    wanted, found = config.prompt.template_hash, rendered.template_hash
    if wanted in (None, found):
        return
    cause = (
        f"prompt.template_hash={wanted}: the prompts of model.path={config.model.path} have the digest {found}. A setting of "
        "prompts, the model's chat template, its tokenizer or Caravan's own template has changed; `caravan prompts` prints one"
    )
    if is_refused:
        raise ModelError(f"{cause}. Restore it, or start another run with run.name=NAME")
    view.warn(cause)


def render_prompts(config: Config, problems: Sequence[Problem]) -> RenderedPrompts:
    """Render the prompts of training, evaluation and SFT; raises ModelError for a model without a usable tokenizer."""
    renderer = prompt_renderer(config)
    rendered = renderer.render_all(problems)
    try:
        check_vocabulary(model_path(config), rendered.prompts.values())
    except ModelError as error:
        raise ModelError(f"model.path={config.model.path}: {error}") from None
    return rendered


def prompt_renderer(config: Config) -> PromptRenderer:
    """Return the renderer of a configuration; raises ModelError for a model without a usable tokenizer."""
    tokenizer = load_tokenizer(config)
    try:
        return PromptRenderer(
            tokenizer,
            config.prompt,
            max_prompt_tokens=config.rollout.max_prompt_tokens,
            today=prompt_date(config),
            end_token_ids=end_token_ids(tokenizer, model_path(config)),
        )
    except ModelError as error:
        raise ModelError(f"model.path={config.model.path}: {error}") from None


def load_tokenizer(config: Config) -> Any:
    """Load the model's tokenizer; raises ModelError."""
    from transformers import AutoTokenizer, logging

    logging.set_verbosity_error()  # transformers would warn of long prompts, which are counted and excluded
    try:
        return AutoTokenizer.from_pretrained(model_path(config))
    except Exception as error:  # noqa: BLE001 - broken files make transformers and tokenizers raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"model.path={config.model.path}: no tokenizer can be loaded ({reason}). Give a local folder, a model of the Hugging "
            "Face hub (is there a network?), or 'tiny'"
        ) from None


def prompt_date(config: Config) -> date:
    """The date that chat templates may write: that of the configuration, else of the evaluated run, else today."""
    if config.prompt.date is not None:
        return config.prompt.date
    run = run_of_evaluation(config)
    return (run and run.prompt_date()) or date.today()
