"""``caravan export``: the adapter of a run, the merged model, or the model whose weights were all trained, with a model card."""

import json
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from cluster.config.config import Config, validate
from cluster.config.method import FULL
from cluster.config.model_path import model_path
from cluster.console import View, check_empty, output
from cluster.errors import ConfigError, ModelError, RunFolderError
from cluster.ledger.batches import batch_of
from cluster.ledger.run_folder import RunFolder
from cluster.models.export_card import card
from learner.training.checkpoints import step_of
from learner.training.quiet import silence_libraries

MODEL_FILES = ("config.json", "tokenizer_config.json")  # the weights may be in several files
DTYPE = "bfloat16"  # of whole models, unless --dtype is given
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
NUM_COMPLETIONS_COMPARED = 8

# Largest mean difference, in nats per token on completions of the run, between the written model and the trained one in
# float32, by the precision of the written weights. Rounding a weight to bfloat16 changes it by up to 1/256.
BOUNDS = {"float32": 1e-4, "bfloat16": 0.05}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The weights that are exported."""

    folder: Path  # holds ADAPTER_FILES, or a whole model
    step: int  # step at which it was saved


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Difference between the written model and the trained one, in nats per token."""

    num_tokens: int
    mean: float
    largest: float
    base: float  # mean difference of the base model, for comparison


def export_and_report(
    run: Path,
    out: Path,
    *,
    step: int | None,
    merge: bool,
    dtype: str | None,
    push_to_hub: str | None,
    base_name: str | None = None,
) -> int:
    """Export, print what was written, and push it to the hub if ``push_to_hub`` names a repository. Returns 0.

    Raises RunFolderError for a missing run or step, ConfigError for ``out``, ModelError for a merged model that differs too much.
    """
    silence_libraries()
    console = output()
    agreement = export(RunFolder(run), out, step=step, merge=merge, dtype=dtype, base_name=base_name)
    if agreement:
        rounding = (
            "" if dtype == "float32" else f". The rounding of {DTYPE} causes the difference; --dtype float32 avoids it"
        )
        console.print(
            f"{'merged' if merge else 'written'}: {agreement.mean:.2g} nats per token from "
            f"{'base model with adapter' if merge else 'the trained model'} (largest {agreement.largest:.2g}, "
            f"over {agreement.num_tokens} tokens); the base model alone is {agreement.base:.2g} away{rounding}",
            highlight=False,
            soft_wrap=True,
        )
    console.print(f"{'model' if agreement else 'adapter'}: {out}", markup=False, highlight=False, soft_wrap=True)
    if push_to_hub:
        console.print(f"pushed: {_push(out, push_to_hub)}", markup=False, highlight=False, soft_wrap=True)
    return 0


def export(
    folder: RunFolder, out: Path, *, step: int | None, merge: bool, dtype: str | None, base_name: str | None = None
) -> Agreement | None:
    """Write the folder ``out``, completely or not at all; returns the difference of a whole model, None for an adapter.

    ``dtype`` is that of a whole model; None: DTYPE. ``base_name`` is the public name of the base model; by default its id on the
    hub or, with a warning, the last part of its folder. ``out`` contains no path of this machine.
    """
    config = _config_of(folder)
    is_full = config.learner.method == FULL
    _check_options(config, merge=merge, dtype=dtype)
    source = find_source(folder, config, step)
    check_empty(out)
    written_dtype = (dtype or DTYPE) if merge or is_full else None
    agreement = None
    base = base_name or _base_name(config)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
            draft = Path(scratch) / "draft"
            draft.mkdir()
            if written_dtype:
                agreement = _write_and_compare(folder, config, source, draft, written_dtype)
            else:
                _copy_adapter(config, source, draft, base)
            if folder.curve.is_file():
                shutil.copyfile(folder.curve, draft / folder.curve.name)
            (draft / "README.md").write_text(
                card(folder, config, step=source.step, written_dtype=written_dtype, base=base),
                encoding="utf-8",
            )
            draft.rename(out)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error.strerror or error}") from error
    return agreement


def find_source(folder: RunFolder, config: Config, step: int | None) -> Source:
    """The final weights of a run or, with ``step``, those of a checkpoint or an earlier end; raises RunFolderError if missing."""
    method = config.learner.method
    final_folder, needed = folder.final(method), MODEL_FILES if method == FULL else ADAPTER_FILES
    checkpoints = {step_of(path): path for path in folder.checkpoints.glob("checkpoint-*")}
    last = max(checkpoints, default=None)
    final = _steps_of_finished(folder) or last  # the checkpoints of a finished run may have been deleted
    if _has(final_folder, needed) and final is not None and step in (None, final):
        return Source(folder=final_folder, step=final)
    wanted = last if step is None else step
    if wanted is not None:
        for weights in (checkpoints.get(wanted), folder.former(wanted, method)):
            if weights and _has(weights, needed):
                return Source(folder=weights, step=wanted)
    steps = ", ".join(map(str, sorted(checkpoints))) or "none"
    kind = "a model" if method == FULL else "an adapter"
    missing = f"{kind} to export" if step is None else f"{kind} of step {step}"
    raise RunFolderError(f"{folder.path} does not contain {missing}; steps with a checkpoint: {steps}")


