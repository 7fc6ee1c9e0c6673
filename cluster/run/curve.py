"""The reward curve of a run as a PNG."""

from pathlib import Path

from cluster.ledger.run_folder import RunFolder

WINDOW = 5  # steps in the smoothed line


def draw_curve(folder: RunFolder) -> Path:
    """Draw reward and pass rate over steps, with the held-out results as points."""
    from matplotlib.figure import Figure

    rows = folder.rows(folder.metrics)
    steps = [row["step"] for row in rows]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for key, label, colour in (("reward", "mean reward", "C0"), ("pass_rate", "passed all tests", "C2")):
        values = [row[key] for row in rows]
        axes.plot(steps, values, color=colour, alpha=0.25, linewidth=1)
        axes.plot(steps, _smooth(values), color=colour, label=f"{label} (training, mean of {WINDOW} steps)")
        held_out = folder.evaluations()
        axes.errorbar(
            [result.step or 0 for result in held_out],
            [getattr(result, key) for result in held_out],
            yerr=[result.reward_standard_error if key == "reward" else 0.0 for result in held_out],
            fmt="o",
            color=colour,
            capsize=3,
            label=f"{label} (held out)",
        )
    axes.set(xlabel="step", ylabel="reward, share", ylim=(0, 1), title=folder.path.name)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", fontsize="small")
    with folder.explain_errors(folder.curve):
        figure.savefig(folder.curve, dpi=120)
    return folder.curve


def _smooth(values: list[float]) -> list[float]:
    windows = (values[max(0, end - WINDOW) : end] for end in range(1, len(values) + 1))
    return [sum(window) / len(window) for window in windows]
