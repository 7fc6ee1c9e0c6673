"""The one subclass of TRL's GRPOTrainer, and the only file that imports trl.

TRL keeps the loss, the clipping, the optimizer, the schedule and the checkpoints. What changes is where batches come from: the
samplers and graders of Caravan in place of TRL's own generation. Three seams carry that (all held by tests):

- ``get_train_dataloader`` gives the training loop our feed; one item of it is one optimizer step.
- ``training_step`` accumulates all micro-batches of the step, however many there are.
- ``_prepare_inputs``, where TRL would generate and score, only adds the reference's logprobs.

The ratio that is clipped compares the trainer's logprobs with the *sampler's* (TRL's ``old_per_token_logps``). So staleness and
the numerical difference of the two engines are both corrected for, and no second forward pass is needed to get there. With
``vllm_importance_sampling_correction`` the two are taken apart, as TRL does: the ratio to the policy at the start of the step is
clipped, and that policy's ratio to the sampler weighs the loss.

TRL takes means and quantiles over a micro-batch. Where one of the whole step is meant (the loss itself, the entropy bonus, the
entropy quantile, what is measured), the shares that learner.batch gives each micro-batch make it one.

Where several ranks share a step (learner.ranks), each computes some of its micro-batches. ``training_step`` is where they hear of
each other: what comes after it is computed on every rank, from the same gradients and measures.
"""

import json
import math
import random
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import trl.import_utils as trl_imports
from torch import Tensor
from transformers import PrinterCallback, set_seed

from cluster.errors import LearnerError
from learner.batch.policy_ratio import RatioStatistics, correction
from learner.batch.step_metrics import Measures, joined, of_the_step
from learner.batch.tensors import MicroBatch
from learner.settings import LearnerSettings
from learner.training.adapter import pack_adapter
from learner.training.checkpoints import write_files
from learner.training.divergence import Diverged
from learner.training.kl import AdaptiveKl
from learner.training.model import keeps_keys_and_values
from learner.training.process_group import ProcessGroup
from learner.training.sharding import shard_base
from learner.training.shared_prompt import alone, sharing_prompts

# TRL would import the whole of vLLM, seconds and 200 MB, for a client that the learner never uses.
trl_imports.is_vllm_available = lambda *_, **__: False
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer  # noqa: E402
from trl.trainer.utils import add_fused_lm_head  # noqa: E402

__all__ = [
    "GRPOConfig",
    "GRPOTrainer",
    "GroupTrainer",
    "SFTConfig",
    "SFTTrainer",
]  # the rest of the learner has TRL from here

# Without one of these a resumed run would not be the run that was interrupted.
CHECKPOINT_FILES = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")
RANDOM_STATE_FILE = "rng_state.pth"  # of rank 0, under TRL's name; that of rank 1 is in rng_state_1.pth, and so on
ADAPTIVE_KL_FILE = "adaptive_kl.json"  # once kl_coefficient was steered: its value for the next step


