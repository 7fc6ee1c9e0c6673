"""The ``grader`` section of the configuration."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cluster.setting_traits import Trait
from grader.profiles import DEFAULT_PROFILE

MAX_GRADERS = 4096
"""Number of actors that one driver can call without becoming the bottleneck."""


class WeightSettings(BaseModel):
    """Weights that replace the profile's own; each is the maximum that its part can earn."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    structural: Annotated[float | None, Trait.CHANGEABLE] = Field(
        default=None, ge=0, le=1, description="for the END marker"
    )
    type_check: Annotated[float | None, Trait.CHANGEABLE] = Field(
        default=None, ge=0, le=1, description="for no type error; scales the profile's table of type errors"
    )
    compile: Annotated[float | None, Trait.CHANGEABLE] = Field(
        default=None, ge=0, le=1, description="for a program that compiles; scales the profile's partial credit"
    )
    tests: Annotated[float | None, Trait.CHANGEABLE] = Field(
        default=None, ge=0, le=1, description="for all asserts passing"
    )


class ThoughtTokenSettings(BaseModel):
    """Effect of the tokens of a completion's thoughts on its reward; it only lowers rewards."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    cap: Annotated[int | None, Trait.CHANGEABLE] = Field(
        default=None, ge=0, description="a completion with more tokens in its thoughts gets reward 0; null: no cap"
    )
    price: Annotated[float | None, Trait.CHANGEABLE] = Field(
        default=None,
        ge=0,
        le=1000,
        description="subtracted from the reward, down to 0, for each 1,000 tokens in thoughts",
    )


class GraderSettings(BaseModel):
    """Settings of grading: workers, limits, sandbox and reward."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_graders: Annotated[int, Trait.PLACEMENT] = Field(
        default=2, ge=1, le=MAX_GRADERS, description="grader actors in the pool, at the start"
    )
    min_graders: Annotated[int | None, Trait.PLACEMENT] = Field(
        default=None,
        ge=1,
        le=MAX_GRADERS,
        description="the pool scales down to this number when graders idle; null: num_graders",
    )
    max_graders: Annotated[int | None, Trait.PLACEMENT] = Field(
        default=None,
        ge=1,
        le=MAX_GRADERS,
        description="the pool scales up to this number when completions wait and CPUs are free; null: num_graders",
    )
    cpus_per_grader: Annotated[float, Trait.PLACEMENT, Trait.FROM_CLUSTER] = Field(
        default=0.25, gt=0, le=8, description="CPU cores that Ray reserves for one grader actor"
    )
    reward: str = Field(
        default=DEFAULT_PROFILE,
        description="name of the reward profile (`caravan grade --help` lists them); null settings below: the profile's value",
    )
    weights: WeightSettings = WeightSettings()
    min_code_lines: Annotated[int | None, Trait.CHANGEABLE] = Field(
        default=None,
        ge=0,
        le=1000,
        description="a program with fewer non-blank lines, comments not counted, gets reward 0",
    )
    runaway_multiplier: Annotated[float | None, Trait.CHANGEABLE] = Field(
        default=None,
        ge=0,
        le=1,
        description="factor on the reward of a completion that was truncated at the length limit without an END marker",
    )
    degenerate_multiplier: Annotated[float | None, Trait.CHANGEABLE] = Field(
        default=None,
        ge=0,
        le=1,
        description="factor on the reward of a completion with a low-quality flag: repetitive, mostly prose, fence spam, stub",
    )
    shown_assert_weight: Annotated[float | None, Trait.CHANGEABLE] = Field(
        default=None,
        ge=0,
        le=1,
        description="weight of an assert that is covered by an example of the statement; any other weighs 1",
    )
    thought_tokens: ThoughtTokenSettings = ThoughtTokenSettings()
    compile_cpu_seconds: float = Field(default=2.0, gt=0, le=600, description="CPU seconds to parse, check and compile")
    assert_cpu_seconds: float = Field(
        default=1.0,
        gt=0,
        le=600,
        description="CPU seconds of one statement of the tests; after a timeout the remaining statements get a fifth",
    )
    run_cpu_seconds: float = Field(default=5.0, gt=0, le=3600, description="CPU seconds of one completion's whole run")
    wall_multiplier: float = Field(
        default=20.0,
        ge=1,
        le=100,
        description="wall seconds allowed per CPU second, a limit on programs that wait instead of computing",
    )
    memory_mib: int = Field(
        default=512, ge=192, le=65536, description="address space of the process that runs a completion, MiB"
    )
    diagnostics_bytes: int = Field(
        default=2048, ge=128, le=65536, description="bytes of compiler and run-time messages that a grade keeps"
    )
    max_completion_bytes: int = Field(
        default=262144, ge=1024, le=16777216, description="a longer completion text is a syntax error, not compiled"
    )
    jobs_per_worker: int = Field(
        default=5000, ge=1, description="completions after which a grader starts fresh OCaml processes"
    )
    require_sandbox: bool = Field(
        default=False,
        description="refuse to start unless bubblewrap and seccomp can block access to files, network and other processes",
    )
    cache_size: int = Field(default=4096, ge=0, description="grades cached for identical completions of one problem")
    attempts: int = Field(default=3, ge=1, le=10, description="workers tried before a completion counts as ungradable")

    @property
    def minimum(self) -> int:
        """The smallest number of graders that the pool scales down to."""
        return self.num_graders if self.min_graders is None else self.min_graders

    @property
    def maximum(self) -> int:
        """The largest number of graders that the pool scales up to."""
        return self.num_graders if self.max_graders is None else self.max_graders

    @property
    def bundle(self) -> dict[str, float]:
        """Resources of each grader on one node, by Ray's names."""
        return {"CPU": self.cpus_per_grader}

    @model_validator(mode="after")
    def _check_num_graders(self) -> "GraderSettings":
        if not self.minimum <= self.num_graders <= self.maximum:
            raise ValueError(
                f"grader.num_graders={self.num_graders} has to lie between grader.min_graders={self.minimum} and "
                f"grader.max_graders={self.maximum}"
            )
        return self
