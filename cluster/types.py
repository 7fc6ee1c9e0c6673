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
    ├── PromptIncomplete    one problem of whose text something is lost in its prompt
    ├── SamplerError        a sampler died or refused its work
    │   └── GroupFailed     one group at which several samplers died; the others can go on
    ├── UngradableError     the machine (not the completion) failed to grade
    ├── LearnerError        the learner died or diverged
    └── DeadlineExceeded    a remote call did not answer in time
"""

import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol


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


class PromptIncomplete(CaravanError):
    """A prompt that lacks some of its problem's text: the chat template or the tokenizer loses it."""


class SamplerError(CaravanError):
    """A sampler died or refused its work."""


class GroupFailed(SamplerError):
    """One group at which several samplers died: it is taken for the cause and given up; the pool itself works on."""


class UngradableError(CaravanError):
    """The machine, not the completion, failed to grade; such a completion is retried and never becomes reward 0."""


class LearnerError(CaravanError):
    """The learner died or its numbers diverged."""


class DeadlineExceeded(CaravanError):
    """A remote call did not answer in time."""


THOUGHT_NAME = (
    r"(?:[\w:.-]{0,24}(?:think|thought|reasoning|scratch_?pad|monologue)[\w:.-]{0,24}|(?:\w{1,20}:)?(?:reason|reflect(?:ion|ing)?"
    r"|analysis|rationale|deliberation|contemplat(?:ion|or)|brainstorm(?:ing)?|introspection|cot))"
)
"""What a tag of a thought is named like, in any case: think, seed:think, thought_process, end_of_thought, ..."""

_ENDS = r"(?:(?:end|stop|close)_|[\w:.-]*_(?:end|stop|close)\b)"
_OPENS = rf"(?!{_ENDS}){THOUGHT_NAME}"
_CLOSES = rf"(?:/[ ]?|(?={_ENDS})){THOUGHT_NAME}"

THOUGHT_OPENING = re.compile(
    rf"<[ ]?{_OPENS}(?:\s[^<>\n]*)?>|\[{_OPENS}\]|\u25c1{_OPENS}\u25b7|<[|\uff5c]{_OPENS}[|\uff5c]>"
    r"|<\|channel\|>(?:analysis|commentary)\b[^<\n]*<\|message\|>|<\|channel>thought\b|<\|inner_prefix\|>|<unused94>(?:thought\b)?",
    re.IGNORECASE,
)
"""Tags that models write in front of a thought, with attributes and in any case."""

