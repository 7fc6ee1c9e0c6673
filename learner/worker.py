"""The learner in one process: groups in, policy versions out. ``learner.actor`` runs it in a Ray actor.

With several ranks, each is a worker of its own; all get the same calls with the same arguments.
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
from learner.batch.rank_assignment import assign_to_ranks, idle_share, plan_for_ranks
from learner.batch.selection import select
from learner.batch.tensors import MicroBatch, micro_batch_tensors, pad_with_zero_weight
from learner.overrides import apply_overrides
from learner.plan import LearnerPlan
from learner.settings import LearnerSettings
from learner.training.adapter import load_weights, pack_adapter, trained_modules
from learner.training.build import build_trainer
from learner.training.checkpoints import checkpoint_error, newest_checkpoint, step_of, write_adapter, write_checkpoint
from learner.training.full import FullModel, check_is_full, pack_weights
from learner.training.gpu_memory import limit_gpu_memory
from learner.training.model import choose_device, load_model
from learner.training.process_group import SINGLE_RANK, ProcessGroup
from learner.training.training_thread import BatchQueue, TrainingThread

TRAINING_GAP_NATS = {torch.float32: 1e-3, torch.bfloat16: 0.05}
"""Allowed mean difference between log-probabilities in training and in sampling, by the dtype of the weights."""

CLOSE_SECONDS = 30  # deadline of close() for a running step


class LearnerWorker:
    """Holds the model and trains on groups. Calls block and must not overlap."""

    def __init__(self, settings: LearnerSettings, plan: LearnerPlan, process_group: ProcessGroup = SINGLE_RANK) -> None:
        self._settings = settings
        self._plan = plan
        self._process_group = process_group
        self._training: TrainingThread | None = None
        self._trainer: Any = None

    def start(self) -> PolicyVersion | None:
        """Load the model and the newest complete checkpoint, or the initial adapter; return its policy, None without both.

        Raises ModelError, or LearnerError if the checkpoint does not fit the settings.
        """
        checkpoint = newest_checkpoint(self._plan.checkpoints_dir)
        step = step_of(checkpoint) if checkpoint else 0
        self._device = choose_device(self._settings)
        if not self._device.use_cpu and self._settings.gpu_memory_share is not None:
            limit_gpu_memory(self._settings.gpu_memory_share)
        model = self._load_model(checkpoint)
        batches = BatchQueue(num_batches=max(0, self._plan.max_steps - step) * self._settings.num_iterations)
        self._trainer = build_trainer(
            model,
            self._tokenizer,
            settings=self._settings,
            plan=self._plan,
            device=self._device,
            batches=batches,
            process_group=self._process_group,
        )
        if checkpoint is None and self._plan.initial_adapter is not None:
            load_weights(self._trainer.model, self._plan.initial_adapter)
        self._training = TrainingThread(self._trainer, batches, prepare_thread=self._set_num_threads)
        self._training.start(str(checkpoint) if checkpoint else None)
        # The first call returns when training has started: the optimizer is created and the checkpoint is loaded.
        try:
            policy = self._training.run(self._policy)
            if policy.number != step:
                raise LearnerError("it was written with a different learner.num_iterations")
        except LearnerError as error:
            if checkpoint is None:
                raise
            raise _cannot_resume(checkpoint, error) from error
        self._check_training_gap()
        self._training.run(
            lambda: self._check_ranks_agree(
                "started with", f"check that {self._plan.model} is the same model on all their machines"
            )
        )
        return policy if checkpoint or self._plan.initial_adapter else None

    def _load_model(self, checkpoint: Path | None) -> Any:
        """Load the model, or all its weights from the checkpoint of a run that trains them, and the tokenizer."""
        if self._settings.method == "lora":
            model, self._tokenizer = load_model(
                self._plan.model, self._device, keep_dropout=False, quantization=self._settings.quantization
            )
            return model

        def load(name: str) -> tuple[Any, Any]:
            return load_model(name, self._device, keep_dropout=False, weights_dtype=torch.float32)

        if checkpoint is not None:
            try:
                check_is_full(checkpoint)
            except LearnerError as error:
                raise _cannot_resume(checkpoint, error) from error
        model, self._tokenizer = load(str(checkpoint or self._plan.model))
        return FullModel(model, lambda: load(self._plan.model)[0])

    def step(
        self, groups: Sequence[Group], active_overrides: Mapping[str, Any] = MappingProxyType({})
    ) -> tuple[PolicyVersion, StepReport]:
        """Train on whole groups: ``num_iterations`` optimizer steps, with the metrics of the last.

        ``active_overrides``: settings for this step, see learner.overrides. If they exclude every completion, the step changes
        nothing but still counts. Raises Diverged, and LearnerError when no completion can be trained on and after the run's
        ``max_steps``.
        """
        start = time.perf_counter()
        training = self._running()
        settings = apply_overrides(self._settings, active_overrides)
        step = training.run(self._step_number)
        selection = select(
            groups,
            settings=settings,
            learner_version=step,
            max_staleness=self._plan.max_staleness,
            temperature=self._plan.temperature,
        )
        plans = plan_for_ranks(
            selection.rows,
            num_ranks=self._process_group.world_size,
            max_padded_tokens=settings.micro_batch_tokens,
            shares_prompts=self._trainer.shares_prompts,
        )
        micro_batches = self._micro_batches_of_rank(plans, settings)
        for _ in range(settings.num_iterations):
            training.run(lambda: self._trainer.apply_settings(settings))
            training.take_step(micro_batches)
        training.run(
            lambda: self._check_ranks_agree(
                "computed", "use machines of one kind, with the same packages, for all ranks"
            )
        )
        policy, metrics = training.run(lambda: (self._policy(), dict(self._trainer.step_metrics)))
        metrics |= {
            "num_completions": float(len(selection.rows)),
            "stale_token_share": selection.stale_share,
            "num_micro_batches": float(len(plans)),
            "padding_share": padding_share(plans),
            "seconds": time.perf_counter() - start,
        }
        if self._process_group.world_size > 1:
            metrics["rank_idle_share"] = idle_share(plans, self._process_group.world_size)
        return policy, StepReport(
            step=policy.number,
            metrics=metrics,
            advantages={row.completion_id: row.advantage for row in selection.rows},
            excluded=selection.excluded,
        )

    def _micro_batches_of_rank(self, plans: Sequence[MicroBatchPlan], settings: LearnerSettings) -> list[MicroBatch]:
        """Build the tensors of the step and return those of this rank."""
        micro_batches = micro_batch_tensors(
            plans, pad_token_id=self._tokenizer.pad_token_id, loss_type=settings.loss_type
        )
        by_rank = assign_to_ranks(plans, self._process_group.world_size)
        own = [micro_batches[index] for index in by_rank[self._process_group.rank]]
        if not settings.shard_base or not plans:
            return own
        smallest = min(range(len(plans)), key=lambda index: plans[index].num_padded_tokens)
        return pad_with_zero_weight(own, micro_batches[smallest], max(map(len, by_rank)))

    def save_checkpoint(self) -> str | None:
        """Write adapter, optimizer, schedule, random states and step, and return the folder; only rank 0 writes."""
        return self._running().run(self._save)

    def adapter_files(self) -> dict[str, bytes]:
        """Return the files of a PEFT folder, or of a whole model with its tokenizer, in float32, as it is trained."""
        return self._running().run(self._trainer.files)

    def export_adapter(self, folder: str) -> None:
        """Write ``adapter_files`` into a folder; raises LearnerError when that fails."""
        write_adapter(self.adapter_files(), Path(folder))

    def base_probes(self) -> tuple[ProbePrompt, ...]:
        """Score the plan's probe prompts under the base model, without changing the random state."""
        return self._running().run(lambda: self._probes(under_base=True))

    def describe(self) -> str:
        """Describe how the forward pass is computed, in one line for the log."""
        attention = self._trainer.model.config.get_text_config()._attn_implementation
        place = "the CPU" if self._device.use_cpu else torch.cuda.get_device_name()
        quantized = f", base model in {self._settings.quantization}" if self._settings.quantization else ""
        return (
            f"learner: {str(self._device.dtype).removeprefix('torch.')} on {place}{quantized}, attention by {attention}"
        )

    def close(self) -> None:
        """End the training; may be called twice."""
        if self._training is not None:
            self._training.close(CLOSE_SECONDS)

    def _policy(self) -> PolicyVersion:
        if isinstance(self._trainer.model, FullModel):
            # In the samplers' dtype: checksums of the same numbers can be compared exactly.
            dtype = getattr(torch, self._plan.served_dtype or "float32")
            # Only rank 0 publishes; every rank has the same weights.
            files, sums = pack_weights(self._trainer.model, dtype) if self._process_group.rank == 0 else ({}, {})
            return PolicyVersion(
                number=self._step_number(),
                adapter=files,
                modules=tuple(sums),
                weight_sums=sums,
                probes=self._probes(),
            )
        # Samplers cast the adapter to the dtype of their weights; casting it here halves the bytes to send.
        adapter = pack_adapter(self._trainer.model, dtype=self._device.dtype)
        return PolicyVersion(
            number=self._step_number(),
            adapter=adapter,
            modules=trained_modules(self._trainer.model),
            probes=self._probes(),
        )

    def _probes(self, *, under_base: bool = False) -> tuple[ProbePrompt, ...]:
        ids = self._plan.probe_ids
        scores = self._trainer.score(ids, under_base=under_base) if ids else []
        return tuple(
            ProbePrompt(token_ids=token_ids, logprobs=tuple(logprobs))
            for token_ids, logprobs in zip(ids, scores, strict=True)
        )

    def _check_training_gap(self) -> None:
        """Raise ModelError for a model whose log-probabilities in training differ from those in sampling."""
        ids = self._plan.probe_ids
        if not ids:
            return
        gap = self._running().run(lambda: self._trainer.training_gap(ids[0]))
        tolerance = TRAINING_GAP_NATS[self._device.dtype]
        if not gap <= tolerance:
            raise ModelError(
                f"model {self._plan.model!r} cannot be trained: its log-probabilities in training are {gap:.2g} nats per token "
                f"away from those in sampling (rounding explains at most {tolerance:g}), so every ratio would be wrong; some "
                "architectures choose experts at random in training, or scale their logits in a way that TRL does not know"
            )

    def _step_number(self) -> int:
        number: int = self._trainer.state.global_step // self._settings.num_iterations
        return number

    def _check_ranks_agree(self, verb: str, advice: str) -> None:
        """Raise LearnerError, on every rank, unless all have the same adapter after the same number of steps."""
        if self._process_group.world_size == 1:
            return
        states = self._process_group.all_gather((self._step_number(), self._trainer.checksum()))
        if len(set(states)) > 1:
            steps = ", ".join(str(step) for step, _ in states)
            raise LearnerError(f"the learner's ranks {verb} different adapters (after steps {steps}): {advice}")

    def _save(self) -> str | None:
        others = self._process_group.all_gather(self._trainer.random_state() if self._process_group.rank > 0 else b"")[
            1:
        ]
        if self._process_group.rank > 0:
            return None
        try:
            folder = write_checkpoint(
                self._plan.checkpoints_dir,
                self._step_number(),
                lambda draft: self._trainer.save_to(draft, others),
                keep=self._settings.save_total_limit,
            )
        # A full disk raises OSError in Python, RuntimeError in torch and SafetensorError in safetensors.
        except (OSError, RuntimeError, SafetensorError) as error:
            raise checkpoint_error(self._plan.checkpoints_dir, error) from error
        return str(folder)

    def _running(self) -> TrainingThread:
        if self._training is None:
            raise LearnerError("the learner has not been started")
        return self._training

    def _set_num_threads(self) -> None:
        torch.set_num_threads(self._settings.num_threads)


def _cannot_resume(checkpoint: Path, error: LearnerError) -> LearnerError:
    return LearnerError(
        f"cannot resume from {checkpoint}: {error}. Use the settings that it was written with (learner.method and learner.lora "
        "above all), or move it away to resume from the previous one"
    )
