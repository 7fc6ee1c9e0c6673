"""The output of ``caravan regrade``."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from rich.progress import Progress
from rich.table import Table

from cluster.analysis.regrade import (
    RescoredRun,
    check_output_path,
    grader_settings_of,
    rescore,
    steps_of_reward_changes,
    write_rewards,
)
from cluster.analysis.regrade_statistics import RewardComparison, compare_rewards
from cluster.console import output
from cluster.errors import RunFolderError
from cluster.ledger.run_folder import RunFolder
from grader.profiles import RewardProfile
from grader.reward import profile_of
from grader.reward_option import parse_reward_option, with_reward_option
from grader.settings import GraderSettings


def regrade_and_report(run: Path, reward: str | None, out: Path | None) -> int:
    """Re-score a run's completions, print the changes, write the rewards to ``out`` and return the exit code.

    ``reward`` has the syntax of grader.reward_option; None uses the run's own reward. Raises RunFolderError and ConfigError.
    """
    folder = RunFolder(run)
    if out:
        check_output_path(out, folder)
    profile, own_profile = _read_profiles(folder, reward)
    with Progress(console=output(stderr=True), transient=True) as progress:
        task = progress.add_task("reading rollouts", total=None)
        result = rescore(folder, profile, lambda done, total: progress.update(task, completed=done, total=total))
    if out:
        write_rewards(result.completions, out)
    console = output()
    for line in _profile_changes(own_profile, profile):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    comparison = compare_rewards(result.completions)
    console.print(_summary_table(comparison))
    console.print(_verdict_table(comparison))
    for line in _remarks(result, comparison, profile, steps_of_reward_changes(folder), is_own=reward is None):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if out:
        console.print(f"{comparison.num_completions} rewards -> {out}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _read_profiles(folder: RunFolder, reward: str | None) -> tuple[RewardProfile, RewardProfile | None]:
    """Return the profile to score with, and the run's own profile (None if config.yaml cannot be read)."""
    if not folder.path.is_dir():
        raise RunFolderError(f"{folder.path} is not a run directory: it does not exist")
    has_profile_name = reward is not None and "reward" in parse_reward_option(reward)
    try:
        settings = grader_settings_of(folder)
    except RunFolderError:
        if not has_profile_name:
            raise
        return profile_of(with_reward_option(reward or "", GraderSettings())), None
    own = profile_of(settings)
    return (own if reward is None else profile_of(with_reward_option(reward, settings))), own


def _profile_changes(old: RewardProfile | None, new: RewardProfile) -> Iterator[str]:
    """One line for each value that differs between the run's own profile and the new one."""
    if old is None:
        yield "the run's own reward is unknown (config.yaml is missing or cannot be read)"
        return
    before, after = asdict(old), asdict(new)
    changed = [name for name in before if name != "meaning" and before[name] != after[name]]
    if not changed:
        yield "reward: the run's own"
    for name in changed:
        yield f"{name}: {_format_value(before[name])} -> {_format_value(after[name])}"


def _format_value(value: object) -> str:
    if isinstance(value, tuple):
        return "/".join(f"{entry:g}" for entry in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {entry:g}" for name, entry in value.items())
    return "none" if value is None else str(value)


def _summary_table(comparison: RewardComparison) -> Table:
    title = f"{comparison.num_completions} completions in {comparison.num_groups} groups"
    table = Table("", "old", "new", title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    pairs = comparison.pairs
    tau = "n/a" if comparison.mean_tau_b is None else f"{comparison.mean_tau_b:.3f}"
    table.add_row("mean reward", f"{comparison.old_mean:.4f}", f"{comparison.new_mean:.4f}")
    table.add_row(
        "groups without signal", _percent(comparison.old_without_signal), _percent(comparison.new_without_signal)
    )
    table.add_section()
    table.add_row(f"Kendall's tau-b, mean of {comparison.num_ranked_groups} groups", "", tau)
    table.add_row("groups whose best completion changes", "", _percent(comparison.best_changed_share))
    for name, count in (
        ("in opposite order", pairs.discordant),
        ("tied only under the new reward", pairs.tied_in_new),
        ("tied only under the old reward", pairs.tied_in_old),
    ):
        table.add_row(f"pairs in a group {name}", "", _percent(count / pairs.total) if pairs.total else "n/a")
    return table


def _verdict_table(comparison: RewardComparison) -> Table:
    table = Table("verdict", "completions", "old mean", "new mean")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in comparison.by_verdict:
        table.add_row(row.verdict, str(row.num_completions), f"{row.old_mean:.4f}", f"{row.new_mean:.4f}")
    return table


def _remarks(
    result: RescoredRun,
    comparison: RewardComparison,
    profile: RewardProfile,
    reward_changes: tuple[int, ...],
    *,
    is_own: bool,
) -> Iterator[str]:
    if reward_changes:
        steps = ", ".join(map(str, reward_changes[:5])) + (", ..." if len(reward_changes) > 5 else "")
        yield (
            f"the schedule changed the reward {len(reward_changes)} times (after step {steps}): an old reward uses the "
            "settings of its step (phases.jsonl), all new rewards use one profile"
        )
    too_short = sum(completion.num_code_lines < profile.min_code_lines for completion in result.completions)
    if too_short:
        yield (
            f"{too_short} completions have fewer than {profile.min_code_lines} code lines: reward 0 "
            "(min_code_lines=N in --reward)"
        )
    if result.num_ungraded:
        yield (
            f"excluded: {result.num_ungraded} completions without a grade; {result.num_ungraded_groups} groups have no graded "
            "completion"
        )
    if is_own:
        yield (
            "every reward equals the stored one"
            if comparison.largest_change == 0
            else f"rewards differ from the stored ones by up to {comparison.largest_change:g}: the run was graded with other "
            "settings" + (" (its schedule changed them)" if reward_changes else "")
        )


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"
