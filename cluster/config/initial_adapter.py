"""The settings that follow from the adapter that training starts from (``learner.adapter``)."""

from cluster.config.config import CHANGES, Config, assign, validate
from cluster.config.model_path import model_path
from learner.adapter_folder import AdapterFolder, read_adapter
from learner.training.quiet import silence_libraries


def with_initial_adapter(config: Config, adapter: AdapterFolder | None = None) -> Config:
    """Return the configuration with the ``learner.lora`` that describes the initial adapter, if there is one.

    ``adapter`` replaces the folder of ``learner.adapter``. Raises ModelError for an adapter that does not fit the model,
    ConfigError for settings that contradict it.
    """
    if config.learner.adapter is None:
        return config
    silence_libraries()
    from learner.training.targets import settings_of

    values = settings_of(adapter or read_adapter(config.learner.adapter), model_path(config), config.learner.lora)
    tree = config.model_dump(exclude_unset=True, exclude=CHANGES)
    for name, value in values.items():
        assign(tree, f"learner.lora.{name}", value)
    return validate(tree).model_copy(update={name: getattr(config, name) for name in CHANGES})