THOUGHT_CLOSING = re.compile(
    rf"<[ ]?{_CLOSES}\s*>|\[{_CLOSES}\]|\u25c1{_CLOSES}\u25b7|<[|\uff5c]{_CLOSES}[|\uff5c]>"
    r"|<\|channel\|>final\b[^<\n]*<\|message\|>|<channel\|>|<\|inner_suffix\|>|<unused95>",
    re.IGNORECASE,
)
"""Tags that end a thought."""


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
    opened_thought: str = ""  # the tag of a thought that the prompt opens and does not close, "<think>"; empty: none
    keeps_special_tokens: bool = False  # completions are decoded with special tokens, some of which mark thoughts


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How completions are drawn. Training cuts no tail off: ``top_p``, ``top_k`` and ``min_p`` are for evaluation."""

    temperature: float  # > 0 for training; 0 is greedy, for evaluation
    max_completion_tokens: int
    top_p: float = 1.0  # 1 is off
    top_k: int = 0  # 0 is off
    min_p: float = 0.0  # 0 is off
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
class VersionSpan:
    """Consecutive tokens of a completion that one policy version sampled."""

    policy_version: int
    num_tokens: int


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
    policy_version: int  # the adapter that sampled its last token; 0 = base model
    version_spans: tuple[
        VersionSpan, ...
    ] = ()  # where the policy changed on the way; empty: one version sampled it all
    seconds: float  # from the request reaching the engine to its last token
    temperature: float | None = None  # that it was sampled at; None: the run's
    opened_thought: str = ""  # its prompt's: the text begins inside that thought

    @property
    def token_versions(self) -> tuple[int, ...]:
        """The policy version that sampled each token, ``[T]``."""
        if not self.version_spans:
            return (self.policy_version,) * len(self.token_ids)
        return tuple(span.policy_version for span in self.version_spans for _ in range(span.num_tokens))


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
class Hops:
    """When a completion passed from one part to the next, in Unix seconds by the driver's clock."""

    asked: float  # its group was asked for
    sampled: float  # it came from the sampler, and went to the graders
    graded: float | None  # its grade was there; None: it never was


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """All completions of one problem sampled together, with their grades."""

    id: str
    problem: Problem
    completions: tuple[Completion, ...]  # [G]; fewer where the group was given up before all had ended
    grades: tuple[Grade | None, ...]  # [G]; None where it could not be graded: no reward, not in the baseline
    hops: tuple[Hops, ...] = ()  # [G]; empty where nobody measured

    @property
    def rewards(self) -> tuple[float, ...]:
        """Rewards of the graded completions (ungradable ones left out)."""
        return tuple(grade.reward for grade in self.grades if grade is not None)

    @property
    def policy_version(self) -> int:
        """The version that staleness is counted from: the oldest among the completions."""
        return min(completion.policy_version for completion in self.completions)

    @property
    def has_signal(self) -> bool:
        """Whether the rewards differ, so that GRPO has something to compare."""
        rewards = self.rewards
        return len(rewards) > 1 and max(rewards) - min(rewards) > 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """Fixed tokens as the learner scores them: a sampler that serves the same policy scores them alike."""

    token_ids: tuple[int, ...]  # [N]
    logprobs: tuple[
        float, ...
    ]  # [N - 1], natural log, at temperature 1: of each token but the first, given those before


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyVersion:
    """One published LoRA adapter, and what proves that a sampler serves it."""

    number: int  # 1 after the first learner step
    adapter: Mapping[str, bytes]  # file name -> content of a PEFT adapter folder
    modules: tuple[str, ...] = ()  # full names of the modules that carry trained weights; empty: not told
    canary: Canary | None = None  # None: nothing to score (an adapter from elsewhere)


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """How one sampler took over a policy."""

    sampler: str
    seconds: float  # from being told to serving it, proof included
    canary_gap: float | None  # mean absolute difference to the learner's logprobs, nats; None without a canary


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one learner step measured."""

    step: int  # 1 after the first step
    metrics: Mapping[str, float]  # TRL's names where TRL measures it (loss, grad_norm, learning_rate, entropy, kl, ...)
    advantages: Mapping[str, float] = field(default_factory=dict)  # by completion id, of those that entered the loss
    left_out: Mapping[str, str] = field(default_factory=dict)  # by completion id, why it did not ("ungradable", ...)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a pool's members did since it was made; the difference of two says what they did in between."""

    num_members: int  # samplers or graders that are given work now
    busy_seconds: float  # seconds in which a member had work, summed over members
    num_running: int  # completions that members have now
    num_waiting: int  # completions that wait for a member now
    capacity_seconds: float | None = None  # seconds of being there, summed over members; None: none comes or goes


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Between which numbers of members a pool scales on its own; equal: it does not."""

    floor: int  # at least 1
    ceiling: int  # not below the floor

    def clamp(self, number: int) -> int:
        """The nearest number within."""
        return max(self.floor, min(self.ceiling, number))

    def changed(self, pool: str, number: int | None, floor: int | None, ceiling: int | None) -> "Bounds":
        """These with what somebody asks for, of which None is not asked for: a number alone is floor and ceiling.

        Beside a number, the bound that is not given makes room for it. ``pool`` is what the keys are named after. Raises
        ConfigError for contradictions.
        """
        if number is not None and floor is None and ceiling is None:
            return Bounds(floor=number, ceiling=number)
        least = self.floor if number is None else min(self.floor, number)
        most = self.ceiling if number is None else max(self.ceiling, number)
        bounds = Bounds(floor=least if floor is None else floor, ceiling=most if ceiling is None else ceiling)
        if bounds.floor > bounds.ceiling or (number is not None and bounds.clamp(number) != number):
            asked = "" if number is None else f" and {pool}={number}"
            raise ConfigError(
                f"min_{pool}={bounds.floor} and max_{pool}={bounds.ceiling}{asked} contradict each other (what is not given "
                f"holds on: the run scales between {self.floor} and {self.ceiling}); give all that is to change"
            )
        return bounds


class Claim(Protocol):
    """What one pool of a run claims of the cluster, beside the run's other parts; the real one is cluster.claims.

    Both methods ask Ray, and may block for some milliseconds.
    """

    def left(self, num_present: int) -> int:
        """How many more members than so many have room now, with what other parts are to keep left free."""
        ...

    def want(self, number: int, *, least: int, lacking: int) -> None:
        """So many members are wanted, ``least`` needed, and some have no room: machines are asked for, once that lasts."""
        ...


class SamplerPool(Protocol):
    """Samples groups; the real one is rollout.pool, the fake one rollout.fake."""

    def sample_group(self, request: GroupRequest, started: Callable[[int], None] = ...) -> AsyncGenerator[Completion]:
        """Yield the ``G`` completions of a group, each as it ends, in any order.

        ``started`` is called with the policy version once a sampler has been found. Closing the iterator takes the rest
        out of the engine. Raises GroupFailed where only this group cannot be sampled, SamplerError where none can.
        """
        ...

    async def publish(self, policy: PolicyVersion) -> Sequence[Swap]:
        """Load a policy on every sampler and have each prove it; on return new groups are sampled under it.

        Running ones finish on theirs, or change over on the way where the samplers swap in flight.
        """
        ...

    def usage(self) -> Usage:
        """What the samplers did so far."""
        ...

    async def close(self) -> None:
        """Stop every engine and leave no process behind; may be called twice."""
        ...


class GraderPool(Protocol):
    """Grades completions; the real one is grader.pool, the fake one grader.fake."""

    async def grade(self, problem: Problem, completion: Completion) -> Grade:
        """Grade one completion; raises UngradableError when several workers failed at it."""
        ...

    def usage(self) -> Usage:
        """What the graders did so far."""
        ...

    async def close(self) -> None:
        """Stop every worker; may be called twice."""
        ...


class Learner(Protocol):
    """Turns groups into policy versions; the real one is learner.client, the fake one learner.fake."""

    async def start(self) -> PolicyVersion | None:
        """Load the model, resume from the newest complete checkpoint if any; return its policy, None when fresh."""
        ...

    async def step(
        self, groups: Sequence[Group], in_force: Mapping[str, Any] = ...
    ) -> tuple[PolicyVersion, StepReport]:
        """Take one optimizer step on whole groups.

        ``in_force``: settings of the ``learner`` section, by dotted key below it, that hold for this step in place of those that
        the learner was started with.
        A learner that dies on the way is started again, brought back to where it was, and takes the step then.
        """
        ...

    async def save_checkpoint(self) -> str:
        """Write a complete checkpoint for the current step and return its folder."""
        ...

    async def close(self) -> None:
        """Stop the learner; may be called twice."""
        ...
