"""The subclass of TRL's GRPOTrainer, and the only file that imports trl.

TRL keeps the loss, the clipping, the optimizer, the schedule and the checkpoints. Batches come from Caravan's samplers and
graders instead of TRL's generation. Three overridden methods do that; tests cover each:

- ``get_train_dataloader`` returns the batch queue; one item of it is one optimizer step.
- ``training_step`` accumulates the gradients of all micro-batches of the step.
- ``_prepare_inputs``, where TRL would generate and score, only adds the reference logprobs.

The clipped ratio compares the trainer's logprobs with the *sampler's* (TRL's ``old_per_token_logps``). This corrects for
staleness and for the numerical difference of the two engines, without a second forward pass.
``vllm_importance_sampling_correction`` splits the ratio in two, as in TRL: the clipped one is the current policy to the policy
at the start of the step; the other, the policy at the start of the step to the sampler's, weights the loss.

TRL takes means and quantiles over a micro-batch. Caravan needs them over the step: for the loss, the entropy bonus, the entropy
quantile and the metrics. Means are weighted with the micro-batch's shares of the step (learner.batch); the quantile is computed
over all micro-batches (``_step_entropy_threshold``).

If several ranks share a step (learner.training.process_group), each computes some of its micro-batches. They exchange gradients
and metrics in ``training_step``; every rank computes the rest of the step from the same values.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import trl.import_utils as trl_imports
from peft.helpers import disable_input_dtype_casting
from torch import Tensor
from transformers import PrinterCallback, set_seed

from learner.batch.policy_ratio import RatioStatistics, importance_weights
from learner.batch.step_metrics import MicroBatchMetrics, concatenate, reduce_to_step
from learner.batch.tensors import MicroBatch
from learner.settings import LearnerSettings
from learner.training.checkpoint_files import CheckpointFiles
from learner.training.divergence import check_divergence
from learner.training.full import FullModel
from learner.training.kl import AdaptiveKl
from learner.training.model import has_plain_kv_cache
from learner.training.probe import fused_logprobs, training_gap
from learner.training.process_group import ProcessGroup
from learner.training.sharding import shard_base
from learner.training.shared_prompt import with_position_ids, with_shared_prompts

# TRL would import all of vLLM (seconds, 200 MB) for a client that the learner does not use.
trl_imports.is_vllm_available = lambda *_, **__: False
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer  # noqa: E402
from trl.trainer.utils import add_fused_lm_head  # noqa: E402

# The rest of the learner imports TRL's classes from here.
__all__ = ["GRPOConfig", "GRPOTrainer", "GroupTrainer", "SFTConfig", "SFTTrainer"]


class GroupTrainer(CheckpointFiles, GRPOTrainer):  # type: ignore[misc]
    """TRL's GRPO on batches from Caravan's samplers and graders."""

    def __init__(
        self,
        *,
        batches: Iterable[list[MicroBatch]],
        settings: LearnerSettings,
        process_group: ProcessGroup,
        **trl_arguments: Any,
    ) -> None:
        self._process_group = process_group
        self._shards_base = settings.shard_base  # read in the next line, which moves the model to its device
        super().__init__(**trl_arguments)
        self.beta = settings.kl_coefficient  # TRL gets none for a FullModel: it would load a reference of its own
        if isinstance(self.model, FullModel):
            del self.model.forward  # TRL's fused head is for the model inside
            self.model.set_head(self._add_head)
        # The new adapter is the same on all ranks; later random draws differ by rank.
        set_seed(self.args.seed + process_group.rank)
        self.step_metrics: Mapping[str, float] = {}  # of the last step, under TRL's names if TRL has one
        self._batches = batches
        self._settings = settings
        self._adaptive_kl = AdaptiveKl(settings.kl_coefficient)
        self.temperature: float  # of the fused head; TRL sets it
        self._entropy_threshold: float | None = None  # nats; tokens below are masked; None: TRL's own
        self._ratio = RatioStatistics()
        self._trainer_logprobs = torch.empty(0)  # [B, T] of the last micro-batch
        # Gradient checkpointing keeps no keys and values; sharding needs the same number of forward passes on all ranks.
        self.shares_prompts = (
            not settings.gradient_checkpointing
            and not settings.shard_base
            and has_plain_kv_cache(self.accelerator.unwrap_model(self.model))
        )
        self._prompts: dict[str, Tensor] | None = None  # arguments of with_shared_prompts; None: no sharing
        self.use_vllm = settings.vllm_importance_sampling_correction  # makes TRL apply importance weights
        self.remove_callback(PrinterCallback)

    def apply_settings(self, settings: LearnerSettings) -> None:
        """Apply the settings that may change during a run, from the next step on. Call it only between two steps."""
        self._settings = settings
        self.beta = self._adaptive_kl.coefficient if settings.kl_target else settings.kl_coefficient
        self.epsilon_low = settings.epsilon
        self.epsilon_high = settings.epsilon if settings.epsilon_high is None else settings.epsilon_high
        self.top_entropy_quantile = settings.top_entropy_quantile
        self.off_policy_mask_threshold = settings.off_policy_mask_threshold
        self._entropy_bonus_enabled = settings.entropy_coef > 0
        self.args.delta = settings.delta
        self.args.max_grad_norm = settings.max_grad_norm
        self._set_peak_learning_rate(settings.learning_rate)

    def _move_model_to_device(self, model: Any, device: torch.device) -> None:
        if self._shards_base:
            shard_base(model, num_ranks=self._process_group.world_size, device_type=device.type)
        super()._move_model_to_device(model, device)

    def get_train_dataloader(self) -> Iterable[list[MicroBatch]]:
        """Return the batch queue, one step per item, without shuffling, skipping or prefetching."""
        return self._batches

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> Any:
        """Take the steps of the batch queue. Raises LearnerError if the checkpoint lacks a file, which TRL would ignore."""
        if resume_from_checkpoint is not None:
            self.check_checkpoint(Path(resume_from_checkpoint))
            self._adaptive_kl = self.saved_kl(Path(resume_from_checkpoint)) or self._adaptive_kl
        # PEFT would cast the input of each adapter to float32, and autocast back to bfloat16: copies that are kept for the
        # backward pass. Without autocast the input has the adapter's dtype.
        with disable_input_dtype_casting(self.model, active=self.args.bf16):
            return super().train(resume_from_checkpoint, **kwargs)

    def training_step(self, model: Any, inputs: list[MicroBatch], num_items_in_batch: Any = None) -> Tensor:
        """Accumulate the gradients of all micro-batches of a step; there are none when no completion enters the loss.

        Raises Diverged when loss or gradient are not finite or too large.
        """
        model.train()  # TRL does so per micro-batch; a rank without one would log its metrics as evaluation
        num_micro_batches = sum(self._process_group.all_gather(len(inputs)))
        if self._settings.vllm_importance_sampling_correction:
            self._add_importance_weights(inputs)
        # With a single micro-batch, TRL's quantile is already that of the step.
        by_quantile = self.top_entropy_quantile < 1 and num_micro_batches > 1
        self._entropy_threshold = self._step_entropy_threshold(inputs) if by_quantile else None
        metrics = concatenate(
            self._process_group.all_gather(self._accumulate_gradients(model, inputs, num_items_in_batch))
        )
        self._ratio = metrics.ratio
        self._metrics["train"].clear()
        if num_micro_batches:
            self._sum_gradients()
            self._metrics["train"].update(
                reduce_to_step(metrics, ratio_per_token=self.importance_sampling_level == "token")
            )
        loss = torch.tensor(metrics.losses).sum().to(self.accelerator.device)
        self._check(loss)
        if num_micro_batches and self._settings.kl_target:
            self._adaptive_kl.observe(
                self._metrics["train"]["kl"][0],
                target=self._settings.kl_target,
                num_completions=metrics.num_completions,
                horizon=self._settings.kl_horizon,
            )
        return loss

    def _accumulate_gradients(
        self, model: Any, micro_batches: list[MicroBatch], num_items_in_batch: Any
    ) -> MicroBatchMetrics:
        """Accumulate this rank's part of the step's gradient, and return its metrics."""
        losses, ratio = [], RatioStatistics()
        # Padding micro-batches have weight 0 and come last.
        weighted = [micro_batch for micro_batch in micro_batches if micro_batch["weight"].item()]
        for micro_batch in micro_batches:
            losses.append(super().training_step(model, micro_batch, num_items_in_batch))
            if len(losses) <= len(weighted):
                ratio.add(self._trainer_logprobs, micro_batch["sampling_per_token_logps"], micro_batch["tool_mask"])
        return MicroBatchMetrics(
            losses=[loss.item() for loss in losses[: len(weighted)]],
            token_shares=[micro_batch["token_share"].item() for micro_batch in weighted],
            row_shares=[micro_batch["row_share"].item() for micro_batch in weighted],
            num_completions=sum(len(micro_batch["advantages"]) for micro_batch in weighted),
            trl_metrics={name: values[: len(weighted)] for name, values in self._metrics["train"].items()},
            ratio=ratio,
        )

    def _sum_gradients(self) -> None:
        """Sum the gradients over all ranks; a rank without a micro-batch adds zeros."""
        if self._process_group.world_size == 1:
            return
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self._process_group.all_reduce([parameter.grad for parameter in parameters if parameter.grad is not None])

    def _prepare_inputs(self, generation_batch: MicroBatch) -> MicroBatch:
        micro_batch = self._to_device(generation_batch)
        if self.beta != 0.0:
            with self.accelerator.unwrap_model(self.model).disable_adapter():
                micro_batch["ref_per_token_logps"], _ = self._logprobs_and_entropies(micro_batch)
        return micro_batch

    def compute_loss(
        self, model: Any, inputs: MicroBatch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """Return the micro-batch's share of the step's loss."""
        # TRL's entropy bonus is the mean over the micro-batch's tokens, for every loss type.
        self.entropy_coef = self._settings.entropy_coef * (inputs["token_share"] / inputs["loss_share"]).item()
        loss: Tensor = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        return loss * inputs["loss_share"] * inputs["weight"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Keep the metrics of a step; TRL also logs a summary at the end of training."""
        super().log(logs, start_time)
        if "grad_norm" in logs:
            # The queue has no epochs, the worker times whole steps, and the coefficient is that of the last micro-batch.
            skipped = ("epoch", "step_time", "policy_loss", "entropy_coef")
            measured = {name: value for name, value in logs.items() if name not in skipped and value is not None}
            self.step_metrics = measured | self._ratio.metrics() | ({"kl_coefficient": self.beta} if self.beta else {})

    def score(self, token_ids: Sequence[Sequence[int]], *, under_base: bool = False) -> list[list[float]]:
        """Score rows of equal length ``[P, N]``: the logprobs at temperature 1 of all tokens but the first, ``[P, N - 1]``.

        ``under_base``: without the adapter. Dropout is off and the random state untouched: scoring does not change the training.
        """
        self._set_temperature(1.0)  # each micro-batch sets its own again
        model = self.accelerator.unwrap_model(self.model)
        is_base = isinstance(model, FullModel) and self.state.global_step == 0  # no reference is loaded for it
        without_adapter = model.disable_adapter() if under_base and not is_base else nullcontext()
        with self.accelerator.autocast(), without_adapter:
            logprobs: list[list[float]] = fused_logprobs(model, token_ids).tolist()
        if isinstance(model, FullModel) and self.beta == 0:
            model.drop_reference()
        return logprobs

    def training_gap(self, token_ids: Sequence[int]) -> float:
        """Mean difference between the loss's logprobs and those of the model's logits, without adapter, in nats per token."""
        self._set_temperature(self.args.temperature)
        with self.accelerator.autocast():
            return training_gap(self.accelerator.unwrap_model(self.model), token_ids, temperature=self.args.temperature)

    def checksum(self) -> int:
        """Checksum of all bits of the adapter, computed on its device."""
        bits = [
            parameter.detach().view(torch.int32) for parameter in self.model.parameters() if parameter.requires_grad
        ]
        sums: list[int] = torch.stack([values.sum(dtype=torch.int64) for values in bits]).tolist()
        return sum(number * total for number, total in enumerate(sums, start=1))

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write no model card: a checkpoint is not a release."""

    def _send_telemetry(self) -> None:
        """Send no telemetry."""

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if self._prompts is not None:
            model = with_shared_prompts(model, num_completion_tokens=logits_to_keep, **self._prompts)
        else:
            model = with_position_ids(model)
        scores = super()._get_per_token_logps_and_entropies(model, input_ids, attention_mask, logits_to_keep, **kwargs)
        self._trainer_logprobs = scores[0].detach()
        return scores  # type: ignore[no-any-return]

    def get_high_entropy_mask(self, entropies: Tensor, mask: Tensor, threshold: float) -> Tensor:
        """Mask of the tokens with the highest entropies of the step; TRL's mask is per micro-batch."""
        if self._entropy_threshold is None:
            mask_of_micro_batch: Tensor = super().get_high_entropy_mask(entropies, mask, threshold)
            return mask_of_micro_batch
        return (entropies >= self._entropy_threshold) & mask.bool()

    def _step_entropy_threshold(self, micro_batches: list[MicroBatch]) -> float:
        """Return the entropy quantile over the step's tokens of all ranks; only tokens from it upward are trained."""
        entropies_of_rank = [torch.empty(0)]
        for micro_batch in micro_batches:
            _, entropies = self._logprobs_and_entropies(self._to_device(micro_batch))
            entropies_of_rank.append(
                entropies.cpu()[micro_batch["tool_mask"].bool() & micro_batch["weight"].bool()].float()
            )
        all_entropies = torch.cat(self._process_group.all_gather(torch.cat(entropies_of_rank)))
        return all_entropies.quantile(1 - self.top_entropy_quantile).item()

    def _add_importance_weights(self, micro_batches: list[MicroBatch]) -> None:
        """Add the logprobs of the policy before the step's first iteration, and that policy's importance weights."""
        for micro_batch in micro_batches:
            if "importance_sampling_ratio" not in micro_batch:
                logprobs, _ = self._logprobs_and_entropies(self._to_device(micro_batch))
                micro_batch["old_per_token_logps"] = logprobs.cpu()
                micro_batch["importance_sampling_ratio"] = importance_weights(
                    logprobs.cpu(),
                    micro_batch["sampling_per_token_logps"],
                    micro_batch["tool_mask"],
                    mode=self._settings.vllm_importance_sampling_mode,
                    clip_min=self._settings.vllm_importance_sampling_clip_min,
                    clip_max=self._settings.vllm_importance_sampling_clip_max,
                )

    def _to_device(self, micro_batch: MicroBatch) -> MicroBatch:
        """Move the micro-batch to the device, and set prompt sharing and temperature for its forward passes."""
        moved = {name: tensor.to(self.accelerator.device) for name, tensor in micro_batch.items()}
        self._prompts = self._shareable_prompts(moved)
        self._set_temperature(micro_batch["temperature"].item())
        return moved

    def _logprobs_and_entropies(self, micro_batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Logprobs and entropies ``[B, T]`` under the current model, without dropout and gradient."""
        tokens, mask = (
            torch.cat([micro_batch[f"prompt_{name}"], micro_batch[f"completion_{name}"]], dim=1)
            for name in ("ids", "mask")
        )
        was_training = self.model.training
        self.model.eval()
        with torch.no_grad():
            logprobs, entropies, _ = self._get_per_token_logps_and_entropies(
                self.model, tokens, mask, micro_batch["completion_ids"].size(1), compute_entropy=True
            )
        self.model.train(was_training)
        assert entropies is not None
        return logprobs, entropies

    def _set_temperature(self, temperature: float) -> None:
        """Replace the model's fused head, which TRL builds for one temperature, by one for this temperature."""
        if temperature != self.temperature:
            self.temperature = temperature
            model = self.accelerator.unwrap_model(self.model)
            if isinstance(model, FullModel):
                model.set_head(self._add_head)
            else:
                del model.get_base_model().forward  # the fused forward, which hides the class's
                self._add_head(model.get_base_model())

    def _add_head(self, model: Any) -> None:
        add_fused_lm_head(model, temperature=self.temperature, outputs=("log_probs", "entropy"))

    def _set_peak_learning_rate(self, peak: float) -> None:
        """Scale the schedule to another peak, without changing its position."""
        schedule = self.lr_scheduler
        schedule.base_lrs = [peak] * len(schedule.base_lrs)
        schedule._last_lr = [peak * factor(schedule.last_epoch) for factor in schedule.lr_lambdas]
        for group, rate in zip(self.optimizer.param_groups, schedule._last_lr, strict=True):
            group["lr"] = rate

    def _shareable_prompts(self, micro_batch: MicroBatch) -> dict[str, Tensor] | None:
        """Arguments of with_shared_prompts; None if no prompt can be shared."""
        first_rows, prompt_of_row = micro_batch["first_rows"], micro_batch["prompt_of_row"]
        every_row_differs = len(first_rows) == len(prompt_of_row)
        a_prompt_is_too_short = bool((micro_batch["prompt_mask"].sum(dim=1) < 2).any())
        if every_row_differs or a_prompt_is_too_short or not self.shares_prompts:
            return None
        return {"first_rows": first_rows, "prompt_of_row": prompt_of_row}

    def _check(self, loss: Tensor) -> None:
        """Raise Diverged for a step that must not be taken."""
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        kl = self._metrics["train"].get("kl")
        check_divergence(
            self._settings,
            step=self.state.global_step + 1,
            loss=loss.item(),
            gradient_norm=torch.nn.utils.get_total_norm(gradients).item(),
            kl=kl[0] if kl else None,
        )