class GroupTrainer(GRPOTrainer):  # type: ignore[misc]
    """TRL's GRPO on batches that were sampled and graded elsewhere."""

    def __init__(
        self, *, feed: Iterable[list[MicroBatch]], settings: LearnerSettings, ranks: ProcessGroup, **trl_arguments: Any
    ) -> None:
        self._ranks = ranks
        self._shards_base = settings.shard_base  # read while the model is placed, which the next line does
        super().__init__(**trl_arguments)
        # The adapter is made, and the same on all ranks; what they draw from now on is their own.
        set_seed(self.args.seed + ranks.number)
        self.measured: Mapping[str, float] = {}  # what the last step measured, under TRL's names where TRL has one
        self._feed = feed
        self._settings = settings
        self._adaptive_kl = AdaptiveKl(settings.kl_coefficient)
        self.temperature: float  # that the fused head divides by; TRL has set it
        self._entropy_threshold: float | None = None  # nats; tokens below are not learned from; None: TRL finds its own
        self._ratio = RatioStatistics()
        self._trainer_logprobs = torch.empty(0)  # [B, T] of the micro-batch that was last computed
        # Checkpointed layers keep no keys and values; and ranks that share layers must all pass through them equally often.
        self.shares_prompts = (
            not settings.gradient_checkpointing
            and not settings.shard_base
            and keeps_keys_and_values(self.accelerator.unwrap_model(self.model))
        )
        self._prompts: dict[str, Tensor] | None = None  # which rows share a prompt; None: each is taken alone
        self.use_vllm = settings.vllm_importance_sampling_correction  # to TRL: weigh by the correction
        self.remove_callback(PrinterCallback)

    def use(self, settings: LearnerSettings) -> None:
        """Let settings that may change while running hold from the next step on; only between two steps."""
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
            shard_base(model, num_ranks=self._ranks.count, device_type=device.type)
        super()._move_model_to_device(model, device)

    def get_train_dataloader(self) -> Iterable[list[MicroBatch]]:
        """Our feed, one step per item; nothing of it is shuffled, skipped or prefetched."""
        return self._feed

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> Any:
        """Take the steps of the feed. Raises LearnerError where the checkpoint lacks a file, which TRL would do without."""
        if resume_from_checkpoint is not None:
            missing = [name for name in CHECKPOINT_FILES if not (Path(resume_from_checkpoint) / name).is_file()]
            if missing:
                raise LearnerError(f"it has no {', '.join(missing)}")
            steered = Path(resume_from_checkpoint) / ADAPTIVE_KL_FILE
            if steered.is_file():
                self._adaptive_kl = AdaptiveKl(json.loads(steered.read_text())["kl_coefficient"], was_steered=True)
        return super().train(resume_from_checkpoint, **kwargs)

    def training_step(self, model: Any, inputs: list[MicroBatch], num_items_in_batch: Any = None) -> Tensor:
        """Accumulate the gradient of all micro-batches of a step, none of them where nothing entered the loss.

        Raises Diverged where loss or gradient are no numbers or too large.
        """
        model.train()  # TRL's own does so too, but not for a rank without a micro-batch, whose measures it would misplace
        num_micro_batches = sum(self._ranks.all_gather(len(inputs)))
        if self._settings.vllm_importance_sampling_correction:
            self._correct(inputs)
        # Where one micro-batch is the step, TRL's own threshold is the step's.
        by_quantile = self.top_entropy_quantile < 1 and num_micro_batches > 1
        self._entropy_threshold = self._threshold_of(inputs) if by_quantile else None
        measures = joined(self._ranks.all_gather(self._computed(model, inputs, num_items_in_batch)))
        self._ratio = measures.ratio
        self._metrics["train"].clear()
        if num_micro_batches:
            self._sum_gradients()
            self._metrics["train"].update(
                of_the_step(measures, ratio_of_tokens=self.importance_sampling_level == "token")
            )
        loss = torch.tensor(measures.losses).sum().to(self.accelerator.device)
        self._check(loss)
        if num_micro_batches and self._settings.kl_target:
            self._adaptive_kl.observe(
                self._metrics["train"]["kl"][0],
                target=self._settings.kl_target,
                num_completions=measures.num_completions,
                horizon=self._settings.kl_horizon,
            )
        return loss

    def _computed(self, model: Any, micro_batches: list[MicroBatch], num_items_in_batch: Any) -> Measures:
        """Accumulate this rank's part of the step's gradient, and say what was measured on the way."""
        losses, ratio = [], RatioStatistics()
        counting = [each for each in micro_batches if each["weight"].item()]  # they come first
        for micro_batch in micro_batches:
            losses.append(super().training_step(model, micro_batch, num_items_in_batch))
            if len(losses) <= len(counting):
                ratio.add(self._trainer_logprobs, micro_batch["sampling_per_token_logps"], micro_batch["tool_mask"])
        return Measures(
            losses=[loss.item() for loss in losses[: len(counting)]],
            token_shares=[each["token_share"].item() for each in counting],
            row_shares=[each["row_share"].item() for each in counting],
            num_completions=sum(len(each["advantages"]) for each in counting),
            of_trl={name: values[: len(counting)] for name, values in self._metrics["train"].items()},
            ratio=ratio,
        )

    def _sum_gradients(self) -> None:
        """Give every rank the gradient of the whole step; one that had no micro-batch adds zeros."""
        if self._ranks.count == 1:
            return
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self._ranks.all_reduce([parameter.grad for parameter in parameters if parameter.grad is not None])

    def _prepare_inputs(self, generation_batch: MicroBatch) -> MicroBatch:
        micro_batch = self._placed(generation_batch)
        if self.beta != 0.0:
            with self.accelerator.unwrap_model(self.model).disable_adapter():
                micro_batch["ref_per_token_logps"], _ = self._scores(micro_batch)
        return micro_batch

    def compute_loss(
        self, model: Any, inputs: MicroBatch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """TRL's loss of a micro-batch, as its share of the step's."""
        # TRL's bonus is the mean over the micro-batch's tokens, whatever the loss is divided by.
        self.entropy_coef = self._settings.entropy_coef * (inputs["token_share"] / inputs["loss_share"]).item()
        loss: Tensor = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        return loss * inputs["loss_share"] * inputs["weight"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Keep what a step measured; the summary at the end of the training is not a step."""
        super().log(logs, start_time)
        if "grad_norm" in logs:
            # The feed has no epochs, the worker times whole steps, and the coefficient is that of the last micro-batch.
            of_trl_alone = ("epoch", "step_time", "policy_loss", "entropy_coef")
            measured = {name: value for name, value in logs.items() if name not in of_trl_alone and value is not None}
            self.measured = measured | self._ratio.metrics() | ({"kl_coefficient": self.beta} if self.beta else {})

    def random_state(self) -> bytes:
        """That of this rank, as ``save_to`` takes it; only between two steps."""
        with tempfile.TemporaryDirectory() as folder:
            super()._save_rng_state(folder)
            return (Path(folder) / RANDOM_STATE_FILE).read_bytes()

    def save_to(self, folder: Path, random_states_of_others: Sequence[bytes]) -> None:
        """Write adapter, optimizer, schedule, step and the random state of each rank, of which this is the first."""
        self.args.output_dir = str(folder.parent)
        self._save_checkpoint(self.model, trial=None)
        (folder.parent / f"checkpoint-{self.state.global_step}").rename(folder)
        for number, random_state in enumerate(random_states_of_others, start=1):
            (folder / _random_state_file(number)).write_bytes(random_state)
        if self._adaptive_kl.was_steered:
            state = {"kl_coefficient": self._adaptive_kl.coefficient}
            (folder / ADAPTIVE_KL_FILE).write_text(json.dumps(state))

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:  # noqa: ARG002
        """Write the adapter, which is all of the model that training changes, and ask neither the hub nor the tokenizer.

        What they could refuse to save is none of a checkpoint's business.
        """
        write_files(pack_adapter(self.model, dtype=torch.float32), Path(output_dir or self.args.output_dir))

    def score(self, token_ids: Sequence[int]) -> list[float]:
        """Logprobs at temperature 1 of each token but the first, given those before: ``[N]`` -> ``[N - 1]``.

        Without dropout, and so without touching the random state: scoring changes nothing of what is learned.
        """
        model = self.accelerator.unwrap_model(self.model)
        ids = torch.tensor([token_ids], device=self.accelerator.device)
        was_training = model.training
        model.eval()
        with torch.no_grad(), self.accelerator.autocast():
            scores = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
        model.train(was_training)
        found: list[float] = scores.gather(-1, ids[0, 1:, None])[:, 0].tolist()
        return found

    def training_gap(self, token_ids: Sequence[int]) -> float:
        """Mean difference, nats per token, of what the loss is computed from to the logits of the model (without adapter)."""
        model = self.accelerator.unwrap_model(self.model)
        ids = torch.tensor([token_ids], device=self.accelerator.device)
        with torch.no_grad(), self.accelerator.autocast(), model.disable_adapter(), torch.random.fork_rng():
            model.eval()
            logits = model(input_ids=ids).logits[0, :-1].float() / self.temperature
            model.train()
            found = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids, fused_lm_head=True).log_probs[
                0
            ]
        expected = logits.log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
        return float((found.float() - expected).abs().mean())

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Go on from this rank's own random state; a rank that the checkpoint does not know begins with a new one."""
        if checkpoint is None or self._ranks.number == 0:
            super()._load_rng_state(checkpoint)
            return
        own = Path(checkpoint) / _random_state_file(self._ranks.number)
        if not own.is_file():
            place = f"{self.args.seed} {self.state.global_step} {self._ranks.number}"
            set_seed(random.Random(place).getrandbits(32))
            return
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / RANDOM_STATE_FILE).write_bytes(own.read_bytes())
            super()._load_rng_state(folder)

    def checksum(self) -> int:
        """Of all bits of the adapter, computed where it lies."""
        bits = [each.detach().view(torch.int32) for each in self.model.parameters() if each.requires_grad]
        sums: list[int] = torch.stack([each.sum(dtype=torch.int64) for each in bits]).tolist()
        return sum(number * each for number, each in enumerate(sums, start=1))

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Leave it out: a checkpoint is no release."""

    def _send_telemetry(self) -> None:
        """Tell nobody: a learner opens no connection of its own."""

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if self._prompts is not None:
            model = sharing_prompts(model, num_completion_tokens=logits_to_keep, **self._prompts)
        else:
            model = alone(model)
        found = super()._get_per_token_logps_and_entropies(model, input_ids, attention_mask, logits_to_keep, **kwargs)
        self._trainer_logprobs = found[0].detach()
        return found  # type: ignore[no-any-return]

    def get_high_entropy_mask(self, entropies: Tensor, mask: Tensor, threshold: float) -> Tensor:
        """Which tokens have the highest entropies of the step; TRL's own are those of the micro-batch."""
        if self._entropy_threshold is None:
            found: Tensor = super().get_high_entropy_mask(entropies, mask, threshold)
            return found
        return (entropies >= self._entropy_threshold) & mask.bool()

    def _threshold_of(self, micro_batches: list[MicroBatch]) -> float:
        """The entropy that the chosen share of the step's tokens, those of all ranks, reaches."""
        found = [torch.empty(0)]
        for micro_batch in micro_batches:
            _, entropies = self._scores(self._placed(micro_batch))
            found.append(entropies.cpu()[micro_batch["tool_mask"].bool() & micro_batch["weight"].bool()].float())
        of_all = torch.cat(self._ranks.all_gather(torch.cat(found)))
        return of_all.quantile(1 - self.top_entropy_quantile).item()

    def _correct(self, micro_batches: list[MicroBatch]) -> None:
        """Have the ratio compare with the policy as it is before the step's first iteration, and weigh by the correction."""
        for micro_batch in micro_batches:
            if "importance_sampling_ratio" not in micro_batch:
                logprobs, _ = self._scores(self._placed(micro_batch))
                micro_batch["old_per_token_logps"] = logprobs.cpu()
                micro_batch["importance_sampling_ratio"] = correction(
                    logprobs.cpu(),
                    micro_batch["sampling_per_token_logps"],
                    micro_batch["tool_mask"],
                    mode=self._settings.vllm_importance_sampling_mode,
                    smallest=self._settings.vllm_importance_sampling_clip_min,
                    largest=self._settings.vllm_importance_sampling_clip_max,
                )

    def _placed(self, micro_batch: MicroBatch) -> MicroBatch:
        """The micro-batch on the learner's device, which is made ready for its forward passes."""
        placed = {name: tensor.to(self.accelerator.device) for name, tensor in micro_batch.items()}
        self._prompts = self._shareable_prompts(placed)
        self._take_logprobs_at(micro_batch["temperature"].item())
        return placed

    def _scores(self, micro_batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Logprobs and entropies ``[B, T]`` under the model as it is, without dropout and gradient."""
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

    def _take_logprobs_at(self, temperature: float) -> None:
        """Have the model's fused head, which TRL makes for one temperature, divide by this one."""
        if temperature != self.temperature:
            model = self.accelerator.unwrap_model(self.model).get_base_model()
            del model.forward  # the fused one stands before the class's own
            add_fused_lm_head(model, temperature=temperature, outputs=("log_probs", "entropy"))
            self.temperature = temperature

    def _set_peak_learning_rate(self, peak: float) -> None:
        """Scale the schedule to another peak; how far it has come stays as it is."""
        schedule = self.lr_scheduler
        schedule.base_lrs = [peak] * len(schedule.base_lrs)
        schedule._last_lr = [peak * factor(schedule.last_epoch) for factor in schedule.lr_lambdas]
        for group, rate in zip(self.optimizer.param_groups, schedule._last_lr, strict=True):
            group["lr"] = rate

    def _shareable_prompts(self, micro_batch: MicroBatch) -> dict[str, Tensor] | None:
        """Arguments for sharing_prompts; None where each row must be computed on its own."""
        first_rows, prompt_of_row = micro_batch["first_rows"], micro_batch["prompt_of_row"]
        every_row_differs = len(first_rows) == len(prompt_of_row)
        a_prompt_is_too_short = bool((micro_batch["prompt_mask"].sum(dim=1) < 2).any())
        if every_row_differs or a_prompt_is_too_short or not self.shares_prompts:
            return None
        return {"first_rows": first_rows, "prompt_of_row": prompt_of_row}

    def _check(self, loss: Tensor) -> None:
        """Raise Diverged where the step must not be taken."""
        settings = self._settings
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients).item()
        kl = self._metrics["train"]["kl"][0] if self._metrics["train"].get("kl") else 0.0
        trouble = None
        if not math.isfinite(loss.item()) or not math.isfinite(norm):
            trouble = f"loss {loss.item()}, gradient norm {norm}"
        elif settings.stop_at_grad_norm is not None and norm > settings.stop_at_grad_norm:
            trouble = f"gradient norm {norm:.4g}, above learner.stop_at_grad_norm={settings.stop_at_grad_norm:g}"
        elif settings.stop_at_kl is not None and not kl <= settings.stop_at_kl:
            trouble = f"KL divergence {kl:.4g}, above learner.stop_at_kl={settings.stop_at_kl:g}"
        if trouble:
            raise Diverged(
                f"step {self.state.global_step + 1} diverged: {trouble}. The step was not taken and the checkpoints are intact; "
                "go on from the last one with a lower learner.learning_rate or learner.max_grad_norm, or a higher "
                "learner.kl_coefficient"
            )


def _random_state_file(rank: int) -> str:
    """Of a rank but the first, whose file TRL writes and reads."""
    return f"rng_state_{rank}.pth"
