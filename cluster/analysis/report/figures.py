"""The pictures of a run, drawn from the figures of its steps; the same pictures as SVG for a page and as PNG beside it."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cluster.health.history import Row
from cluster.ledger.run_folder import is_finite
from cluster.types import Verdict

MAX_POINTS = 500
"""Points of a line; longer runs are drawn as means of neighbouring steps."""

SMOOTHED_STEPS = 10  # in the strong line; the pale one is the steps themselves

VERDICT_COLOURS = {
    Verdict.PASSED: "#2f9e44",
    Verdict.WRONG: "#f2c037",
    Verdict.RAISED: "#e8863a",
    Verdict.TIMEOUT: "#b5651d",
    Verdict.INTERFACE: "#9c6ade",
    Verdict.TYPE_ERROR: "#4c8fe0",
    Verdict.DENIED: "#495057",
    Verdict.SYNTAX_ERROR: "#d6455d",
    Verdict.NO_CODE: "#adb5bd",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """What is drawn of one run."""

    name: str
    rows: Sequence[Row]  # of metrics.jsonl
    marks: Mapping[int, str]  # by step: settings that changed after it, and why
    held_out: Sequence[Row] = ()  # rows of evaluation.jsonl


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One picture: what it is called, and how it is drawn into axes of matplotlib."""

    name: str
    title: str
    draw: Callable[[Any, Drawn], None]
    needs: str  # a figure without which there is nothing to draw


def lines(*series: tuple[str, str], share: bool = False) -> Callable[[Any, Drawn], None]:
    """Draws figures over steps, each by name and label."""

    def draw(axes: Any, drawn: Drawn) -> None:
        for number, (name, label) in enumerate(series):
            steps, values = thinned(drawn.rows, name)
            if steps:
                axes.plot(steps, values, color=f"C{number}", alpha=0.25, linewidth=0.8)
                axes.plot(steps, smooth(values), color=f"C{number}", label=label, linewidth=1.6)
        if share:
            axes.set_ylim(-0.02, 1.02)
        axes.legend(fontsize="small", loc="best")

    return draw


def rewards(axes: Any, drawn: Drawn) -> None:
    """Mean and best reward, pass rate, and the held-out results as points."""
    lines(("reward", "mean reward"), ("best_of_n", "best of a group"), ("pass_rate", "passed all tests"), share=True)(
        axes, drawn
    )
    for name, colour in (("reward", "C0"), ("pass_rate", "C2")):
        points = [(row["step"], row[name]) for row in drawn.held_out]
        if points:
            axes.plot(*zip(*points, strict=True), "o", color=colour, markeredgecolor="black", markersize=5)


def outcomes(axes: Any, drawn: Drawn) -> None:
    """Shares of the verdicts, stacked."""
    columns = _columns(drawn, [f"verdict_{verdict}" for verdict in VERDICT_COLOURS], needs="verdict_passed")
    of_verdicts = dict(zip(VERDICT_COLOURS, columns, strict=True))
    shown = {verdict: values for verdict, (_, values) in of_verdicts.items() if any(values)}
    shown = shown or {Verdict.PASSED: of_verdicts[Verdict.PASSED][1]}
    axes.stackplot(
        columns[0][0],
        *shown.values(),
        labels=[verdict.replace("_", " ") for verdict in shown],
        colors=[VERDICT_COLOURS[verdict] for verdict in shown],
    )
    axes.set_ylim(0, 1)
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.01, 1.0))


def reward_histogram(axes: Any, drawn: Drawn) -> None:
    """How the rewards are spread over 0 to 1, step by step."""
    columns = _columns(drawn, [f"reward_histogram/{tenth}" for tenth in range(10)], needs="reward_histogram/0")
    steps = columns[0][0]
    image = axes.imshow(
        [values for _, values in columns],
        aspect="auto",
        origin="lower",
        extent=(steps[0] - 0.5, steps[-1] + 0.5, 0, 1),
        cmap="viridis",
        vmin=0,
    )
    axes.figure.colorbar(image, ax=axes, label="share of completions")
    axes.set_ylabel("reward")


