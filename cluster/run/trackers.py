"""The figures of a run for the tools that people watch runs with: TensorBoard files in the run's folder, or a tracker.

Only TensorBoard's writer comes with Caravan; the others are used where they are installed, as their own settings say (WANDB_MODE,
MLFLOW_TRACKING_URI, ...).
"""

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib import import_module
from typing import Any

from cluster.config.config import Config, flatten
from cluster.errors import CaravanError, ConfigError
from cluster.ledger.run_folder import RunFolder, is_finite
from learner.training.error_text import describe_error

PROJECT = "caravan"

Figures = Mapping[str, float | None]
Show = Callable[[Figures], None]
"""Takes figures with their ``step`` among them; those that are None, or no numbers, are left out."""


@contextmanager
def tracking(config: Config, folder: RunFolder, *, step: int) -> Iterator[Show]:
    """The tracker of ``run.tracker``, for the length of a block; ``step`` is the last one done: TensorBoard forgets later ones.

    Raises ConfigError where the tracker is not installed or does not start.
    """
    name = config.run.tracker
    with ExitStack() as stack:
        try:
            show = stack.enter_context(TRACKERS[name](config, folder, step))
        except CaravanError:
            raise
        except Exception as error:  # the boundary to programs of others, each with errors of its own
            raise ConfigError(
                f"run.tracker={name} does not start: {describe_error(error)}. Check its settings, or take run.tracker=tensorboard"
            ) from error
        yield show


@contextmanager
def _nothing(*_: Any) -> Iterator[Show]:
    yield lambda _: None


@contextmanager
def _tensorboard(_: Config, folder: RunFolder, step: int) -> Iterator[Show]:
    from tensorboardX import SummaryWriter

    with folder.explained(folder.tensorboard):
        writer = SummaryWriter(str(folder.tensorboard), purge_step=step + 1, flush_secs=10)

    def show(figures: Figures) -> None:
        at, values = _parts(figures)
        for name, value in values.items():
            writer.add_scalar(name, value, at)

    try:
        yield show
    finally:
        writer.close()


@contextmanager
def _wandb(config: Config, folder: RunFolder, _: int) -> Iterator[Show]:
    known = {"id": _id(folder), "name": folder.path.name, "config": flatten(config), "dir": str(folder.path)}
    with _logging_to(_installed("wandb").init(project=PROJECT, resume="allow", **known)) as show:
        yield show


@contextmanager
def _trackio(config: Config, folder: RunFolder, _: int) -> Iterator[Show]:
    name = f"{folder.path.name}-{_id(folder)}"  # trackio knows runs by their names
    with _logging_to(
        _installed("trackio").init(project=PROJECT, resume="allow", name=name, config=flatten(config))
    ) as show:
        yield show


@contextmanager
def _logging_to(run: Any) -> Iterator[Show]:
    """A run of wandb, whose interface trackio shares."""

    def show(figures: Figures) -> None:
        at, values = _parts(figures)
        run.log(values, step=at)

    try:
        yield show
    finally:
        run.finish()


@contextmanager
def _mlflow(config: Config, folder: RunFolder, _: int) -> Iterator[Show]:
    mlflow = _installed("mlflow")
    mlflow.set_experiment(PROJECT)
    tags = {"caravan": _id(folder)}
    found = mlflow.search_runs(
        [], filter_string=f"tags.caravan = '{tags['caravan']}'", output_format="list", search_all_experiments=True
    )
    with mlflow.start_run(run_id=found[0].info.run_id if found else None, run_name=folder.path.name, tags=tags):
        mlflow.log_dict(config.model_dump(mode="json"), "config.json")

        def show(figures: Figures) -> None:
            at, values = _parts(figures)
            mlflow.log_metrics(
                values, step=at, synchronous=False
            )  # a server that is slow or away must not hold up a step

        yield show


TRACKERS: Mapping[str, Callable[[Config, RunFolder, int], AbstractContextManager[Show]]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
    "trackio": _trackio,
    "none": _nothing,
}


def _parts(figures: Figures) -> tuple[int, dict[str, float]]:
    """The step, and what there is to show of it."""
    values = {name: value for name, value in figures.items() if name != "step" and is_finite(value)}
    return int(figures["step"] or 0), values


def _installed(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"run.tracker={name}: {error}. Install it beside Caravan (.venv/bin/pip install {name}), or take "
            "run.tracker=tensorboard"
        ) from None


def _id(folder: RunFolder) -> str:
    """What a tracker knows the run by, whatever it is called and however often it is started."""
    if not folder.tracker_id.exists():
        folder.write(folder.tracker_id, secrets.token_hex(4))
    return folder.tracker_id.read_text(encoding="utf-8").strip()
