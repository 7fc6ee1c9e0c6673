"""A sampler pool without engines, for tests and simulations: completions come from a function."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

from cluster.actors.dispatcher import Dispatcher, Worker
from cluster.errors import GroupFailed, SamplerError
from cluster.thought_tags import may_hold_thought
from cluster.types import (
    Completion,
    FinishReason,
    GroupRequest,
    PolicyVersion,
    ProbeGap,
    ProbePrompt,
    Usage,
    VersionSpan,
    WeightSync,
)

CompletionText = Callable[[GroupRequest, int, int], str]
"""Text of a completion, from the request, the completion's index and the policy version at the start of its group."""

LOGPROB = -1.0
"""Log-probability of every token that the fake samples."""


class FakeSamplerPool:
    """Samples by calling a function; tokens are the UTF-8 bytes of its text, cut at ``max_completion_tokens``.

    ``delay_seconds(request, index)`` is the time from the assignment of a group to a sampler until the completion ends. A
    sampler accepts groups while it runs fewer than ``max_concurrent_requests`` completions. ``fails(request)`` selects groups
    that fail on every sampler. With ``in_flight``, running completions continue under a newly published policy, with version
    spans. ``requests``, ``published`` and ``is_closed`` record the calls.
    """

    def __init__(
        self,
        complete: CompletionText,
        *,
        delay_seconds: Callable[[GroupRequest, int], float] = lambda _request, _index: 0.0,
        publish_seconds: float = 0.0,
        num_samplers: int = 1,
        max_concurrent_requests: int = 10**9,
        fails: Callable[[GroupRequest], bool] = lambda _request: False,
        in_flight: bool = False,
    ) -> None:
        self._complete = complete
        self._delay_seconds = delay_seconds
        self._publish_seconds = publish_seconds
        self._fails = fails
        self._in_flight = in_flight
        self._dispatcher: Dispatcher[Worker] = Dispatcher(max_concurrent_requests)
        self._samplers = [Worker(name=f"sampler {index}") for index in range(num_samplers)]
        for sampler in self._samplers:
            self._dispatcher.add(sampler)
        self._changes: list[tuple[float, int]] = []  # time of each publish, by the event loop's clock
        self._tolerance = 1e-3
        self.version = 0
        self.requests: list[GroupRequest] = []
        self.published: list[int] = []
        self.is_closed = False

    async def start(self, policy: PolicyVersion | None = None) -> None:
        """Publish the policy of a resumed run."""
        if policy is not None:
            await self.publish(policy)

    async def sample_group(
        self, request: GroupRequest, started: Callable[[int], None] = lambda _version: None
    ) -> AsyncGenerator[Completion]:
        """Yield the completions in the order of their delays, under the version at the assignment of the group."""
        self.requests.append(request)
        sampler = await self._dispatcher.take(request.group_size)
        num_charged = request.group_size
        try:
            version, begin = self.version, asyncio.get_running_loop().time()
            started(version)
            if self._fails(request):
                raise GroupFailed(f"group {request.group_id} failed on every sampler, as the test requested")
            waited = 0.0
            delays = sorted((self._delay_seconds(request, index), index) for index in range(request.group_size))
            for delay, index in delays:
                await asyncio.sleep(delay - waited)
                waited = delay
                num_charged -= 1
                self._dispatcher.release(sampler, 1)
                yield self._completion(request, index, version, begin, delay)
        finally:
            self._dispatcher.release(sampler, num_charged)

    async def publish(self, policy: PolicyVersion) -> tuple[WeightSync, ...]:
        """Wait ``publish_seconds``, then sample new groups under the policy."""
        if policy.number <= self.version:
            raise SamplerError(f"policy {policy.number} comes after policy {self.version} was published")
        await asyncio.sleep(self._publish_seconds)
        self.version = policy.number
        self.published.append(policy.number)
        self._changes.append((asyncio.get_running_loop().time(), policy.number))
        gap = 0.0 if policy.probes else None
        return tuple(
            WeightSync(sampler=sampler.name, seconds=self._publish_seconds, gap=gap, tolerance=self._tolerance)
            for sampler in self._samplers
        )

    async def base_gaps(self, probes: Sequence[ProbePrompt]) -> tuple[ProbeGap, ...]:
        """Return gaps of 0: the fake agrees with the learner about every token."""
        return tuple(ProbeGap(num_tokens=len(probe.logprobs), mean=0.0, spread=0.0) for probe in probes)

    def set_tolerance(self, nats: float) -> None:
        """Report the tolerance with later publishes."""
        self._tolerance = nats

    def usage(self) -> Usage:
        """Usage so far; call it in the event loop of the pool."""
        return self._dispatcher.usage()

    async def close(self) -> None:
        """Refuse all further groups; may be called twice."""
        self.is_closed = True
        self._dispatcher.fail(SamplerError("the sampler pool is closed"))

    def _completion(self, request: GroupRequest, index: int, version: int, begin: float, seconds: float) -> Completion:
        tokens = self._complete(request, index, version).encode()
        limit = request.sampling.max_completion_tokens
        spans = self._spans(len(tokens[:limit]), version, begin, seconds) if self._in_flight else ()
        text, opened_thought = tokens[:limit].decode(errors="ignore"), request.prompt.opened_thought
        return Completion(
            id=f"{request.group_id}-c{index}",
            group_id=request.group_id,
            problem_id=request.prompt.problem_id,
            index=index,
            prompt_ids=request.prompt.token_ids,
            token_ids=tuple(tokens[:limit]),
            sampler_logprobs=(LOGPROB,) * len(tokens[:limit]),
            text=text,
            finish_reason=FinishReason.LENGTH if len(tokens) > limit else FinishReason.STOP,
            policy_version=spans[-1].policy_version if spans else version,
            version_spans=spans if len(spans) > 1 else (),
            seconds=seconds,
            temperature=request.sampling.temperature,
            opened_thought=opened_thought,
            token_ends=_token_ends(tokens[:limit]) if opened_thought or may_hold_thought(text) else (),
        )

    def _spans(self, num_tokens: int, version: int, begin: float, seconds: float) -> tuple[VersionSpan, ...]:
        """Return the version spans of tokens that are sampled at an even pace."""
        changes = [(moment, number) for moment, number in self._changes if begin < moment < begin + seconds]
        starts = [0, *(round(num_tokens * (moment - begin) / seconds) for moment, _ in changes)]
        versions = [version, *(number for _, number in changes)]
        ends = [*starts[1:], num_tokens]
        return tuple(
            VersionSpan(policy_version=number, num_tokens=end - start)
            for number, start, end in zip(versions, starts, ends, strict=True)
            if end > start
        )


def _token_ends(tokens: bytes) -> tuple[int, ...]:
    return tuple(len(tokens[: end + 1].decode(errors="ignore")) for end in range(len(tokens)))
