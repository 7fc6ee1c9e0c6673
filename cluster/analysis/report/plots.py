"""Plots of a run, drawn from its metrics by step, as SVG for a page and as PNG for a file."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cluster.health.history import Row
from cluster.ledger.evaluation_result import EvaluationResult
from cluster.ledger.jsonl import is_finite
from cluster.types import Verdict

MAX_POINTS = 500
"""Points of a line; in longer runs each point is the mean of neighbouring steps."""

SMOOTHED_STEPS = 10  # window of the opaque line; the pale line shows single steps

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
class PlotData:
    """The data of one run that plots show."""

    name: str
    rows: Sequence[Row]  # of metrics.jsonl
    changed_after: Sequence[int] = ()  # steps after which settings changed
    held_out: Sequence[EvaluationResult] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A kind of plot."""

    name: str
    title: str
    draw: Callable[[Any, PlotData], None]  # into matplotlib axes
    requires: str  # metric without which the plot is not drawn


RenderedPlot = tuple[str, str, Mapping[str, bytes]]  # name, title, image by format ("svg", "png")


def _lines(*series: tuple[str, str], is_share: bool = False) -> Callable[[Any, PlotData], None]:
    """Draw metrics, given as (name, label), as lines over steps; shares have an axis from 0 to 1."""

    def draw(axes: Any, data: PlotData) -> None:
        for number, (name, label) in enumerate(series):
            steps, values = downsampled(data.rows, name)
            if steps:
                axes.plot(steps, values, color=f"C{number}", alpha=0.25, linewidth=0.8)
                axes.plot(steps, _smooth(values), color=f"C{number}", label=label, linewidth=1.6)
        if is_share:
            axes.set_ylim(-0.02, 1.02)
        axes.legend(fontsize="small", loc="best")

    return draw


_draw_reward_lines = _lines(
    ("reward", "mean reward"), ("best_of_n", "best of a group"), ("pass_rate", "passed all tests"), is_share=True
)


def _draw_rewards(axes: Any, data: PlotData) -> None:
    """Draw mean reward, best reward and pass rate as lines, and held-out results as points."""
    _draw_reward_lines(axes, data)
    for name, colour in (("reward", "C0"), ("pass_rate", "C2")):
        points = [(result.step, getattr(result, name)) for result in data.held_out]
        if points:
            axes.plot(*zip(*points, strict=True), "o", color=colour, markeredgecolor="black", markersize=5)


def _draw_verdicts(axes: Any, data: PlotData) -> None:
    """Draw the share of each verdict, stacked."""
    columns = _columns(data, [f"verdict_{verdict}" for verdict in VERDICT_COLOURS], requires="verdict_passed")
    by_verdict = dict(zip(VERDICT_COLOURS, columns, strict=True))
    shown = {verdict: values for verdict, (_, values) in by_verdict.items() if any(values)}
    shown = shown or {Verdict.PASSED: by_verdict[Verdict.PASSED][1]}
    axes.stackplot(
        columns[0][0],
        *shown.values(),
        labels=[verdict.replace("_", " ") for verdict in shown],
        colors=[VERDICT_COLOURS[verdict] for verdict in shown],
    )
    axes.set_ylim(0, 1)
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.01, 1.0))


def _draw_reward_histogram(axes: Any, data: PlotData) -> None:
    """Draw the distribution of rewards from 0 to 1 at each step as a heat map."""
    columns = _columns(data, [f"reward_histogram/{tenth}" for tenth in range(10)], requires="reward_histogram/0")
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


PLOTS = (
    Plot(name="reward", title="Reward", draw=_draw_rewards, requires="reward"),
    Plot(name="outcomes", title="Verdicts", draw=_draw_verdicts, requires="verdict_passed"),
    Plot(
        name="reward_histogram",
        title="Reward distribution by step",
        draw=_draw_reward_histogram,
        requires="reward_histogram/0",
    ),
    Plot(
        name="signal",
        title="Groups without signal",
        draw=_lines(
            ("frac_zero_std_sampled", "all rewards equal"),
            ("frac_zero_std_solved", "all rewards equal, solved"),
            ("frac_zero_std", "all rewards equal, trained groups only"),
            is_share=True,
        ),
        requires="frac_zero_std",
    ),
    Plot(
        name="diversity",
        title="Distinct programs in a group, and the most frequent ones",
        draw=_lines(
            ("distinct_share", "distinct"),
            ("distinct_share_renamed", "distinct up to renaming"),
            ("top_reward_share", "most frequent reward, not passed"),
            ("top_program_share", "most frequent program, for several problems"),
            is_share=True,
        ),
        requires="distinct_share",
    ),
    Plot(
        name="spread",
        title="Spread of rewards within groups",
        draw=_lines(
            ("reward_cv", "coefficient of variation"),
            ("best_of_n_gap", "best minus mean"),
            ("reward_std", "standard deviation"),
        ),
        requires="reward_std",
    ),
    Plot(name="entropy", title="Entropy (nats)", draw=_lines(("entropy", "entropy")), requires="entropy"),
    Plot(name="loss", title="Loss", draw=_lines(("loss", "loss")), requires="loss"),
    Plot(name="gradient", title="Gradient norm", draw=_lines(("grad_norm", "before clipping")), requires="grad_norm"),
    Plot(name="kl", title="KL divergence to the base model", draw=_lines(("kl", "nats per token")), requires="kl"),
    Plot(
        name="learning_rate",
        title="Learning rate",
        draw=_lines(("learning_rate", "learning rate")),
        requires="learning_rate",
    ),
    Plot(
        name="length",
        title="Tokens per completion",
        draw=_lines(
            ("mean_length", "mean"), ("p95_length", "95th percentile"), ("mean_thought_length", "mean in thoughts")
        ),
        requires="mean_length",
    ),
    Plot(
        name="mismatch",
        title="Sampler and learner logprobs of the same tokens (nats)",
        draw=_lines(("sampling/sampling_logp_difference/mean", "mean difference")),
        requires="sampling/sampling_logp_difference/mean",
    ),
    Plot(
        name="staleness",
        title="Staleness (policy versions)",
        draw=_lines(("mean_staleness", "mean"), ("max_staleness", "maximum")),
        requires="mean_staleness",
    ),
    Plot(
        name="busy",
        title="Utilization",
        draw=_lines(
            ("samplers_busy_share", "samplers"),
            ("graders_busy_share", "graders"),
            ("learner_busy_share", "learner"),
            is_share=True,
        ),
        requires="learner_busy_share",
    ),
)

