"""The ``grader`` section of the configuration."""

from pydantic import BaseModel, ConfigDict, Field, model_validator

from grader.profiles import SEED_PROFILE

MAX_GRADERS = 4096
"""Actors that one driver calls by turns without being held up by it."""


class WeightSettings(BaseModel):
    """Weights in place of the profile's own; each is the most that its part can earn."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    structural: float | None = Field(default=None, ge=0, le=1, description="for the END marker")
    type_check: float | None = Field(
        default=None, ge=0, le=1, description="without a type error; scales the profile's table of type errors"
    )
    compile: float | None = Field(
        default=None, ge=0, le=1, description="for a program that compiles; scales the profile's partial credit"
    )
    tests: float | None = Field(default=None, ge=0, le=1, description="where every assert holds")


class GraderSettings(BaseModel):
    """How completions are graded: workers, limits, walls and reward."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_graders: int = Field(default=2, ge=1, le=MAX_GRADERS, description="grader actors in the pool, at the start")
    min_graders: int | None = Field(
        default=None,
        ge=1,
        le=MAX_GRADERS,
        description="the pool shrinks to so many where graders idle; null: num_graders",
    )
    max_graders: int | None = Field(
        default=None,
        ge=1,
        le=MAX_GRADERS,
        description="the pool grows to so many where completions wait and there are CPUs; null: num_graders",
    )
    cpus_per_grader: float = Field(
        default=0.25, gt=0, le=8, description="CPU cores that Ray reserves for one grader actor"
    )
    reward: str = Field(
        default=SEED_PROFILE,
        description="name of the reward profile (`caravan grade --help` lists them); what is null below is the profile's own",
    )
    weights: WeightSettings = WeightSettings()
    min_code_lines: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="a program with fewer non-blank lines, comments not counted, gets reward 0",
    )
    runaway_multiplier: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="factor on the reward of a completion that hit the length limit without an END marker",
    )
    degenerate_multiplier: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="factor on the reward of a completion that repeats itself, is mostly prose or fences, or a stub",
    )
    shown_assert_weight: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="weight of an assert that the statement's examples give away, beside 1 for any other",
    )
    compile_cpu_seconds: float = Field(default=2.0, gt=0, le=600, description="CPU seconds to parse, check and compile")
    assert_cpu_seconds: float = Field(
        default=1.0,
        gt=0,
        le=600,
        description="CPU seconds of one statement of the tests; those after one that ran out of them get a fifth",
    )
    run_cpu_seconds: float = Field(default=5.0, gt=0, le=3600, description="CPU seconds of one completion's whole run")
    wall_multiplier: float = Field(
        default=20.0,
        ge=1,
        le=100,
        description="wall seconds allowed per CPU second, the backstop for work that waits instead of computing",
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
        description="refuse to start where bubblewrap or seccomp does not wall off files, network and processes",
    )
    cache_size: int = Field(default=4096, ge=0, description="grades remembered for identical programs of one problem")
    attempts: int = Field(default=3, ge=1, le=10, description="workers tried before a completion counts as ungradable")

    @property
    def minimum(self) -> int:
        """The smallest number of graders that the pool has on its own."""
        return self.num_graders if self.min_graders is None else self.min_graders

    @property
    def maximum(self) -> int:
        """The largest number of graders that the pool has on its own."""
        return self.num_graders if self.max_graders is None else self.max_graders

    @property
    def bundle(self) -> dict[str, float]:
        """Resources of each grader on one node, by Ray's names."""
        return {"CPU": self.cpus_per_grader}

    @model_validator(mode="after")
    def _the_start_is_between_floor_and_ceiling(self) -> "GraderSettings":
        if not self.minimum <= self.num_graders <= self.maximum:
            raise ValueError(
                f"grader.num_graders={self.num_graders} has to lie between grader.min_graders={self.minimum} and "
                f"grader.max_graders={self.maximum}"
            )
        return self
