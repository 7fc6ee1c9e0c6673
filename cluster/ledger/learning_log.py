"""``learning.log``: one line per step in the format of the two training analyses; writing and parsing."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping

_NUMBER = r"\s*(-?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|nan|inf))"
_LINE = re.compile(
    rf"\[Epoch {_NUMBER}\]\s+loss={_NUMBER}\s+grad={_NUMBER}\s+lr={_NUMBER}\s+reward={_NUMBER}±{_NUMBER}"
    rf"\s+syntax_rew={_NUMBER}±{_NUMBER}\s+entropy={_NUMBER}\s+frac_zero_std={_NUMBER}\s*"
)
_NAMES = (
    "epoch",
    "loss",
    "grad_norm",
    "learning_rate",
    "reward",
    "reward_std",
    "syntax_reward",
    "reward_batch_std",
    "entropy",
    "frac_zero_std",
)


def learning_log_line(epoch: float, metrics: Mapping[str, float]) -> str:
    """Return one line of learning.log; a metric that was not measured is ``nan``.

    ``reward`` is followed by the mean standard deviation within groups, ``syntax_rew`` by that of the batch, as in TRL's logs.
    The loss has the same width with and without a sign, as in the first analysis.
    """

    def number(name: str, form: str) -> str:
        return format(metrics.get(name, math.nan), form)

    return (
        f"[Epoch {epoch:.2f}]  loss={number('loss', '<7.4f')}  grad={number('grad_norm', '.4f')}  "
        f"lr={number('learning_rate', '.2e')}  reward={number('reward', '.3f')}±{number('reward_std', '.3f')}  "
        f"syntax_rew={number('reward', '.3f')}±{number('reward_batch_std', '.3f')}  "
        f"entropy={number('entropy', '.3f')}  frac_zero_std={number('frac_zero_std', '.2f')}"
    )


def read_learning_log(lines: Iterable[str]) -> Iterator[dict[str, float]]:
    """Yield the metrics of each line under the names of metrics.jsonl, with steps from 1; other lines are skipped.

    This lets `caravan health` check a run of another trainer that writes the same format.
    """
    step = 0
    for line in lines:
        found = _LINE.fullmatch(line.strip())
        if not found:
            continue
        metrics = dict(zip(_NAMES, map(float, found.groups()), strict=True))
        if not math.isfinite(metrics["epoch"]):
            continue
        step += 1
        del metrics["syntax_reward"]  # the same mean again
        if math.isnan(metrics["entropy"]):  # not every trainer measures it
            del metrics["entropy"]
        yield {"step": float(step), **metrics}
