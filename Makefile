# `make demo` and `make test` set everything up first; `make setup` is quick when nothing is missing.
.PHONY: setup cpu-setup demo test test-long test-gpu-code test-gpu check format tiny-model real-model bench bench-grader bench-ledger bench-learner bench-rollout bench-pipeline bench-driver bench-swap bench-publish bench-noise bench-memory soak-grader

setup:
	@requirements/setup

demo: setup
	.venv/bin/caravan train -c configs/demo.yaml

# The tests compute on the CPU, with the CPU packages. On a machine with a GPU, or with the GPU packages in .venv, the CPU packages
# are in .venv-cpu.
TEST_VENV := $(shell (nvidia-smi -L || ls -d .venv/lib/*/site-packages/vllm-[0-9]*.dist-info) >/dev/null 2>&1 && echo .venv-cpu || echo .venv)
PYTEST = CUDA_VISIBLE_DEVICES= $(TEST_VENV)/bin/pytest -n 2 --dist loadfile --no-loadscope-reorder

test: cpu-setup
	@echo "tests: on the CPU, with the CPU packages in $(TEST_VENV)"
	$(PYTEST) -m "not long"

# Whole runs that are scaled, killed, resumed, submitted and spread over several machines.
test-long: cpu-setup
	$(PYTEST) -m long --ignore=tests/gpu --ignore=tests/gpu_packages

# Tests of code for GPUs, without a GPU: with the GPU packages (9 GB in a scratch environment, or in the environment that
# CARAVAN_GPU_ENV names), and in Triton's interpreter.
test-gpu-code: cpu-setup $(TEST_VENV)/triton
	$(PYTEST) -m long tests/gpu tests/gpu_packages
	$(PYTEST) -m model_runner --model-runner v2 tests/rollout tests/learner
	$(PYTEST) -m model_runner --model-runner v2-async tests/rollout tests/learner/test_learner_and_sampler.py

cpu-setup:
	@CARAVAN_DEVICE=cpu CARAVAN_VENV=$(TEST_VENV) requirements/setup

$(TEST_VENV)/triton: requirements/gpu.txt | cpu-setup
	$(TEST_VENV)/bin/python -m pip install --quiet --no-deps --upgrade --target $@ $$(grep '^triton==' requirements/gpu.txt)
	@touch $@

# The acceptance suite of a GPU machine (docs/gpu.md). Without a GPU, its checks run on the CPU as far as they can.
test-gpu: setup
	.venv/bin/pytest tests/gpu --gpu-report gpu-acceptance $(OPTIONS)

check: setup
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

format: setup
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

tiny-model: setup
	.venv/bin/python -m cluster.models.tiny

# Prints the folder of SmolLM2-135M-Instruct, which the first call downloads to the cache (docs/real-model.md).
real-model: setup
	@.venv/bin/python -m tests.real_model

# Each benchmark prints one line of JSON at its end.
bench: bench-grader bench-ledger bench-learner bench-rollout bench-pipeline bench-driver bench-swap bench-publish bench-noise bench-memory

bench-grader: setup
	@.venv/bin/python -m benchmarks.grader $(OPTIONS)

bench-ledger: setup
	@.venv/bin/python -m benchmarks.ledger $(OPTIONS)

bench-learner: setup
	@.venv/bin/python -m benchmarks.learner $(OPTIONS)

bench-rollout: setup
	@.venv/bin/python -m benchmarks.rollout $(OPTIONS)

bench-pipeline: setup
	@.venv/bin/python -m benchmarks.pipeline $(OPTIONS)

bench-driver: setup
	@.venv/bin/python -m benchmarks.driver $(OPTIONS)

bench-swap: setup
	@.venv/bin/python -m benchmarks.swap $(OPTIONS)

bench-publish: setup
	@.venv/bin/python -m benchmarks.publish_stall $(OPTIONS)

bench-noise: setup
	@.venv/bin/python -m benchmarks.weight_sync_noise $(OPTIONS)

bench-memory: setup
	@.venv/bin/python -m benchmarks.memory $(OPTIONS)

soak-grader: setup
	@.venv/bin/python -m benchmarks.grader_soak $(OPTIONS)
