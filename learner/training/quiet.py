"""Keeps the libraries under the learner from talking: their progress bars and advice would bury the run's own lines."""

import os
import warnings

ENVIRONMENT = {
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}


def silence_libraries() -> None:
    """Call it before torch, transformers or trl are imported; what goes wrong is raised, not logged, so nothing is missed."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore")
