"""The vocabulary that crosses between processes: records, outcomes, interfaces and errors.

Standard library only, so that a grader on a bare CPU node can import it. Records are frozen, picklable and free of
tensors. Dimensions: ``P`` prompt tokens, ``T`` completion tokens, ``G`` completions in a group.

The errors, so that whoever catches one knows what else there is::

    CaravanError            anything that Caravan itself reports; str() is one message with cause and way out
    ├── ConfigError         a key or value that the configuration refuses
    ├── DatasetError        a dataset that cannot be read or has no usable problem
    ├── ModelError          a model, tokenizer or adapter that cannot be loaded
    ├── ToolchainError      the OCaml compiler (or what it needs) is missing or broken
    ├── SandboxError        a containment wall that was asked for does not stand
    ├── ResourcesError      the cluster cannot place what the configuration asks for
    ├── RunFolderError      the run folder is in use, foreign or cannot be written
    ├── PromptTooLong       one problem whose prompt exceeds max_prompt_tokens
    ├── SamplerError        a sampler died or refused its work
    ├── UngradableError     the machine (not the completion) failed to grade
    ├── LearnerError        the learner died or diverged
    └── DeadlineExceeded    a remote call did not answer in time
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


class CaravanError(Exception):
    """Anything that Caravan itself reports."""


class ConfigError(CaravanError):
    """A key or value that the configuration refuses."""


class DatasetError(CaravanError):
    """A dataset that cannot be read or has no usable problem."""


class ModelError(CaravanError):
    """A model, tokenizer or adapter that cannot be loaded."""


class ToolchainError(CaravanError):
    """The OCaml compiler, or what it needs, is missing or broken."""


class SandboxError(CaravanError):
    """A containment wall that was asked for does not stand on this machine."""


class ResourcesError(CaravanError):
    """The cluster cannot place what the configuration asks for."""


class RunFolderError(CaravanError):
    """The run folder is in use by another process, belongs to another run, or cannot be written."""


class PromptTooLong(CaravanError):
    """A prompt of more than ``max_prompt_tokens`` tokens; prompts are refused, never cut."""


class SamplerError(CaravanError):
    """A sampler died or refused its work."""


class UngradableError(CaravanError):
    """The machine, not the completion, failed to grade; such a completion is retried and never becomes reward 0."""


class LearnerError(CaravanError):
    """The learner died or its numbers diverged."""


class DeadlineExceeded(CaravanError):
    """A remote call did not answer in time."""


class FinishReason(StrEnum):
    """Why a completion ended."""

    STOP = "stop"  # an end-of-sequence token or the END marker
    LENGTH = "length"  # max_completion_tokens were sampled


class Verdict(StrEnum):
    """What became of one completion; the first that applies, from top to bottom."""

    NO_CODE = "no_code"  # nothing that could be a program was found
    SYNTAX_ERROR = "syntax_error"  # does not parse
    DENIED = "denied"  # names something that completions may not use (files, Obj, external, ...)
    TYPE_ERROR = "type_error"  # parses, does not type-check on its own
    INTERFACE = "interface"  # type-checks on its own, but the tests cannot be applied to it
    PASSED = "passed"  # every assert held
    TIMEOUT = "timeout"  # an assert, or the whole program, ran out of time; none of the others is known to be worse
    RAISED = "raised"  # an assert ended in an exception
    WRONG = "wrong"  # an assert was false


class AssertOutcome(StrEnum):
    """What became of one assert of the tests."""

    PASSED = "passed"
    FAILED = "failed"  # it was false
    RAISED = "raised"  # an exception, or the process was killed for memory or stack
    TIMED_OUT = "timed_out"
    NOT_RUN = "not_run"  # there is no program, or something before it, which it needs, did not end


class Fate(StrEnum):
    """Where a completion ended; every completion ends in exactly one."""

    TRAINED = "trained"
    FILTERED = "filtered"
    STALE = "stale"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One task: a statement that the model sees and tests that it never sees."""

    id: str
    statement: str  # the OCaml doc comment with its ``>>>`` examples, and any type definitions before the signature
    signature: str  # what the solution starts with, e.g. "let rec gcd (a : int) (b : int) : int ="
    tests: str  # OCaml with asserts
    difficulty: str | None = None  # "easy", "medium", "hard", or the data set's own word
    solution: str | None = None  # a reference solution: a whole definition, signature included

    @property
    def prompt(self) -> str:
        """The statement followed by the signature, as the data set has it."""
        return f"{self.statement}\n{self.signature}" if self.statement else self.signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A problem as the model reads it."""

    problem_id: str
    text: str
    token_ids: tuple[int, ...]  # [P]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How completions are drawn. ``top_p=1, top_k=0, min_p=0``: anything else would bias the importance ratio."""

    temperature: float  # > 0 for training; 0 is greedy, for evaluation
    max_completion_tokens: int
    stop: tuple[str, ...] = ("(* END *)",)  # kept in the text


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRequest:
    """Asks a sampler pool for all completions of one prompt."""

    group_id: str  # unique in a run, e.g. "s000012-g03"
    prompt: Prompt
    group_size: int  # G
    sampling: Sampling
    seed: int  # completion i of the group is sampled with seed + i


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One sampled answer."""

    id: str  # "<group_id>-c<index>"
    group_id: str
    problem_id: str
    index: int  # 0 <= index < G
    prompt_ids: tuple[int, ...]  # [P]
    token_ids: tuple[int, ...]  # [T], the end-of-sequence token included where one was sampled
    sampler_logprobs: tuple[float, ...]  # [T], natural log, after temperature ("processed")
    text: str
    finish_reason: FinishReason
    policy_version: int  # the adapter that sampled every token of it; 0 = base model
    seconds: float  # from the request reaching the engine to its last token


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeError:
    """One error of a completion's code, as the compiler reports it."""

    line: int  # of the completion's text, 1 for the first; 0 where it has no place
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the grader observed of one completion; holds no judgement, so that it can be re-scored."""

    verdict: Verdict
    asserts: tuple[AssertOutcome, ...]  # in the order of the tests; one more where all held and the tests broke off
    shown: tuple[bool, ...] = ()  # per assert, whether the statement's examples give it away; empty: none of them
    type_errors: int  # independent ones; 0 where it does not parse, and where it is a name that is denied
    errors: tuple[CodeError, ...] = ()  # the first of them, a syntax error or a refusal too, with their lines
    syntax_error: bool
    compiled: bool  # solution and tests together made a program
    type_checked: bool  # the solution on its own type-checks
    has_end_marker: bool
    hit_length_limit: bool
    num_code_lines: int  # non-empty lines of the extracted program, comments not counted
    degenerate: tuple[
        str, ...
    ] = ()  # signs of an answer that is none: "repetitive", "mostly_prose", "fence_spam", "stub"
    num_code_blocks: int = 0  # fenced blocks in the completion
    has_trailing_prose: bool = False  # text after the code
    diagnostics: str = ""  # compiler or run-time messages, bounded to a few KiB
    seconds: Mapping[str, float] = field(
        default_factory=dict
    )  # wall seconds per stage, e.g. {"compile": 0.02, "run": 0.01}

    @property
    def tests_passed(self) -> int:
        """How many asserts passed."""
        return sum(outcome is AssertOutcome.PASSED for outcome in self.asserts)

    @property
    def tests_total(self) -> int:
        """How many asserts there are, 0 where the tests do not parse."""
        return len(self.asserts)


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardTerms:
    """The parts of a reward, each already weighted, before penalties."""

    structural: float
    type_check: float
    compile: float
    tests: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """Facts, and the reward that a profile gives for them."""

    facts: Facts
    terms: RewardTerms
    reward: float  # 0.0 to 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """All completions of one problem sampled together, with their grades."""

    id: str
    problem: Problem
    completions: tuple[Completion, ...]  # [G]
    grades: tuple[Grade | None, ...]  # [G]; None where it could not be graded: no reward, not in the baseline

    @property
    def rewards(self) -> tuple[float, ...]:
        """Rewards of the graded completions (ungradable ones left out)."""
        return tuple(grade.reward for grade in self.grades if grade is not None)

    @property
    def policy_version(self) -> int:
        """The oldest policy version among the completions."""
        return min(completion.policy_version for completion in self.completions)

    @property
    def has_signal(self) -> bool:
        """Whether the rewards differ, so that GRPO has something to compare."""
        rewards = self.rewards
        return len(rewards) > 1 and max(rewards) - min(rewards) > 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyVersion:
    """One published LoRA adapter."""

    number: int  # 1 after the first learner step
    adapter: Mapping[str, bytes]  # file name -> content of a PEFT adapter folder


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one learner step measured."""

    step: int  # 1 after the first step
    metrics: Mapping[str, float]  # TRL's names where TRL measures it (loss, grad_norm, learning_rate, entropy, kl, ...)


