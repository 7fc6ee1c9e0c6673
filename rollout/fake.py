"""A sampler pool without engines, for tests of what stands around it: completions come from a function."""

import asyncio
from collections.abc import AsyncGenerator, Callable

from cluster.types import Completion, FinishReason, GroupRequest, PolicyVersion, SamplerError, Swap, Usage

CompletionText = Callable[[GroupRequest, int, int], str]
"""Text of a completion, from the request, the completion's index and the policy version."""

LOGPROB = -1.0
"""Log-probability of every token that the fake samples."""


class FakeSamplerPool:
    """Samples by calling a function; tokens are the UTF-8 bytes of its text, cut at ``max_completion_tokens``.

    ``delay_seconds(request, index)`` says when a completion ends, counted from when its group was asked for, so that
    completions can end in any order. What happened can be read from ``requests``, ``published`` and ``is_closed``.
    """

    def __init__(
        self,
        complete: CompletionText,
        *,
        delay_seconds: Callable[[GroupRequest, int], float] = lambda _request, _index: 0.0,
        publish_seconds: float = 0.0,
    ) -> None:
        self._complete = complete
        self._delay_seconds = delay_seconds
        self._publish_seconds = publish_seconds
        self.version = 0
        self.requests: list[GroupRequest] = []
        self.published: list[int] = []
        self.is_closed = False

    async def start(self, policy: PolicyVersion | None = None) -> None:
        """Publish the policy that a resumed run begins with."""
        if policy is not None:
            await self.publish(policy)

    async def sample_group(
        self, request: GroupRequest, started: Callable[[int], None] = lambda _version: None
    ) -> AsyncGenerator[Completion]:
        """Yield the completions in the order of their delays, all under the version at the time of asking."""
        if self.is_closed:
            raise SamplerError("the sampler pool is closed")
        self.requests.append(request)
        version = self.version
        started(version)
        waited = 0.0
        for delay, index in sorted((self._delay_seconds(request, index), index) for index in range(request.group_size)):
            await asyncio.sleep(delay - waited)
            waited = delay
            yield self._completion(request, index, version, delay)

    async def publish(self, policy: PolicyVersion) -> tuple[Swap, ...]:
        """Take ``publish_seconds``, then sample new groups under the policy."""
        if policy.number <= self.version:
            raise SamplerError(f"policy {policy.number} comes after policy {self.version} was published")
        await asyncio.sleep(self._publish_seconds)
        self.version = policy.number
        self.published.append(policy.number)
        return (Swap(sampler="sampler 0", seconds=self._publish_seconds, canary_gap=None),)

    def usage(self) -> Usage:
        """One sampler that was never busy."""
        return Usage(num_members=1, busy_seconds=0.0, num_running=0, num_waiting=0)

    async def close(self) -> None:
        """Refuse all further groups; may be called twice."""
        self.is_closed = True

    def _completion(self, request: GroupRequest, index: int, version: int, seconds: float) -> Completion:
        tokens = self._complete(request, index, version).encode()
        limit = request.sampling.max_completion_tokens
        return Completion(
            id=f"{request.group_id}-c{index}",
            group_id=request.group_id,
            problem_id=request.prompt.problem_id,
            index=index,
            prompt_ids=request.prompt.token_ids,
            token_ids=tuple(tokens[:limit]),
            sampler_logprobs=(LOGPROB,) * len(tokens[:limit]),
            text=tokens[:limit].decode(errors="ignore"),
            finish_reason=FinishReason.LENGTH if len(tokens) > limit else FinishReason.STOP,
            policy_version=version,
            seconds=seconds,
        )