PICTURES = (
    Picture(name="reward", title="Reward", draw=rewards, needs="reward"),
    Picture(name="outcomes", title="Outcomes", draw=outcomes, needs="verdict_passed"),
    Picture(name="reward_histogram", title="Rewards, step by step", draw=reward_histogram, needs="reward_histogram/0"),
    Picture(
        name="signal",
        title="Groups without signal",
        draw=lines(
            ("frac_zero_std_sampled", "rewards all equal"),
            ("frac_zero_std_solved", "of these, solved"),
            ("frac_zero_std", "rewards all equal, of the groups that were trained"),
            share=True,
        ),
        needs="frac_zero_std",
    ),
    Picture(
        name="diversity",
        title="Programs of a group that differ, and the largest crowds",
        draw=lines(
            ("distinct_share", "distinct"),
            ("distinct_share_renamed", "distinct up to renaming"),
            ("top_reward_share", "one reward without passing"),
            ("top_program_share", "one program for several problems"),
            share=True,
        ),
        needs="distinct_share",
    ),
    Picture(
        name="spread",
        title="Spread of rewards within groups",
        draw=lines(
            ("reward_cv", "coefficient of variation"), ("best_of_n_gap", "best minus mean"), ("reward_std", "deviation")
        ),
        needs="reward_std",
    ),
    Picture(name="entropy", title="Entropy (nats)", draw=lines(("entropy", "entropy")), needs="entropy"),
    Picture(name="loss", title="Loss", draw=lines(("loss", "loss")), needs="loss"),
    Picture(
        name="gradient", title="Gradient norm", draw=lines(("grad_norm", "before it is scaled down")), needs="grad_norm"
    ),
    Picture(name="kl", title="KL divergence to the base model", draw=lines(("kl", "nats per token")), needs="kl"),
    Picture(
        name="learning_rate",
        title="Learning rate",
        draw=lines(("learning_rate", "learning rate")),
        needs="learning_rate",
    ),
    Picture(
        name="length",
        title="Tokens per completion",
        draw=lines(("mean_length", "mean"), ("p95_length", "95th percentile")),
        needs="mean_length",
    ),
    Picture(
        name="mismatch",
        title="Sampler and learner on the same tokens (nats)",
        draw=lines(("sampling/sampling_logp_difference/mean", "mean difference of log-probabilities")),
        needs="sampling/sampling_logp_difference/mean",
    ),
    Picture(
        name="staleness",
        title="Policy versions behind",
        draw=lines(("mean_staleness", "mean"), ("max_staleness", "largest")),
        needs="mean_staleness",
    ),
    Picture(
        name="busy",
        title="Who was busy",
        draw=lines(
            ("samplers_busy_share", "samplers"),
            ("graders_busy_share", "graders"),
            ("learner_busy_share", "learner"),
            share=True,
        ),
        needs="learner_busy_share",
    ),
)

DARK = {
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor"), "#12161c"),
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), "#d7dde6"),
    **dict.fromkeys(("grid.color", "legend.edgecolor"), "#7b8796"),
}
"""Settings of matplotlib for a page that is dark."""

COMPARED = (
    ("reward", "Mean reward"),
    ("pass_rate", "Passed all tests"),
    ("frac_zero_std_sampled", "Groups without signal"),
    ("entropy", "Entropy (nats)"),
)
"""Of several runs, side by side."""


def pictures(drawn: Drawn) -> Iterator[tuple[str, str, Mapping[str, bytes]]]:
    """Name, title and the pictures by format ("svg", "png") of what a run has figures for."""
    for picture in drawable(drawn):
        yield picture.name, picture.title, draw(picture, drawn, ("svg", "png"))


