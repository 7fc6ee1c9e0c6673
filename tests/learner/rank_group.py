"""A process group of learner ranks without Ray."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.learner.factories import plan, settings

LOCALHOST = "127.0.0.1"
DEADLINE_SECONDS = 120.0


class RankProcesses:
    """A LearnerWorker in a process per rank; calls go to all ranks."""

    def __init__(self, model_folder: Path, pipes: list[Connection]) -> None:
        self._model_folder = model_folder
        self._pipes = pipes

    def begin(
        self, *checkpoints: Path, max_steps: int = 20, probe_ids: tuple[tuple[int, ...], ...] = (), **changes: Any
    ) -> list[Any]:
        """Start new workers in the same processes, with one folder of checkpoints or one per rank."""
        learner_settings = settings(num_ranks=len(self._pipes), **changes)
        folders = checkpoints if len(checkpoints) > 1 else checkpoints * len(self._pipes)
        plans = [plan(self._model_folder, each, max_steps=max_steps, probe_ids=probe_ids) for each in folders]
        return self.each("begin", [(learner_settings, each) for each in plans])

    def __call__(self, method: str | Callable[..., Any], *arguments: Any) -> list[Any]:
        """Return the result or error on each rank of a method of the worker, or of a function of it."""
        return self.each(method, [arguments] * len(self._pipes))

    def each(self, method: str | Callable[..., Any], arguments_of_ranks: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call with separate arguments for each rank."""
        for pipe, arguments in zip(self._pipes, arguments_of_ranks, strict=True):
            pipe.send((method, arguments))
        answers = []
        for pipe in self._pipes:
            assert pipe.poll(DEADLINE_SECONDS), f"a rank does not answer {method}"
            answers.append(pipe.recv())
        return answers

    def step(self, groups: Any, active_overrides: Any = None) -> Any:
        """Return the step of rank 0; asserts that all ranks have the same policy and metrics."""
        outcomes = self("step", groups, active_overrides or {})
        assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)], outcomes
        policies = [policy for policy, _ in outcomes]
        assert all(policy == policies[0] for policy in policies)
        differs_by_rank = {"seconds", "train_runtime"}
        metrics = [{k: v for k, v in report.metrics.items() if k not in differs_by_rank} for _, report in outcomes]
        assert all(each == metrics[0] for each in metrics)
        return outcomes[0]


@contextmanager
def rank_processes(model_folder: Path, num_ranks: int, *, uses_gpus: bool = False) -> Iterator[RankProcesses]:
    """Start the processes of a group, with a GPU each or on the CPU, and end them after the block."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    from learner.training.process_group import open_rendezvous

    rendezvous = open_rendezvous(LOCALHOST, num_ranks)
    for number in range(num_ranks):
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_rank, args=(number, num_ranks, rendezvous.port, theirs, uses_gpus), daemon=True
        )
        process.start()
        pipes.append(ours)
        processes.append(process)
    try:
        yield RankProcesses(model_folder, pipes)
    finally:
        for process in processes:
            process.kill()
            process.join()


def _rank(rank: int, world_size: int, port: int, pipe: Connection, uses_gpu: bool) -> None:
    if uses_gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(rank)
    from learner.training.quiet import silence_libraries

    silence_libraries()
    import torch

    torch.set_num_threads(1)
    from learner.training.process_group import join_process_group
    from learner.worker import LearnerWorker

    process_group = join_process_group(
        rank, world_size, (LOCALHOST, port), host=LOCALHOST, uses_gpu=uses_gpu, deadline_seconds=DEADLINE_SECONDS
    )
    worker: Any = None
    while True:
        method, arguments = pipe.recv()
        try:
            if method == "begin":
                if worker is not None:
                    worker.close()
                learner_settings, plan = arguments
                worker = LearnerWorker(learner_settings, plan, process_group)
                answer = worker.start()
            elif isinstance(method, str):
                answer = getattr(worker, method)(*arguments)
            else:
                answer = method(worker, *arguments)
        except Exception as error:  # noqa: BLE001 - the test gets it
            answer = error
        pipe.send(answer)
