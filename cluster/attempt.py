"""One group from its prompt to its grades; training and evaluation both go through here."""

import asyncio

from cluster.types import Completion, Grade, GraderPool, Group, GroupRequest, Problem, SamplerPool, UngradableError


async def attempt(problem: Problem, request: GroupRequest, samplers: SamplerPool, graders: GraderPool) -> Group:
    """Sample a group, grading each completion as soon as it ends, while the others are still being sampled."""
    sampled: list[tuple[Completion, asyncio.Task[Grade | None]]] = []
    async with asyncio.TaskGroup() as grading:
        async for completion in samplers.sample_group(request):
            sampled.append((completion, grading.create_task(_grade(graders, problem, completion))))  # noqa: PERF401
    sampled.sort(key=lambda pair: pair[0].index)
    return Group(
        id=request.group_id,
        problem=problem,
        completions=tuple(completion for completion, _ in sampled),
        grades=tuple(task.result() for _, task in sampled),
    )


async def _grade(graders: GraderPool, problem: Problem, completion: Completion) -> Grade | None:
    try:
        return await graders.grade(problem, completion)
    except UngradableError:
        return None  # not the completion's fault: it gets no reward, stays out of the baseline, and is counted