def drawable(drawn: Drawn) -> list[Picture]:
    """The pictures that a run has figures for."""
    return [picture for picture in PICTURES if any(is_finite(row.get(picture.needs)) for row in drawn.rows)]


def draw(picture: Picture, drawn: Drawn, formats: Sequence[str], *, is_dark: bool = False) -> Mapping[str, bytes]:
    """One of a run's pictures, by format. Not to be called by two threads at a time: matplotlib can be used by one."""
    with _figure(drawn.marks, formats, DARK if is_dark else {}) as (axes, saved):
        picture.draw(axes, drawn)
        axes.set_title(picture.title, loc="left", fontsize="medium")
    return saved


def compared(runs: Sequence[Drawn]) -> Iterator[tuple[str, str, Mapping[str, bytes]]]:
    """As pictures(): one figure of several runs in each."""
    for name, title in COMPARED:
        if any(is_finite(row.get(name)) for drawn in runs for row in drawn.rows):
            with _figure({}, ("svg", "png"), {}) as (axes, saved):
                for drawn in runs:
                    steps, values = thinned(drawn.rows, name)
                    axes.plot(steps, smooth(values), label=_plain(drawn.name), linewidth=1.6)
                axes.set_title(title, loc="left", fontsize="medium")
                axes.legend(fontsize="small", loc="best")
            yield f"compared_{name}", title, saved


@contextmanager
def _figure(
    marks: Mapping[int, str], formats: Sequence[str], colours: Mapping[str, str]
) -> Iterator[tuple[Any, dict[str, bytes]]]:
    """Axes to draw into, and where the files will be when the block is left."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    saved: dict[str, bytes] = {}
    with mpl.rc_context({"svg.hashsalt": "caravan", **colours}):  # the same picture is the same file
        figure, axes = plt.subplots(figsize=(7.2, 3.4), layout="constrained")
        try:
            yield axes, saved
            for step in marks:
                axes.axvline(step + 0.5, color=mpl.rcParams["text.color"], linewidth=0.8, linestyle=":")
            axes.set_xlabel("step")
            axes.grid(alpha=0.25)
            for form in formats:
                file = io.BytesIO()
                figure.savefig(file, format=form, dpi=110, metadata={"Date": None} if form == "svg" else None)
                saved[form] = file.getvalue()
                figure.set_layout_engine("none")  # it stands now; to lay it out again takes longer than to draw it
        finally:
            plt.close(figure)


def _columns(drawn: Drawn, names: Sequence[str], *, needs: str) -> list[tuple[list[float], list[float]]]:
    """Steps and values of figures that belong together, of the steps that have ``needs``; another that one lacks is 0 there."""
    filled = [
        {"step": row["step"], **{name: row[name] if is_finite(row.get(name)) else 0.0 for name in names}}
        for row in drawn.rows
        if is_finite(row.get(needs))
    ]
    return [thinned(filled, name) for name in names]


def thinned(rows: Sequence[Row], name: str) -> tuple[list[float], list[float]]:
    """Steps and values of a figure, where it is a number; of long runs, means of neighbours."""
    points = [(float(row["step"]), float(row[name])) for row in rows if is_finite(row.get(name))]
    width = max(1, -(-len(points) // MAX_POINTS))
    buckets = [points[start : start + width] for start in range(0, len(points), width)]
    steps = [sum(step for step, _ in bucket) / len(bucket) for bucket in buckets]
    return steps, [sum(value for _, value in bucket) / len(bucket) for bucket in buckets]


def smooth(values: Sequence[float]) -> list[float]:
    """The mean of each value and up to SMOOTHED_STEPS - 1 before it."""
    windows = (values[max(0, end - SMOOTHED_STEPS) : end] for end in range(1, len(values) + 1))
    return [sum(window) / len(window) for window in windows]


def _plain(text: str) -> str:
    """A label as it stands: matplotlib would typeset what is between dollars."""
    return text.replace("$", r"\$")