class SamplerPool(Protocol):
    """Samples groups; the real one is rollout.pool, the fake one rollout.fake."""

    def sample_group(self, request: GroupRequest) -> AsyncIterator[Completion]:
        """Yield the ``G`` completions of a group, each as it ends, in any order, all under one policy version."""
        ...

    async def publish(self, policy: PolicyVersion) -> None:
        """Load a policy on every sampler; on return new groups are sampled under it, running ones finish on theirs."""
        ...

    async def close(self) -> None:
        """Stop every engine and leave no process behind; may be called twice."""
        ...


class GraderPool(Protocol):
    """Grades completions; the real one is grader.pool, the fake one grader.fake."""

    async def grade(self, problem: Problem, completion: Completion) -> Grade:
        """Grade one completion; raises UngradableError when several workers failed at it."""
        ...

    async def close(self) -> None:
        """Stop every worker; may be called twice."""
        ...


class Learner(Protocol):
    """Turns groups into policy versions; the real one is learner.actor, the fake one learner.fake."""

    async def start(self) -> PolicyVersion | None:
        """Load the model, resume from the newest complete checkpoint if any; return its policy, None when fresh."""
        ...

    async def step(self, groups: Sequence[Group]) -> tuple[PolicyVersion, StepReport]:
        """Take one optimizer step on whole groups."""
        ...

    async def save_checkpoint(self) -> str:
        """Write a complete checkpoint for the current step and return its folder."""
        ...

    async def close(self) -> None:
        """Stop the learner; may be called twice."""
        ...
