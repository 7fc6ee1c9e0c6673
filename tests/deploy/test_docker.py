"""``deploy/Dockerfile`` compared with the rest of the project."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def test_the_image_is_made_by_the_set_up_that_everybody_uses() -> None:
    steps = (DEPLOY / "Dockerfile").read_text()
    assert "FROM python:3.11-" in steps
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"] == ">=3.11"
    assert "RUN CARAVAN_DEVICE=$DEVICE requirements/setup" in steps
    # What the image takes from the folder must hold what the set-up and a run read.
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    assert not {"assets", "configs", "requirements", "cluster", "grader", "learner", "rollout", "pyproject.toml"} & set(
        ignored
    )
