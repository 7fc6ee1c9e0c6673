"""The adapter that a run starts from (``learner.adapter``), and its copy in the run folder."""

from collections.abc import Mapping

from cluster.config.config import Config
from cluster.config.model_path import model_path
from cluster.console import View
from cluster.ledger.run_folder import RunFolder
from learner.adapter_folder import AdapterFolder, read_adapter
from learner.training.checkpoints import newest_checkpoint, write_files


def initial_adapter(config: Config, folder: RunFolder) -> AdapterFolder | None:
    """Return the adapter that a run starts, or started, from; None for a new one. Raises ModelError.

    A run with a checkpoint started from the copy in its folder: the original may have changed since.
    """
    if config.learner.adapter is None:
        return None
    is_started = newest_checkpoint(folder.checkpoints) is not None and folder.initial_adapter.is_dir()
    return read_adapter(folder.initial_adapter if is_started else config.learner.adapter)


def keep_initial_adapter(config: Config, folder: RunFolder) -> Mapping[str, bytes] | None:
    """Return the files of the initial adapter, and keep them in the run folder; None for a new adapter."""
    adapter = initial_adapter(config, folder)
    if adapter is None:
        return None
    if adapter.path != folder.initial_adapter:
        with folder.explain_errors(folder.initial_adapter):
            write_files(adapter.files, folder.initial_adapter)
    return adapter.files


def log_initial_adapter(config: Config, folder: RunFolder, view: View) -> None:
    """Log the adapter that a run starts from, with a warning if it names another base model."""
    if adapter := initial_adapter(config, folder):
        from learner.training.targets import base_difference

        view.log(
            f"training starts from the adapter {adapter.path}; the reference of the KL divergence is the base model"
        )
        if line := base_difference(adapter, model_path(config)):
            view.warn(line)
