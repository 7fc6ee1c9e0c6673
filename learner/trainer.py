"""The one subclass of TRL's GRPOTrainer, and the only file that imports trl.

TRL keeps the loss, the clipping, the optimizer, the schedule and the checkpoints. What changes is where batches come from: the
samplers and graders of Caravan in place of TRL's own generation. Three seams carry that (all held by tests):

- ``get_train_dataloader`` gives the training loop our feed; one item of it is one optimizer step.
- ``training_step`` accumulates all micro-batches of the step, however many there are.
- ``_prepare_inputs``, where TRL would generate and score, only adds the reference's logprobs.

The ratio that is clipped compares the trainer's logprobs with the *sampler's* (TRL's ``old_per_token_logps``). So staleness and
the numerical difference of the two engines are both corrected for, and no second forward pass is needed to get there.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import trl.import_utils as trl_imports
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor
from transformers import PrinterCallback

from cluster.types import LearnerError
from learner.batch import MicroBatch
from learner.model import Place
from learner.plan import LearnerPlan
from learner.ratio import RatioStatistics
from learner.settings import LearnerSettings, LoraSettings
from learner.shared_prompt import sharing_prompts

# TRL would import the whole of vLLM, seconds and 200 MB, for a client that the learner never uses.
trl_imports.is_vllm_available = lambda *_, **__: False
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

# Without one of these a resumed run would not be the run that was interrupted.
CHECKPOINT_FILES = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


class GroupTrainer(GRPOTrainer):  # type: ignore[misc]
    """TRL's GRPO on batches that were sampled and graded elsewhere."""

    def __init__(self, *, feed: Iterable[list[MicroBatch]], **trl_arguments: Any) -> None:
        super().__init__(**trl_arguments)
        self.measured: Mapping[str, float] = {}  # what the last step measured, under TRL's names where TRL has one
        self._feed = feed
        self._ratio = RatioStatistics()
        self._trainer_logprobs = torch.empty(0)  # [B, T] of the micro-batch that was last computed
        self._prompts: dict[str, Tensor] | None = None  # which rows share a prompt; None: each is taken alone
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> Iterable[list[MicroBatch]]:
        """Our feed, one step per item; nothing of it is shuffled, skipped or prefetched."""
        return self._feed

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> Any:
        """Take the steps of the feed. Raises LearnerError where the checkpoint lacks a file, which TRL would do without."""
        if resume_from_checkpoint is not None:
            missing = [name for name in CHECKPOINT_FILES if not (Path(resume_from_checkpoint) / name).is_file()]
            if missing:
                raise LearnerError(f"it has no {', '.join(missing)}")
        return super().train(resume_from_checkpoint, **kwargs)

    def training_step(self, model: Any, inputs: list[MicroBatch], num_items_in_batch: Any = None) -> Tensor:
        """Accumulate the gradient of all micro-batches of a step; raises LearnerError where it is not finite."""
        self._ratio = RatioStatistics()
        losses = []
        for micro_batch in inputs:
            losses.append(super().training_step(model, micro_batch, num_items_in_batch))
            self._ratio.add(self._trainer_logprobs, micro_batch["old_per_token_logps"], micro_batch["tool_mask"])
        loss = torch.stack(losses).sum()
        self._check_finite(loss)
        return loss

    def _prepare_inputs(self, generation_batch: MicroBatch) -> MicroBatch:
        micro_batch = {name: tensor.to(self.accelerator.device) for name, tensor in generation_batch.items()}
        self._prompts = self._shareable_prompts(micro_batch)
        if self.beta != 0.0:
            micro_batch["ref_per_token_logps"] = self._reference_logprobs(micro_batch)
        return micro_batch

    def compute_loss(
        self, model: Any, inputs: MicroBatch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """TRL's loss of a micro-batch, as its share of the step's."""
        loss: Tensor = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        return loss * inputs["loss_share"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Keep what a step measured; the summary at the end of the training is not a step."""
        super().log(logs, start_time)
        if "grad_norm" in logs:
            of_the_loop = ("epoch", "step_time")  # the feed has no epochs, and the worker times whole steps
            measured = {name: value for name, value in logs.items() if name not in of_the_loop and value is not None}
            self.measured = measured | self._ratio.metrics()

    def save_to(self, folder: Path) -> None:
        """Write adapter, optimizer, schedule, random state and step; only between two steps."""
        self.args.output_dir = str(folder.parent)
        self._save_checkpoint(self.model, trial=None)
        (folder.parent / f"checkpoint-{self.state.global_step}").rename(folder)

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

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Leave it out: a checkpoint is no release."""

    def _send_telemetry(self) -> None:
        """Tell nobody: a learner opens no connection of its own."""

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if self._prompts is not None:
            model = sharing_prompts(model, num_completion_tokens=logits_to_keep, **self._prompts)
        found = super()._get_per_token_logps_and_entropies(model, input_ids, attention_mask, logits_to_keep, **kwargs)
        self._trainer_logprobs = found[0].detach()
        return found  # type: ignore[no-any-return]

    def _reference_logprobs(self, micro_batch: MicroBatch) -> Tensor:
        """Logprobs ``[B, T]`` of the model without its adapter."""
        tokens, mask = (
            torch.cat([micro_batch[f"prompt_{name}"], micro_batch[f"completion_{name}"]], dim=1)
            for name in ("ids", "mask")
        )
        with torch.no_grad(), self.accelerator.unwrap_model(self.model).disable_adapter():
            logprobs, _, _ = self._get_per_token_logps_and_entropies(
                self.model, tokens, mask, micro_batch["completion_ids"].size(1)
            )
        return logprobs

    def _shareable_prompts(self, micro_batch: MicroBatch) -> dict[str, Tensor] | None:
        """Arguments for sharing_prompts; None where each row must be computed on its own."""
        first_rows, prompt_of_row = micro_batch["first_rows"], micro_batch["prompt_of_row"]
        every_row_differs = len(first_rows) == len(prompt_of_row)
        a_prompt_is_too_short = bool((micro_batch["prompt_mask"].sum(dim=1) < 2).any())
        # Checkpointed layers keep no keys and values.
        if every_row_differs or a_prompt_is_too_short or self.args.gradient_checkpointing:
            return None
        return {"first_rows": first_rows, "prompt_of_row": prompt_of_row}

    def _check_finite(self, loss: Tensor) -> None:
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise LearnerError(
                f"step {self.state.global_step + 1} diverged: loss {loss.item()}, gradient norm {norm.item()}. The step was not "
                "taken and the checkpoints are intact; go on from the last one with a lower learner.learning_rate or "
                "learner.max_grad_norm"
            )


def build_trainer(
    model: Any,
    tokenizer: Any,
    *,
    settings: LearnerSettings,
    plan: LearnerPlan,
    place: Place,
    feed: Iterator[list[MicroBatch]],
) -> GroupTrainer:
    """A trainer whose ``train()`` takes one optimizer step per item of ``feed``.

    Raises LearnerError where TRL or PEFT refuses the settings.
    """
    try:
        return GroupTrainer(
            feed=feed,
            model=model,
            processing_class=tokenizer,
            args=_arguments(settings, plan, place),
            peft_config=_lora(settings.lora),
            # TRL insists on a source of prompts and one of rewards; it reads neither here.
            train_dataset=Dataset.from_dict({"prompt": [""]}),
            reward_funcs=_no_reward,
        )
    except ValueError as error:
        raise LearnerError(f"the learner cannot be set up for model {plan.model!r}: {error}") from error


def _arguments(settings: LearnerSettings, plan: LearnerPlan, place: Place) -> GRPOConfig:
    return GRPOConfig(
        output_dir=str(plan.checkpoints_dir),
        max_steps=plan.max_steps * settings.num_iterations,
        seed=plan.seed,
        temperature=plan.temperature,
        max_completion_length=plan.max_completion_tokens,
        loss_type=settings.loss_type,
        epsilon=settings.epsilon,
        beta=settings.kl_coefficient,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_scheduler_type,
        warmup_steps=settings.warmup_steps,
        max_grad_norm=settings.max_grad_norm,
        gradient_checkpointing=settings.gradient_checkpointing,
        use_cpu=place.use_cpu,
        bf16=place.dtype == torch.bfloat16,
        # Micro-batches are ours (training_step): to TRL a step is one pass, and the sizes below are never read.
        gradient_accumulation_steps=1,
        per_device_train_batch_size=2,
        num_generations=2,
        # A resumed run is fed by the driver, which knows where it was; replaying the feed would drop steps.
        ignore_data_skip=True,
        # A loss that is not a number must be seen, not smoothed over.
        logging_nan_inf_filter=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def _lora(settings: LoraSettings) -> LoraConfig:
    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        bias=settings.bias,
        target_modules=list(settings.target_modules),
        task_type="CAUSAL_LM",
    )


def _no_reward(**_: Any) -> list[float]:
    raise LearnerError(
        "TRL asked for a reward, but completions arrive graded: a seam of learner/trainer.py no longer holds"
    )
