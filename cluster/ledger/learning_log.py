"""``learning.log``: a line per step, as the two training analyses read it, and the figures back from such a line."""

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
    """One line of learning.log; a figure that was not measured is ``nan``.

    ``reward`` has the mean spread within groups behind it, ``syntax_rew`` the spread over the batch, as TRL logs them. The loss
    takes as much room with a sign as without, as in the first analysis.
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
    """The figures of each line under the names of metrics.jsonl, steps counted from 1; other lines are passed over.

    So a run of another trainer that writes the same file can be judged too.
    """
    step = 0
    for line in lines:
        found = _LINE.fullmatch(line.strip())
        if not found:
            continue
        figures = dict(zip(_NAMES, map(float, found.groups()), strict=True))
        if not math.isfinite(figures["epoch"]):
            continue
        step += 1
        del figures["syntax_reward"]  # the same mean once more
        if math.isnan(figures["entropy"]):  # which not every trainer measures
            del figures["entropy"]
        yield {"step": float(step), **figures}
