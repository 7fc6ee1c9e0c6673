"""Logprob gaps between samplers and learner under the base model: measured once per run and kept in its directory.

They are the rounding noise of the run's machines and model, from which the tolerance of every policy follows
(``rollout/weight_sync.py``). A resumed run uses them again; without the file, or in other precisions, they are measured again.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from cluster.config.config import Config
from cluster.console import View
from cluster.errors import RunFolderError
from cluster.ledger.run_folder import RunFolder
from cluster.placement.scale_requests import ScalableSamplerPool
from cluster.types import ProbeGap, Prompt
from rollout.weight_sync import tolerance, typical_gap

if TYPE_CHECKING:
    from learner.client import RayLearner

NUM_PROBES = 16
PROBE_TOKENS = 64
"""All probe prompts together take samplers and learner as long as one long prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseGaps:
    """Probe prompts of a run, and the gap of each under the base model."""

    sampler_dtype: str
    learner_dtype: str
    token_ids: tuple[tuple[int, ...], ...]
    gaps: tuple[ProbeGap, ...]

    @classmethod
    def read(cls, folder: RunFolder) -> "BaseGaps | None":
        """Return the saved gaps of an earlier start of the run, or None. Raises RunFolderError for a broken file."""
        if not folder.base_gaps.exists():
            return None
        try:
            row = json.loads(folder.base_gaps.read_text(encoding="utf-8"))
            return cls(
                sampler_dtype=row["sampler_dtype"],
                learner_dtype=row["learner_dtype"],
                token_ids=tuple(tuple(ids) for ids in row["token_ids"]),
                gaps=tuple(ProbeGap(**gap) for gap in row["gaps"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunFolderError(
                f"{folder.base_gaps} cannot be read ({error}): delete it, and the run measures the base model again"
            ) from None

    def fits(self, config: Config) -> bool:
        """Return True if samplers and learner still compute in the measured precisions; another placement may change them."""
        return (self.sampler_dtype, self.learner_dtype) == (config.rollout.served_dtype, config.learner.computed_dtype)


def choose_probes(prompts: Sequence[Prompt]) -> tuple[tuple[int, ...], ...]:
    """Choose the tokens of the probe prompts, all of one length: the first token and the last tokens of evenly spaced prompts.

    The first token is begin-of-text in many models, which compute poorly without it. The ends of prompts differ most.
    """
    lengths = sorted((len(prompt.token_ids) for prompt in prompts), reverse=True)[:NUM_PROBES]
    size = min(PROBE_TOKENS, lengths[-1])
    long = [prompt.token_ids for prompt in prompts if len(prompt.token_ids) >= size]
    spaced = long[:: max(1, len(long) // NUM_PROBES)][:NUM_PROBES]
    return tuple(dict.fromkeys((ids[0], *ids[len(ids) - size + 1 :]) for ids in spaced))


async def set_tolerance(
    samplers: ScalableSamplerPool,
    learner: "RayLearner",
    saved: BaseGaps | None,
    folder: RunFolder,
    config: Config,
    view: View,
) -> None:
    """Set the samplers' tolerance of policies, from ``saved`` gaps or from newly measured gaps, which are written to ``folder``.

    Call it before any policy is published. Raises ModelError for a base model that samplers and learner compute differently.
    """
    if saved and saved.fits(config):
        nats = tolerance(config.rollout, saved.gaps)
        view.log(f"policies are verified up to {nats:.1e} nats per token, as at the start of the run")
    else:
        probes = await learner.base_probes()
        gaps = await samplers.base_gaps(probes)
        measured = BaseGaps(
            sampler_dtype=config.rollout.served_dtype,
            learner_dtype=config.learner.computed_dtype,
            token_ids=tuple(probe.token_ids for probe in probes),
            gaps=gaps,
        )
        folder.write(folder.base_gaps, json.dumps(asdict(measured)))
        nats = tolerance(config.rollout, gaps)
        view.log(
            f"samplers and learner agree about the base model: {typical_gap(gaps):.1e} nats per token apart on {len(gaps)} probe "
            f"prompts; policies are verified up to {nats:.1e}"
        )
    samplers.set_tolerance(nats)
