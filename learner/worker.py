"""The learner itself, in one process: groups in, policy versions out. ``learner.client`` puts it into a Ray actor.

Where several ranks share the steps, each is a worker of its own, and is called as all others are, with the same arguments.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError

from cluster.errors import LearnerError, ModelError
from cluster.types import Group, PolicyVersion, ProbePrompt, StepReport
from learner.batch.micro_batches import MicroBatchPlan, padding_share
from learner.batch.rank_assignment import idle_share, plan_for_ranks, shares
from learner.batch.selection import select
from learner.batch.tensors import MicroBatch, micro_batches, padded
from learner.overrides import apply_overrides
from learner.plan import LearnerPlan
from learner.settings import LearnerSettings
from learner.training.adapter import pack_adapter, trained_modules
from learner.training.build import build_trainer
from learner.training.checkpoints import checkpoint_error, newest_checkpoint, step_of, write_adapter, write_checkpoint
from learner.training.model import choose_device, load_model
from learner.training.process_group import SINGLE_RANK, ProcessGroup
from learner.training.training_thread import BatchQueue, TrainingThread

TRAINING_GAP_NATS = {torch.float32: 1e-3, torch.bfloat16: 0.05}
"""The largest mean difference of two ways to compute the same log-probabilities, by the dtype of the weights."""

JOIN_SECONDS = 30  # how long close() waits for a step that is under way


class LearnerWorker:
    """Holds the model, and takes a step when it is given groups. Its calls block; they come one at a time."""

    def __init__(self, settings: LearnerSettings, plan: LearnerPlan, ranks: ProcessGroup = SINGLE_RANK) -> None:
        self._settings = settings
        self._plan = plan
        self._ranks = ranks
        self._loop: TrainingThread | None = None
        self._trainer: Any = None

    def start(self) -> PolicyVersion | None:
        """Load the model and the newest complete checkpoint; return its policy, None where there is none.

        Raises ModelError, or LearnerError where the checkpoint does not fit the settings.
        """
        checkpoint = newest_checkpoint(self._plan.checkpoints_dir)
        step = step_of(checkpoint) if checkpoint else 0
        self._place = choose_device(self._settings)
        model, self._tokenizer = load_model(self._plan.model, self._place, noise=False)
        feed = BatchQueue(num_batches=max(0, self._plan.max_steps - step) * self._settings.num_iterations)
        self._trainer = build_trainer(
            model,
            self._tokenizer,
            settings=self._settings,
            plan=self._plan,
            place=self._place,
            feed=feed,
            ranks=self._ranks,
        )
        self._loop = TrainingThread(self._trainer, feed, prepare_thread=self._use_threads)
        self._loop.start(str(checkpoint) if checkpoint else None)
        # Its first answer says that training has begun: the optimizer is made, the checkpoint is loaded.
        try:
            policy = self._loop.run(self._policy)
            if policy.number != step:
                raise LearnerError("it was written with another learner.num_iterations")
        except LearnerError as error:
            if checkpoint is None:
                raise
            raise LearnerError(
                f"cannot go on from {checkpoint}: {error}. Start with the settings that it was written with (learner.lora above "
                "all), or move it away to go on from the one before"
            ) from error
        self._check_training_gap()
        self._loop.run(
            lambda: self._agree(
                "began with",
                f"is {self._plan.model} one model on all their machines?",
            )
        )
        return policy if checkpoint else None

    def step(
        self, groups: Sequence[Group], active_overrides: Mapping[str, Any] = MappingProxyType({})
    ) -> tuple[PolicyVersion, StepReport]:
        """Train on whole groups: one optimizer step, or ``num_iterations``; what is measured is measured in the last.

        ``active_overrides``: settings for this step, see learner.overrides. Where they leave nothing to train on, the step is
        a no-op that counts. Raises Diverged where its numbers go wrong, LearnerError where nothing can be learned from, and after
        the run's ``max_steps``.
        """
        began = time.perf_counter()
        loop = self._running_loop()
        settings = apply_overrides(self._settings, active_overrides)
        step = loop.run(self._step_number)
        selection = select(
            groups,
            settings=settings,
            learner_version=step,
            max_staleness=self._plan.max_staleness,
            temperature=self._plan.temperature,
        )
        cuts = plan_for_ranks(
            selection.rows,
            num_ranks=self._ranks.count,
            max_padded_tokens=settings.micro_batch_tokens,
            shares_prompts=self._trainer.shares_prompts,
        )
        share = self._share(cuts, settings)
        for _ in range(settings.num_iterations):
            loop.run(lambda: self._trainer.use(settings))
            loop.take_step(share)
        loop.run(lambda: self._agree("computed", "are their machines of one kind, with the same packages?"))
        policy, measured = loop.run(lambda: (self._policy(), dict(self._trainer.measured)))
        measured |= {
            "num_completions": float(len(selection.rows)),
            "stale_token_share": selection.stale_share,
            "num_micro_batches": float(len(cuts)),
            "padding_share": padding_share(cuts),
            "seconds": time.perf_counter() - began,
        }
        if self._ranks.count > 1:
            measured["rank_idle_share"] = idle_share(cuts, self._ranks.count)
        return policy, StepReport(
            step=policy.number,
            metrics=measured,
            advantages={row.completion_id: row.advantage for row in selection.rows},
            excluded=selection.excluded,
        )

    def _share(self, cuts: Sequence[MicroBatchPlan], settings: LearnerSettings) -> list[MicroBatch]:
        """What this rank computes of a step."""
        batch = micro_batches(cuts, pad_token_id=self._tokenizer.pad_token_id, loss_type=settings.loss_type)
        of_ranks = shares(cuts, self._ranks.count)
        own = [batch[index] for index in of_ranks[self._ranks.number]]
        if not settings.shard_base or not cuts:
            return own
        smallest = min(range(len(cuts)), key=lambda index: cuts[index].num_padded_tokens)
        return padded(own, batch[smallest], max(map(len, of_ranks)))

    def save_checkpoint(self) -> str | None:
        """Write adapter, optimizer, schedule, random states and step; return the folder. Rank 0 writes, for all."""
        return self._running_loop().run(self._save)

    def adapter_files(self) -> dict[str, bytes]:
        """The adapter as the files of a PEFT folder, in the precision in which it is trained."""
        return self._running_loop().run(lambda: pack_adapter(self._trainer.model, dtype=torch.float32))

    def export_adapter(self, folder: str) -> None:
        """Write ``adapter_files`` into a folder; raises LearnerError where that cannot be."""
        write_adapter(self.adapter_files(), Path(folder))

    def probe(self) -> ProbePrompt | None:
        """The probe prompt as the current policy scores it, which touches no random state; None where the plan has none."""
        return self._running_loop().run(self._probe)

    def close(self) -> None:
        """End the training; may be called twice."""
        if self._loop is not None:
            self._loop.close(JOIN_SECONDS)

    def _policy(self) -> PolicyVersion:
        # Samplers cast an adapter to the precision of their weights anyway; casting it here halves what is sent.
        adapter = pack_adapter(self._trainer.model, dtype=self._place.dtype)
        return PolicyVersion(
            number=self._step_number(),
            adapter=adapter,
            modules=trained_modules(self._trainer.model),
            probe=self._probe(),
        )

    def _probe(self) -> ProbePrompt | None:
        ids = self._plan.probe_ids
        return ProbePrompt(token_ids=ids, logprobs=tuple(self._trainer.score(ids))) if ids else None

    def _check_training_gap(self) -> None:
        """Raise ModelError for a model whose loss would be computed from other log-probabilities than it samples with."""
        ids = self._plan.probe_ids
        if not ids:
            return
        gap = self._running_loop().run(lambda: self._trainer.training_gap(ids))
        tolerance = TRAINING_GAP_NATS[self._place.dtype]
        if not gap <= tolerance:
            raise ModelError(
                f"model {self._plan.model!r} cannot be trained: its log-probabilities in training are {gap:.2g} nats per token "
                f"away from those that it samples with (at most {tolerance:g} are rounding), so that every ratio is off; some "
                "architectures choose experts at random in training, or scale their logits in a way that TRL does not know"
            )

    def _step_number(self) -> int:
        number: int = self._trainer.state.global_step // self._settings.num_iterations
        return number

    def _agree(self, did: str, question: str) -> None:
        """Raise LearnerError, on every rank, where ranks do not hold the same adapter after the same number of steps."""
        if self._ranks.count == 1:
            return
        found = self._ranks.all_gather((self._step_number(), self._trainer.checksum()))
        if len(set(found)) > 1:
            steps = ", ".join(str(step) for step, _ in found)
            raise LearnerError(f"the learner's ranks {did} different adapters (after steps {steps}): {question}")

    def _save(self) -> str | None:
        others = self._ranks.all_gather(self._trainer.random_state() if self._ranks.number > 0 else b"")[1:]
        if self._ranks.number > 0:
            return None
        try:
            folder = write_checkpoint(
                self._plan.checkpoints_dir,
                self._step_number(),
                lambda draft: self._trainer.save_to(draft, others),
                keep=self._settings.save_total_limit,
            )
        # A full disk is an OSError to Python, but torch and safetensors each have a word of their own for it.
        except (OSError, RuntimeError, SafetensorError) as error:
            raise checkpoint_error(self._plan.checkpoints_dir, error) from error
        return str(folder)

    def _running_loop(self) -> TrainingThread:
        if self._loop is None:
            raise LearnerError("the learner has not been started")
        return self._loop

    def _use_threads(self) -> None:
        torch.set_num_threads(self._settings.num_threads)
