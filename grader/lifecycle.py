"""Lifecycle of graders: their actors, and the error when none is ready."""

import os
import time
from dataclasses import dataclass, field
from typing import Any

import ray

from cluster.actors.calls import result_of
from cluster.actors.dispatcher import Dispatcher
from cluster.actors.lifecycle import Lifecycle, Replica, ReplicaState
from cluster.errors import CaravanError, UngradableError
from grader.actor import GraderActor
from grader.environment import without_secrets
from grader.settings import GraderSettings

START_SECONDS = 300.0
"""Deadline for placing an actor on a busy cluster and building the OCaml programs on a node that has never graded."""

CLOSE_SECONDS = 10.0


class GraderDied(UngradableError):
    """The process of a grader died or never started."""


@dataclass(slots=True, eq=False)
class GraderReplica(Replica):
    """One grader of a pool."""

    actor_class: Any = field(kw_only=True)  # of Ray
    arguments: tuple[Any, ...] = field(kw_only=True)  # of the actor class
    sandbox: str = ""  # a line about the sandbox, once started

    async def start_actor(self) -> None:
        """Start an actor; raises ToolchainError, SandboxError, GraderDied, DeadlineExceeded."""
        self.actor = self.actor_class.remote(*self.arguments)
        self.sandbox = await result_of(
            self.actor.start.remote(), f"starting {self.name}", death_error=GraderDied, deadline_seconds=START_SECONDS
        )

    async def stop_actor(self) -> None:
        """End the actor's OCaml processes; an actor that has not started has none."""
        if self.actor is not None and self.state is not ReplicaState.STARTING:
            await result_of(
                self.actor.close.remote(),
                f"closing {self.name}",
                death_error=GraderDied,
                deadline_seconds=CLOSE_SECONDS,
            )


class GraderLifecycle(Lifecycle[GraderReplica]):
    """The graders of a pool. Lives in one event loop, after ``ray.init``."""

    def __init__(
        self, settings: GraderSettings, dispatcher: Dispatcher[GraderReplica], special_tokens: tuple[str, ...]
    ) -> None:
        """``special_tokens``: of the tokenizer of completions."""
        actor_class = ray.remote(
            num_cpus=settings.cpus_per_grader, max_restarts=0, runtime_env=without_secrets(os.environ)
        )(GraderActor)
        arguments = (settings, special_tokens)
        super().__init__(
            "grader",
            dispatcher,
            lambda name: GraderReplica(name=name, actor_class=actor_class, arguments=arguments),
        )
        self._none_ready_since: float | None = None  # monotonic seconds

    def fail_if_none_ready(self) -> None:
        """Fail the waiting completions if no grader has been ready for START_SECONDS."""
        now = time.monotonic()
        if self.dispatcher.num_ready:
            self._none_ready_since = None
        elif self._none_ready_since is None:
            self._none_ready_since = now
        elif now - self._none_ready_since >= START_SECONDS:
            last_error = max(self.replicas, key=lambda replica: replica.down_since).last_error
            self.dispatcher.fail_waiting(
                UngradableError(f"no grader has been ready for {START_SECONDS:g} s; last error: {last_error}")
            )

    def broken(self, error: BaseException) -> CaravanError:
        """Return the error of all further work when the pool's own code failed."""
        return UngradableError(f"the grader pool failed: {error!r}")
