"""Options of TRL's GRPOConfig that the ``learner`` section refuses, with the reason or the key to use instead."""

_RENAMED = {
    "beta": "learner.kl_coefficient",
    "bf16": "learner.dtype=bfloat16 (or float32)",
    "bf16_full_eval": "learner.dtype",
    "chat_template_kwargs": "prompt.chat_template_kwargs",
    "data_seed": "run.seed",
    "fsdp": "learner.shard_base",
    "fsdp_config": "learner.shard_base",
    "max_completion_length": "rollout.max_completion_tokens",
    "max_steps": "loop.max_steps",
    "num_generations": "rollout.group_size",
    "num_generations_eval": "evaluation.completions_per_problem",
    "num_train_epochs": "loop.epochs",
    "per_device_train_batch_size": "learner.micro_batch_tokens (and loop.groups_per_step for the size of a step)",
    "generation_batch_size": "loop.groups_per_step",
    "gradient_checkpointing_kwargs": "learner.gradient_checkpointing, which has no arguments",
    "torch_empty_cache_steps": "learner.micro_batch_tokens, if memory is short",
    "save_steps": "loop.save_every_steps",
    "seed": "run.seed",
    "temperature": "rollout.temperature",
    "use_cpu": "learner.gpus=0",
    "vllm_gpu_memory_utilization": "the rollout section",
    "vllm_importance_sampling_cap": "learner.vllm_importance_sampling_clip_max",
    "vllm_max_model_length": "rollout.max_prompt_tokens and rollout.max_completion_tokens",
    "vllm_tensor_parallel_size": "the rollout section",
    "reward_weights": "grader.weights",
    "run_name": "run.name",
}

_REASONS = {
    "completions are sampled by the rollout section's samplers, and the driver orders the batches": (
        "cache_implementation", "dataloader_drop_last", "dataloader_in_order",
        "dataloader_multiprocessing_context", "dataloader_num_workers", "dataloader_persistent_workers",
        "dataloader_pin_memory", "dataloader_prefetch_factor", "ds3_gather_for_generation", "generation_kwargs",
        "ignore_data_skip", "label_names", "length_column_name", "max_tool_calling_iterations", "min_p",
        "pad_to_multiple_of", "remove_unused_columns", "repetition_penalty", "shuffle_dataset", "steps_per_generation",
        "top_k", "top_p", "train_sampling_strategy", "transformers_continuous_batching_config",
        "use_transformers_continuous_batching", "use_transformers_paged", "use_vllm", "vllm_enable_sleep_mode",
        "vllm_group_port", "vllm_mode", "vllm_model_impl", "vllm_server_base_url", "vllm_server_host",
        "vllm_server_port", "vllm_server_timeout", "vllm_structured_outputs_regex",
    ),
    "a step is the sum of its micro-batches: set loop.groups_per_step and learner.micro_batch_tokens": (
        "auto_find_batch_size", "average_tokens_across_devices", "gradient_accumulation_steps",
    ),
    "the learner gets one reward per completion; the grader section weights its terms": (
        "multi_objective_aggregation",
    ),
    "the reference policy is the base model of model.path, which never changes": (
        "ref_model_mixup_alpha", "ref_model_sync_steps", "sync_ref_model",
    ),
    "TRL's entropy controller counts micro-batches as steps; change learner.entropy_coef with a schedule instead": (
        "entropy_coef_delta", "entropy_coef_max", "entropy_coef_min", "entropy_target", "use_adaptive_entropy",
    ),
    "the model is loaded as model.path defines it, in learner.dtype": (
        "cast_lm_head_to_fp32", "fp16", "fp16_full_eval", "model_init_kwargs", "router_aux_loss_coef", "tf32",
        "trust_remote_code", "liger_kernel_config", "use_liger_kernel", "torch_compile", "torch_compile_backend",
        "torch_compile_mode", "use_cache", "full_determinism",
    ),
    "only the adapter has dropout: set learner.lora.dropout=0": ("disable_dropout",),
    "it does not apply to GRPO of an adapter": (
        "label_smoothing_factor", "neftune_noise_alpha", "optim_target_modules",
    ),
    "the optimizer has learner.adam_beta1, adam_beta2, adam_epsilon and weight_decay": ("optim_args",),
    "evaluation is set in the evaluation section": (
        "batch_eval_metrics", "do_eval", "do_predict", "eval_accumulation_steps", "eval_delay", "eval_do_concat_batches",
        "eval_on_start", "eval_steps", "eval_strategy", "eval_use_gather_object", "include_for_metrics",
        "per_device_eval_batch_size", "prediction_loss_only",
    ),
    "every step is logged in the run directory": (
        "disable_tqdm", "include_num_input_tokens_seen", "log_completions", "log_completions_hub_repo", "log_level",
        "log_level_replica", "log_multimodal", "log_on_each_node", "log_unique_prompts", "logging_first_step",
        "logging_nan_inf_filter", "logging_steps", "logging_strategy", "num_completions_to_print", "project", "report_to",
        "skip_memory_metrics", "trackio_bucket_id", "trackio_space_id", "trackio_static_space_id", "debug",
    ),
    "the loop writes checkpoints into the run directory, and the same command resumes from the newest": (
        "do_train", "enable_jit_checkpoint", "greater_is_better", "load_best_model_at_end", "metric_for_best_model",
        "output_dir", "restore_callback_states_from_checkpoint", "resume_from_checkpoint", "save_on_each_node",
        "save_only_model", "save_strategy",
    ),
    "training uploads nothing: use `caravan export --push-to-hub`": (
        "hub_always_push", "hub_model_id", "hub_private_repo", "hub_revision", "hub_strategy", "hub_token", "push_to_hub",
    ),
    "Ray places the learner's processes: learner.num_ranks sets their number": (
        "accelerator_config", "ddp_backend", "ddp_broadcast_buffers", "ddp_bucket_cap_mb", "ddp_find_unused_parameters",
        "ddp_static_graph", "ddp_timeout", "deepspeed", "local_rank", "parallelism_config",
    ),
}  # fmt: skip

REFUSED: dict[str, str] = {
    **{name: f"use {key}" for name, key in _RENAMED.items()},
    **{name: reason for reason, names in _REASONS.items() for name in names},
}
"""Key below ``learner`` -> reason of the refusal."""
