"""Records and enums that processes exchange. Standard library only, so that a grader on a bare CPU node can import them.

Records are frozen, picklable and free of tensors. Dimensions: ``P`` prompt tokens, ``T`` completion tokens, ``G`` completions
in a group. Interfaces are in ``cluster.protocols``, errors in ``cluster.errors``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from cluster.errors import ConfigError


class FinishReason(StrEnum):
    """Reason why sampling of a completion ended."""

    STOP = "stop"  # an end-of-sequence token or the END marker
    LENGTH = "length"  # max_completion_tokens were sampled


class Verdict(StrEnum):
    """Result of grading one completion; the first that applies, from top to bottom."""

    NO_CODE = "no_code"  # no candidate program was found
    SYNTAX_ERROR = "syntax_error"  # does not parse
    DENIED = "denied"  # uses a name that completions may not use (files, Obj, external, ...)
    TYPE_ERROR = "type_error"  # parses, does not type-check on its own
    INTERFACE = "interface"  # type-checks on its own, but not together with the tests
    PASSED = "passed"  # every assert held
    TIMEOUT = "timeout"  # an assert or the whole program ran out of CPU time
    RAISED = "raised"  # an assert ended in an exception
    WRONG = "wrong"  # an assert was false


class AssertOutcome(StrEnum):
    """Result of one assert of the tests."""

    PASSED = "passed"
    FAILED = "failed"  # it was false
    RAISED = "raised"  # an exception, or the process was killed for memory or stack
    TIMED_OUT = "timed_out"
    NOT_RUN = "not_run"  # there is no program, or an earlier definition that it needs did not end


class Outcome(StrEnum):
    """Use of a completion by the run; every completion has exactly one."""

    TRAINED = "trained"
    FILTERED = "filtered"  # by the group filter or by the learner's settings
    STALE = "stale"  # too many policy versions behind the learner
    FAILED = "failed"  # a sampler or grader failed


class DropReason(StrEnum):
    """Reason why a completion was not trained."""

    NO_SIGNAL = "no_signal"  # all rewards of its group are equal
    TRUNCATED = "truncated"  # too many completions of its group hit the length limit
    TOO_HARD = "too_hard"  # the mean reward of its group is too low
    TOO_EASY = "too_easy"  # the mean reward of its group is too high
    TOO_SLOW = "too_slow"  # its problem was sampled several times, and each group became stale
    STALE = "stale"  # its group, or each of its tokens, is more than max_staleness versions behind
    NOT_STARTED = "not_started"  # its group waited too long for a sampler and would have been stale
    UNGRADABLE = "ungradable"  # graders failed
    SAMPLER_FAILED = "sampler_failed"
    EMPTY = "empty"  # it has no token
    MASKED_TRUNCATED = "masked_truncated"  # learner.mask_truncated_completions
    BELOW_THRESHOLD = "below_threshold"  # learner.reward_threshold
    NOT_IN_TOP_K = "not_in_top_k"  # learner.train_top_k

    @property
    def outcome(self) -> Outcome:
        """Outcome of a completion that is dropped for this reason."""
        if self in (DropReason.STALE, DropReason.NOT_STARTED):
            return Outcome.STALE
        if self in (DropReason.UNGRADABLE, DropReason.SAMPLER_FAILED):
            return Outcome.FAILED
        return Outcome.FILTERED


@dataclass(frozen=True, slots=True)
class Drop:
    """Reason why a completion or a whole group was not trained, with a detail if there is one."""

    reason: DropReason
    detail: str = ""  # the error of a sampler, for example

    @property
    def outcome(self) -> Outcome:
        """Outcome of the completions concerned."""
        return self.reason.outcome

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else str(self.reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A programming task: a statement that the model sees and tests that it never sees."""

    id: str
    statement: str  # the OCaml doc comment with its ``>>>`` examples, and any type definitions before the signature
    signature: str  # first line of the solution, e.g. "let rec gcd (a : int) (b : int) : int ="
    tests: str  # OCaml with asserts
    difficulty: str | None = None  # "easy", "medium", "hard", or the dataset's own word
    solution: str | None = None  # a reference solution: a whole definition, signature included

    @property
    def prompt(self) -> str:
        """The statement followed by the signature, as the dataset has it."""
        return f"{self.statement}\n{self.signature}" if self.statement else self.signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A problem as the model reads it."""

    problem_id: str
    text: str
    token_ids: tuple[int, ...]  # [P]
    opened_thought: str = ""  # the thought tag that the prompt opens and does not close, "<think>"; empty: none
    keeps_special_tokens: bool = False  # completions are decoded with special tokens, some of which mark thoughts
    template_hash: str = ""  # digest of the prompt template as rendered for an example


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling parameters. Training samples the whole distribution: ``top_p``, ``top_k`` and ``min_p`` are for evaluation."""

    temperature: float  # > 0 for training; 0 is greedy, for evaluation
    max_completion_tokens: int
    top_p: float = 1.0  # 1 is off
    top_k: int = 0  # 0 is off
    min_p: float = 0.0  # 0 is off
    stop: tuple[str, ...] = ("(* END *)",)  # kept in the text


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRequest:
    """A request to a sampler pool for all completions of one prompt."""

    group_id: str  # unique in a run, "g<position>", "g<position>-<attempt>" from the second attempt on
    prompt: Prompt
    group_size: int  # G
    sampling: Sampling
    seed: int  # completion i of the group is sampled with seed + i
    position: int = 0  # in the problem stream, or among the problems of an evaluation


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
    token_ids: tuple[int, ...]  # [T], with the end-of-sequence token if one was sampled
    sampler_logprobs: tuple[float, ...]  # [T], natural log, after temperature ("processed")
    text: str
    finish_reason: FinishReason
    policy_version: int  # the adapter that sampled its last token; 0 is the base model, or the initial adapter
    version_spans: tuple[VersionSpan, ...] = ()  # in order; empty: one version sampled all tokens
    seconds: float  # time in the engine, from the request to the last token
    temperature: float | None = None  # sampling temperature; None: the run's
    opened_thought: str = ""  # the prompt's: the text starts inside that thought
    token_ends: tuple[
        int, ...
    ] = ()  # [T], position in the text where each token ends; empty: the text holds no thought

    @property
    def token_versions(self) -> tuple[int, ...]:
        """Policy version that sampled each token, ``[T]``."""
        if not self.version_spans:
            return (self.policy_version,) * len(self.token_ids)
        return tuple(span.policy_version for span in self.version_spans for _ in range(span.num_tokens))


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeError:
    """One compiler error in a completion's code."""

    line: int  # of the completion's text, from 1; 0 if the compiler names no line
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Observations of the grader about one completion. They hold no reward, so that they can be re-scored."""

    verdict: Verdict
    asserts: tuple[AssertOutcome, ...]  # in the order of the tests; one more if all held but the tests did not end
    covered_by_example: tuple[bool, ...] = ()  # per assert: an example of the statement covers it; empty: none
    type_errors: int  # independent ones; 0 if it does not parse or uses a denied name
    errors: tuple[CodeError, ...] = ()  # the first type errors, or the syntax error or refusal
    syntax_error: bool
    compiled: bool  # solution and tests compile together
    type_checked: bool  # the solution type-checks on its own
    has_end_marker: bool
    hit_length_limit: bool
    num_code_lines: int  # non-empty lines of the extracted program, without comments
    quality_flags: tuple[str, ...] = ()  # low quality: "repetitive", "mostly_prose", "fence_spam", "stub"
    num_code_blocks: int = 0  # fenced blocks in the completion
    has_trailing_prose: bool = False  # text after the code
    num_thought_tokens: int | None = 0  # tokens before and within the answer that are no part of it; None: unknown
    diagnostics: str = ""  # compiler or run-time messages, bounded to a few KiB
    seconds: Mapping[str, float] = field(default_factory=dict)  # wall seconds by stage: {"compile": 0.02, "run": 0.01}

    @property
    def tests_passed(self) -> int:
        """Number of asserts that passed."""
        return sum(outcome is AssertOutcome.PASSED for outcome in self.asserts)

    @property
    def tests_total(self) -> int:
        """Number of asserts; 0 if the tests do not parse."""
        return len(self.asserts)


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardTerms:
    """Parts of a reward, each already weighted, before penalties."""

    structural: float
    type_check: float
    compile: float
    tests: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """Facts and the reward that a profile computes from them."""

    facts: Facts
    terms: RewardTerms
    reward: float  # 0.0 to 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timestamps:
    """Times of a completion's stages, in Unix seconds by the driver's clock."""

    requested: float  # its group was requested from the samplers
    sampled: float  # it arrived from a sampler and was sent to the graders
    graded: float | None  # its grade arrived; None: no grade arrived


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """All completions of one problem sampled together, with their grades."""

    id: str
    problem: Problem
    completions: tuple[Completion, ...]  # [G]; fewer if the group was cancelled before all had ended
    grades: tuple[Grade | None, ...]  # [G]; None if grading failed: no reward, not in the baseline
    timestamps: tuple[Timestamps, ...] = ()  # [G]; empty if they were not measured
    position: int = 0  # the request's

    @property
    def rewards(self) -> tuple[float, ...]:
        """Rewards of the graded completions, without the ungradable ones."""
        return tuple(grade.reward for grade in self.grades if grade is not None)

    @property
    def policy_version(self) -> int:
        """The oldest policy version among the completions, from which staleness is counted."""
        return min(completion.policy_version for completion in self.completions)

    @property
    def has_signal(self) -> bool:
        """True if the rewards differ, so that advantages are not all 0."""
        rewards = self.rewards
        return len(rewards) > 1 and max(rewards) - min(rewards) > 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbePrompt:
    """Fixed tokens with the learner's log-probabilities, which a sampler with the same policy must reproduce."""

    token_ids: tuple[int, ...]  # [N]
    logprobs: tuple[
        float, ...
    ]  # [N - 1], natural log, temperature 1: of each token but the first, given those before it


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeGap:
    """Absolute differences between a sampler's and the learner's log-probabilities of one probe prompt."""

    num_tokens: int  # N - 1
    mean: float  # nats per token
    spread: float  # standard deviation over the tokens, nats


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyVersion:
    """One published policy, a LoRA adapter or all weights, with the data that verifies the weight sync."""

    number: int  # 1 after the first learner step
    adapter: Mapping[str, bytes]  # file name -> content of a PEFT adapter folder, or the weights of a whole model
    modules: tuple[str, ...] = ()  # full names of the modules that carry trained weights, or layers; empty: unknown
    weight_sums: Mapping[str, int] = field(
        default_factory=dict
    )  # of all weights: checksum by layer (cluster.weight_sums)
    probes: tuple[ProbePrompt, ...] = ()  # empty: no learner of this run made the adapter


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSync:
    """Measurements of one sampler that loaded a policy."""

    sampler: str
    seconds: float  # from the request to serving the policy, verification included
    # Weight-sync gap: the probe prompts' median of the mean absolute difference to the learner's logprobs, nats per token; None
    # without probe prompts.
    gap: float | None
    tolerance: float  # largest gap with which a policy is verified


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """Measurements of one learner step."""

    step: int  # 1 after the first step
    metrics: Mapping[str, float]  # TRL's names where TRL measures it (loss, grad_norm, learning_rate, entropy, kl, ...)
    advantages: Mapping[str, float] = field(default_factory=dict)  # by completion id, of those in the loss
    excluded: Mapping[str, DropReason] = field(default_factory=dict)  # by completion id, of those not in the loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Cumulative work of a pool; the difference of two measures the time between them."""

    num_replicas: int  # samplers or graders that accept work now
    busy_seconds: float  # seconds in which a replica had work, summed over replicas
    num_running: int  # completions that replicas are working on now
    num_waiting: int  # completions that wait for a replica now
    capacity_seconds: float | None = None  # lifetime in seconds, summed over replicas; None: their number is fixed
    num_lost: int = 0  # replicas that died or hung at work, and were replaced


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Minimum and maximum number of replicas of a pool; it does not scale if they are equal."""

    minimum: int  # at least 1
    maximum: int  # not below the minimum

    def clamp(self, number: int) -> int:
        """Return the nearest number within the bounds."""
        return max(self.minimum, min(self.maximum, number))

    def changed(self, pool: str, number: int | None, minimum: int | None, maximum: int | None) -> "Bounds":
        """Return new bounds for the given values; None keeps a value. A number without bounds is both minimum and maximum.

        With one bound given, the other bound moves to include the number. ``pool`` names the keys in messages. Raises
        ConfigError for contradictions.
        """
        if number is not None and minimum is None and maximum is None:
            return Bounds(minimum=number, maximum=number)
        least = self.minimum if number is None else min(self.minimum, number)
        most = self.maximum if number is None else max(self.maximum, number)
        bounds = Bounds(minimum=least if minimum is None else minimum, maximum=most if maximum is None else maximum)
        if bounds.minimum > bounds.maximum or (number is not None and bounds.clamp(number) != number):
            given = "" if number is None else f" and {pool}={number}"
            raise ConfigError(
                f"min_{pool}={bounds.minimum} and max_{pool}={bounds.maximum}{given} contradict each other (the run scales "
                f"between {self.minimum} and {self.maximum}, and values that are not given stay); give all values that change"
            )
        return bounds
