"""The ``grader`` section of the configuration."""

from pydantic import BaseModel, ConfigDict, Field

SEED_PROFILE = "seed-5-20-10-65"


class GraderSettings(BaseModel):
    """How completions are graded: workers, limits, walls and reward."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_graders: int = Field(default=2, ge=1, le=4096, description="grader actors in the pool")
    cpus_per_grader: float = Field(
        default=0.25, gt=0, le=8, description="CPU cores that Ray reserves for one grader actor"
    )
    reward: str = Field(default=SEED_PROFILE, description="name of the reward profile, see grader.reward.PROFILES")
    min_code_lines: int = Field(
        default=8,
        ge=0,
        le=1000,
        description="a program with fewer non-blank lines, comments not counted, gets reward 0 (the seeds' value: 8)",
    )
    runaway_multiplier: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="factor on the reward of a completion that hit the length limit without an END marker",
    )
    compile_cpu_seconds: float = Field(default=5.0, gt=0, le=600, description="CPU seconds to parse, check and compile")
    assert_cpu_seconds: float = Field(
        default=1.5, gt=0, le=600, description="CPU seconds of one statement of the tests"
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
        default=False, description="refuse to start where bubblewrap cannot wall off files, network and processes"
    )
    cache_size: int = Field(default=4096, ge=0, description="grades remembered for identical programs of one problem")
    attempts: int = Field(default=3, ge=1, le=10, description="workers tried before a completion counts as ungradable")