def _check_options(config: Config, *, merge: bool, dtype: str | None) -> None:
    """Raise ConfigError for options that have no effect on what the run trained."""
    if config.learner.method == FULL:
        if merge:
            raise ConfigError("--merge: the run trained all weights (learner.method=full) and no adapter; leave it out")
    elif dtype and not merge:
        raise ConfigError(
            f"--dtype {dtype} has no effect without --merge: an adapter is exported in the precision it was trained in"
        )


def _base_name(config: Config) -> str:
    """The public name of the base model, derived from its path."""
    from learner.training.adapter import base_name

    name = base_name(model_path(config))
    if "/" not in name:
        View().warn(
            f"the export calls the base model {name!r}, after its folder; --base-name sets its public name, for example its "
            "id on the hub"
        )
    return name


def _copy_adapter(config: Config, source: Source, draft: Path, base: str) -> None:
    """Copy the adapter's files, and write the tokenizer of its model with its chat template."""
    from learner.training.merge import write_tokenizer

    for name in ADAPTER_FILES:
        shutil.copyfile(source.folder / name, draft / name)
    settings = json.loads((draft / ADAPTER_FILES[0]).read_text(encoding="utf-8")) | {"base_model_name_or_path": base}
    (draft / ADAPTER_FILES[0]).write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")
    try:
        write_tokenizer(model_path(config), draft)
    except ModelError as error:
        View().warn(f"the adapter is exported without its tokenizer: {error}")


def _write_and_compare(folder: RunFolder, config: Config, source: Source, draft: Path, dtype: str) -> Agreement:
    from learner.training.merge import logprobs, write_copy, write_merged

    model = model_path(config)
    texts = _texts(folder, source.step)
    if config.learner.method == FULL:
        write_copy(source.folder, draft, dtype=dtype)
        wanted = logprobs(str(source.folder), texts, dtype="float32")
    else:
        write_merged(model, source.folder, draft, dtype=dtype)
        wanted = logprobs(model, texts, dtype="float32", adapter=source.folder)
    merged = logprobs(str(draft), texts, dtype=dtype)
    base = logprobs(model, texts, dtype="float32")
    gaps = [abs(logprob - expected) for logprob, expected in zip(merged, wanted, strict=True)]
    found = Agreement(
        num_tokens=len(gaps),
        mean=statistics.fmean(gaps),
        largest=max(gaps),
        base=statistics.fmean(abs(logprob - expected) for logprob, expected in zip(base, wanted, strict=True)),
    )
    if not found.mean <= BOUNDS[dtype]:
        raise ModelError(
            f"the written model is {found.mean:.2g} nats per token away from the trained one, more than the {BOUNDS[dtype]:g} "
            f"allowed for {dtype}: export with --dtype float32{'' if config.learner.method == FULL else ', or without --merge'}"
        )
    return found


def _texts(folder: RunFolder, step: int) -> Sequence[Sequence[int]]:
    """Token ids of prompts with their completions that the run trained at a step."""
    completions = [
        completion for group in batch_of(folder, step) for completion in group.completions if completion.token_ids
    ]
    return [(*completion.prompt_ids, *completion.token_ids) for completion in completions[:NUM_COMPLETIONS_COMPARED]]


def _push(out: Path, name: str) -> str:
    """Upload a folder to the Hugging Face hub as a private repository; returns its address, raises ConfigError."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        api = HfApi()
        repository = api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(repo_id=repository.repo_id, folder_path=out)
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError, ValueError) as error:
        cause = " ".join(str(error).split())
        raise ConfigError(f"--push-to-hub {name}: {cause}. The export is in {out}") from error
    return str(repository)


def _config_of(folder: RunFolder) -> Config:
    try:
        return validate(yaml.safe_load(folder.config.read_text(encoding="utf-8")))
    except OSError as error:
        cause = error.strerror
    except (yaml.YAMLError, ConfigError) as error:
        cause = " ".join(str(error).split())
    raise RunFolderError(f"{folder.path} cannot be exported: {folder.config} cannot be read ({cause})")


def _steps_of_finished(folder: RunFolder) -> int | None:
    if not folder.summary.is_file():
        return None
    return int(json.loads(folder.summary.read_text(encoding="utf-8"))["steps"])


def _has(folder: Path, names: Sequence[str]) -> bool:
    return all((folder / name).is_file() for name in names)