DARK = {
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor"), "#12161c"),
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), "#d7dde6"),
    **dict.fromkeys(("grid.color", "legend.edgecolor"), "#7b8796"),
}
"""Matplotlib settings for a dark page."""

COMPARED = (
    ("reward", "Mean reward"),
    ("pass_rate", "Passed all tests"),
    ("frac_zero_std_sampled", "Groups without signal"),
    ("entropy", "Entropy (nats)"),
)
"""Metrics (name, title) that several runs are compared by."""


def run_plots(data: PlotData) -> Iterator[RenderedPlot]:
    """Render every plot that a run has metrics for."""
    for plot in available_plots(data):
        yield plot.name, plot.title, render_plot(plot, data, ("svg", "png"))


def available_plots(data: PlotData) -> list[Plot]:
    """Plots that a run has metrics for."""
    return [plot for plot in PLOTS if any(is_finite(row.get(plot.requires)) for row in data.rows)]


def render_plot(plot: Plot, data: PlotData, formats: Sequence[str], *, is_dark: bool = False) -> Mapping[str, bytes]:
    """Render a plot in each format. Not thread-safe: matplotlib's settings are process-wide."""
    with _axes(data.changed_after, formats, DARK if is_dark else {}) as (axes, images):
        plot.draw(axes, data)
        axes.set_title(plot.title, loc="left", fontsize="medium")
    return images


def comparison_plots(runs: Sequence[PlotData]) -> Iterator[RenderedPlot]:
    """Render a plot for each metric of COMPARED, with one line per run."""
    for name, title in COMPARED:
        if any(is_finite(row.get(name)) for data in runs for row in data.rows):
            with _axes((), ("svg", "png"), {}) as (axes, images):
                for data in runs:
                    steps, values = downsampled(data.rows, name)
                    axes.plot(steps, _smooth(values), label=_without_math(data.name), linewidth=1.6)
                axes.set_title(title, loc="left", fontsize="medium")
                axes.legend(fontsize="small", loc="best")
            yield f"compared_{name}", title, images


@contextmanager
def _axes(
    changed_after: Sequence[int], formats: Sequence[str], colours: Mapping[str, str]
) -> Iterator[tuple[Any, dict[str, bytes]]]:
    """Yield axes to draw into, and a dictionary that has the images by format after the block."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    images: dict[str, bytes] = {}
    with mpl.rc_context({"svg.hashsalt": "caravan", **colours}):  # with the salt, equal plots give equal SVG files
        figure = Figure(figsize=(7.2, 3.4), layout="constrained")
        axes = figure.subplots()
        yield axes, images
        for step in changed_after:
            axes.axvline(step + 0.5, color=mpl.rcParams["text.color"], linewidth=0.8, linestyle=":")
        axes.set_xlabel("step")
        axes.grid(alpha=0.25)
        for form in formats:
            file = io.BytesIO()
            figure.savefig(file, format=form, dpi=110, metadata={"Date": None} if form == "svg" else None)
            images[form] = file.getvalue()
            figure.set_layout_engine("none")  # the layout is done; a second pass would take longer than drawing


def _columns(data: PlotData, names: Sequence[str], *, requires: str) -> list[tuple[list[float], list[float]]]:
    """Steps and values of several metrics at the steps that have the metric ``requires``; other missing values are 0."""
    rows = [
        {"step": row["step"], **{name: row[name] if is_finite(row.get(name)) else 0.0 for name in names}}
        for row in data.rows
        if is_finite(row.get(requires))
    ]
    return [downsampled(rows, name) for name in names]


def downsampled(rows: Sequence[Row], name: str) -> tuple[list[float], list[float]]:
    """Steps and finite values of a metric, downsampled to MAX_POINTS means of neighbouring steps."""
    points = [(float(row["step"]), float(row[name])) for row in rows if is_finite(row.get(name))]
    width = max(1, -(-len(points) // MAX_POINTS))
    buckets = [points[start : start + width] for start in range(0, len(points), width)]
    steps = [sum(step for step, _ in bucket) / len(bucket) for bucket in buckets]
    return steps, [sum(value for _, value in bucket) / len(bucket) for bucket in buckets]


def _smooth(values: Sequence[float]) -> list[float]:
    """Moving average over the last SMOOTHED_STEPS values."""
    windows = (values[max(0, end - SMOOTHED_STEPS) : end] for end in range(1, len(values) + 1))
    return [sum(window) / len(window) for window in windows]


def _without_math(text: str) -> str:
    """Escape dollar signs, between which matplotlib would typeset a formula."""
    return text.replace("$", r"\$")
