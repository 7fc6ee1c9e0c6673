"""Traits of configuration fields, attached as ``Annotated[type, Trait.X]``. Standard library only.

A trait states when a field may change and who sets it. ``cluster.config.fields`` collects the keys with a trait.
"""

from enum import Enum, auto


class Trait(Enum):
    """Property of a configuration field that other parts of the code depend on."""

    CHANGEABLE = auto()  # read for every group, grade or step: schedules and resume overrides may set it
    PLACEMENT = (
        auto()
    )  # states where work is done or who follows it, not what is learned: may differ when a run resumes
    DATA_SOURCE = auto()  # states where the data is: may differ when a run resumes that knows its data by its content
    RUN_LENGTH = auto()  # length of the run: resume overrides may set it, schedules may not
    FROM_CLUSTER = auto()  # computed from the cluster's GPUs and cores if it is not set
