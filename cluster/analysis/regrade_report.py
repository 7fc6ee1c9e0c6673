"""``caravan regrade`` as a person sees it."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from rich.progress import Progress
from rich.table import Table

from cluster.analysis.regrade import (
    Regrading,
    check_out,
    grader_settings_of,
    regrade,
    steps_of_reward_changes,
    write_rewards,
)
from cluster.analysis.regrade_figures import Figures, compare
from cluster.console import output
from cluster.errors import RunFolderError
from cluster.ledger.run_folder import RunFolder
from grader.profiles import RewardProfile
from grader.reward import profile_of
from grader.reward_option import parse_reward_option, with_reward_option
from grader.settings import GraderSettings


def regrade_and_report(run: Path, reward: str | None, out: Path | None) -> int:
    """Score a run's completions again, print what changes, and write the rewards to ``out``; returns the exit code.

    ``reward`` is as grader.reward_option reads it, None for the run's own. Raises RunFolderError and ConfigError.
    """
    folder = RunFolder(run)
    if out:
        check_out(out, folder)
    profile, old_profile = _profiles(folder, reward)
    with Progress(console=output(stderr=True), transient=True) as progress:
        task = progress.add_task("reading rollouts", total=None)
        result = regrade(folder, profile, lambda done, total: progress.update(task, completed=done, total=total))
    if out:
        write_rewards(result.completions, out)
    console = output()
    for line in _changes(old_profile, profile):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    figures = compare(result.completions)
    console.print(_summary_table(figures))
    console.print(_verdict_table(figures))
    for line in _remarks(result, figures, profile, steps_of_reward_changes(folder), own=reward is None):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if out:
        console.print(f"{figures.num_completions} rewards -> {out}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _profiles(folder: RunFolder, reward: str | None) -> tuple[RewardProfile, RewardProfile | None]:
    """The profile to score under, and the run's own where its config.yaml can be read."""
    if not folder.path.is_dir():
        raise RunFolderError(f"{folder.path} is not the folder of a run: there is no such folder")
    named = reward is not None and "reward" in parse_reward_option(reward)
    try:
        settings = grader_settings_of(folder)
    except RunFolderError:
        if not named:
            raise
        return profile_of(with_reward_option(reward or "", GraderSettings())), None
    own = profile_of(settings)
    return (own if reward is None else profile_of(with_reward_option(reward, settings))), own


def _changes(old: RewardProfile | None, new: RewardProfile) -> Iterator[str]:
    """What differs between the run's own profile and the other, value by value."""
    if old is None:
        yield "the run's own reward is not known (no config.yaml that could be read)"
        return
    before, after = asdict(old), asdict(new)
    changed = [name for name in before if name != "meaning" and before[name] != after[name]]
    if not changed:
        yield "reward: the run's own"
    for name in changed:
        yield f"{name}: {_plain(before[name])} -> {_plain(after[name])}"


def _plain(value: object) -> str:
    if isinstance(value, tuple):
        return "/".join(f"{entry:g}" for entry in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {entry:g}" for name, entry in value.items())
    return "none" if value is None else str(value)


def _summary_table(figures: Figures) -> Table:
    table = Table("", "old", "new", title=f"{figures.num_completions} completions in {figures.num_groups} groups")
    for column in table.columns[1:]:
        column.justify = "right"
    pairs = figures.pairs
    tau = "n/a" if figures.mean_tau_b is None else f"{figures.mean_tau_b:.3f}"
    table.add_row("mean reward", f"{figures.old_mean:.4f}", f"{figures.new_mean:.4f}")
    table.add_row("groups without signal", _share(figures.old_without_signal), _share(figures.new_without_signal))
    table.add_section()
    table.add_row(f"Kendall's tau-b, mean of {figures.num_ranked_groups} groups", "", tau)
    table.add_row("groups whose best completion changes", "", _share(figures.best_changes))
    for name, count in (
        ("whose order flips", pairs.flipped),
        ("tied only now", pairs.newly_tied),
        ("ordered only now", pairs.newly_ordered),
    ):
        table.add_row(f"pairs in a group {name}", "", _share(count / pairs.total) if pairs.total else "n/a")
    return table


def _verdict_table(figures: Figures) -> Table:
    table = Table("verdict", "completions", "old mean", "new mean")
    for column in table.columns[1:]:
        column.justify = "right"
    for one in figures.by_verdict:
        table.add_row(one.verdict, str(one.num_completions), f"{one.old_mean:.4f}", f"{one.new_mean:.4f}")
    return table


def _remarks(
    result: Regrading, figures: Figures, profile: RewardProfile, changed_after: tuple[int, ...], *, own: bool
) -> Iterator[str]:
    if changed_after:
        steps = ", ".join(map(str, changed_after[:5])) + (", ..." if len(changed_after) > 5 else "")
        yield (
            f"phases changed the run's reward {len(changed_after)} times (after step {steps}; phases.jsonl): old rewards are "
            "those of their steps, new ones are all by one profile"
        )
    too_short = sum(one.num_code_lines < profile.min_code_lines for one in result.completions)
    if too_short:
        yield (
            f"{too_short} completions have fewer than {profile.min_code_lines} code lines: reward 0 "
            "(min_code_lines=N in --reward)"
        )
    if result.num_ungradable:
        yield (
            f"left out: {result.num_ungradable} completions without a grade, "
            f"{result.num_groups_without_grade} groups of nothing else"
        )
    if own:
        yield (
            "every reward is as stored"
            if figures.largest_change == 0
            else f"not as stored: rewards differ by up to {figures.largest_change:g}; the run was graded by other rules"
            + (", those of its phases" if changed_after else "")
        )


def _share(value: float) -> str:
    return f"{100 * value:.1f}%"
