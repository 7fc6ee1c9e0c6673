"""Experiment trackers: TensorBoard files in the run folder, or a tracker that is installed.

Only TensorBoard's writer comes with Caravan. The other trackers read their own settings (WANDB_MODE, MLFLOW_TRACKING_URI, ...).
"""

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib import import_module
from typing import Any

from cluster.config.config import Config, flatten
from cluster.errors import CaravanError, ConfigError
from cluster.ledger.jsonl import is_finite
from cluster.ledger.run_folder import RunFolder
from learner.training.error_text import describe_error

PROJECT = "caravan"

Metrics = Mapping[str, float | None]
SendMetrics = Callable[[Metrics], None]
"""Sends metrics, ``step`` included, to the tracker; values that are None or not finite are skipped."""


@contextmanager
def tracking(config: Config, folder: RunFolder, *, step: int) -> Iterator[SendMetrics]:
    """The tracker of ``run.tracker``, open during a block. ``step`` is the last one done; TensorBoard drops later ones.

    Raises ConfigError if the tracker is not installed or does not start.
    """
    name = config.run.tracker
    with ExitStack() as stack:
        try:
            send = stack.enter_context(TRACKERS[name](config, folder, step))
        except CaravanError:
            raise
        except Exception as error:  # the boundary to other programs, whose errors are not known here
            raise ConfigError(
                f"run.tracker={name} does not start: {describe_error(error)}. Check its settings, or take run.tracker=tensorboard"
            ) from error
        yield send


@contextmanager
def _no_tracker(*_: Any) -> Iterator[SendMetrics]:
    yield lambda _: None


@contextmanager
def _tensorboard(_: Config, folder: RunFolder, step: int) -> Iterator[SendMetrics]:
    from tensorboardX import SummaryWriter

    with folder.explain_errors(folder.tensorboard):
        writer = SummaryWriter(str(folder.tensorboard), purge_step=step + 1, flush_secs=10)

    def send(metrics: Metrics) -> None:
        at, values = _split_step(metrics)
        for name, value in values.items():
            writer.add_scalar(name, value, at)

    try:
        yield send
    finally:
        writer.close()


@contextmanager
def _wandb(config: Config, folder: RunFolder, _: int) -> Iterator[SendMetrics]:
    settings = {"id": _id(folder), "name": folder.path.name, "config": flatten(config), "dir": str(folder.path)}
    with _logging_to(_installed("wandb").init(project=PROJECT, resume="allow", **settings)) as send:
        yield send


@contextmanager
def _trackio(config: Config, folder: RunFolder, _: int) -> Iterator[SendMetrics]:
    name = f"{folder.path.name}-{_id(folder)}"  # trackio identifies runs by their names
    with _logging_to(
        _installed("trackio").init(project=PROJECT, resume="allow", name=name, config=flatten(config))
    ) as send:
        yield send


@contextmanager
def _logging_to(run: Any) -> Iterator[SendMetrics]:
    """A run of wandb or of trackio, which have the same interface."""

    def send(metrics: Metrics) -> None:
        at, values = _split_step(metrics)
        run.log(values, step=at)

    try:
        yield send
    finally:
        run.finish()


@contextmanager
def _mlflow(config: Config, folder: RunFolder, _: int) -> Iterator[SendMetrics]:
    mlflow = _installed("mlflow")
    mlflow.set_experiment(PROJECT)
    tags = {"caravan": _id(folder)}
    found = mlflow.search_runs(
        [], filter_string=f"tags.caravan = '{tags['caravan']}'", output_format="list", search_all_experiments=True
    )
    with mlflow.start_run(run_id=found[0].info.run_id if found else None, run_name=folder.path.name, tags=tags):
        mlflow.log_dict(config.model_dump(mode="json"), "config.json")

        def send(metrics: Metrics) -> None:
            at, values = _split_step(metrics)
            # Asynchronous: a slow or missing server must not delay a step.
            mlflow.log_metrics(values, step=at, synchronous=False)

        yield send


TRACKERS: Mapping[str, Callable[[Config, RunFolder, int], AbstractContextManager[SendMetrics]]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
    "trackio": _trackio,
    "none": _no_tracker,
}


def _split_step(metrics: Metrics) -> tuple[int, dict[str, float]]:
    """The step, and its finite metrics."""
    values = {name: value for name, value in metrics.items() if name != "step" and is_finite(value)}
    return int(metrics["step"] or 0), values


def _installed(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"run.tracker={name}: {error}. Install it (.venv/bin/pip install {name}), or use run.tracker=tensorboard"
        ) from None


def _id(folder: RunFolder) -> str:
    """The id of the run in a tracker, which stays the same when the run is renamed or resumed."""
    if not folder.tracker_id.exists():
        folder.write(folder.tracker_id, secrets.token_hex(4))
    return folder.tracker_id.read_text(encoding="utf-8").strip()
