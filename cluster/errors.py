"""Errors that Caravan reports. Standard library only.

::

    CaravanError            base class; str() is one message: what failed, why, what to do
    ├── ConfigError         the configuration refuses a key or a value
    ├── DatasetError        a dataset cannot be read or has no usable problem
    ├── ModelError          a model, tokenizer or adapter cannot be loaded
    ├── ToolchainError      the OCaml compiler, or a tool it needs, is missing or broken
    ├── SandboxError        a requested sandbox layer is not available
    ├── ResourcesError      the cluster has no resources for the configuration
    ├── RunFolderError      the run folder is in use, belongs to another run, or cannot be written
    ├── PromptTooLong       a prompt exceeds max_prompt_tokens
    ├── PromptIncomplete    a prompt lacks part of its problem's text
    ├── PromptHasSolution   a prompt holds its problem's solution, as a few-shot example
    ├── SamplerError        a sampler died or refused a request
    │   └── GroupFailed     several samplers died on one group; other groups can continue
    ├── UngradableError     the machine, not the completion, failed to grade
    ├── LearnerError        the learner died or diverged
    └── DeadlineExceeded    a remote call did not answer in time
"""


class CaravanError(Exception):
    """Base class of all errors that Caravan reports."""


class ConfigError(CaravanError):
    """The configuration refuses a key or a value."""


class DatasetError(CaravanError):
    """A dataset cannot be read or has no usable problem."""


class ModelError(CaravanError):
    """A model, tokenizer or adapter cannot be loaded."""


class ToolchainError(CaravanError):
    """The OCaml compiler, or a tool it needs, is missing or broken."""


class SandboxError(CaravanError):
    """A requested sandbox layer is not available on this machine."""


class ResourcesError(CaravanError):
    """The cluster has no resources for the configuration."""


class RunFolderError(CaravanError):
    """The run folder is in use by another process, belongs to another run, or cannot be written."""


class PromptTooLong(CaravanError):
    """A prompt exceeds ``max_prompt_tokens``. Prompts are refused, never truncated."""


class PromptIncomplete(CaravanError):
    """A prompt lacks part of its problem's text: the chat template or the tokenizer drops it."""


class PromptHasSolution(CaravanError):
    """A prompt holds the solution of its problem, which is one of the few-shot examples."""


class SamplerError(CaravanError):
    """A sampler died or refused a request."""


class GroupFailed(SamplerError):
    """Several samplers died on one group. The group counts as the cause and fails; the pool continues."""


class UngradableError(CaravanError):
    """The machine, not the completion, failed to grade. The completion is retried and never gets reward 0 for it."""


class LearnerError(CaravanError):
    """The learner died or its numbers diverged."""


class DeadlineExceeded(CaravanError):
    """A remote call did not answer in time."""
