"""The model card of an exported run."""

import json
from pathlib import Path

from cluster.config.config import Config, flatten
from cluster.config.load import load_config
from cluster.ledger.run_folder import RunFolder
from cluster.models.export_card import card

CHANGES = [
    "model.path=some/model",
    "temperature=1.1",
    "lora.r=8",
    "lr_scheduler_type=cosine_with_min_lr",
    "lr_scheduler_kwargs={min_lr_rate: 0.1}",
    "schedule=[{from_step: 3, set: {rollout.temperature: 1.2}}]",
    "run.name=demo",
]


def card_of_run(run: Path, config: Config) -> str:
    run.mkdir()
    (run / "metrics.jsonl").write_text(json.dumps({"step": 1, "epoch": 0.5, "reward": 0.25}) + "\n")
    return card(RunFolder(run), config, step=1, written_dtype=None, base="some/model")


def test_the_configuration_of_a_card_works_when_it_is_copied_to_a_file(tmp_path: Path) -> None:
    config = load_config(None, CHANGES, environment={})
    file = tmp_path / "copied.yaml"
    file.write_text(card_of_run(tmp_path / "run", config).partition("```yaml\n")[2].partition("```")[0])
    assert flatten(load_config(file, environment={})) == flatten(config)
