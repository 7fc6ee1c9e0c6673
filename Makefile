# The door. `make demo` and `make test` set everything up first; `make setup` is quick when nothing is missing.
.PHONY: setup demo test check format tiny-model bench bench-grader bench-ledger bench-learner bench-rollout bench-pipeline bench-swap soak-grader

setup:
	@requirements/setup

demo: setup
	.venv/bin/caravan train -c configs/demo.yaml

test: setup
	.venv/bin/pytest -n 2 --dist loadfile --no-loadscope-reorder

check: setup
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

format: setup
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

tiny-model: setup
	.venv/bin/python -m cluster.models.tiny

# Each ends with one line of JSON.
bench: bench-grader bench-ledger bench-learner bench-rollout bench-pipeline bench-swap

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

bench-swap: setup
	@.venv/bin/python -m benchmarks.swap $(OPTIONS)

soak-grader: setup
	@.venv/bin/python -m benchmarks.grader_soak $(OPTIONS)
