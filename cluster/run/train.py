"""``caravan train``: from a configuration to a trained adapter, a table of evaluations and a reward curve."""

from cluster.config.config import Config
from cluster.console import View
from cluster.errors import CaravanError
from cluster.ledger.run_folder import RunFolder
from cluster.placement.plan.gpu_defaults import with_kept_sizes
from cluster.placement.ray_cluster import Cluster, ray_cluster
from cluster.run.interruption import interruption_of_task
from cluster.run.loading import audit_and_split
from cluster.run.preflight import check_settings, inspect_model, load_run, place_run, require_served
from cluster.run.trackers import tracking
from cluster.run.training import Training
from grader.toolchain import prepare_toolchain
from learner.training.checkpoints import newest_checkpoint, step_of


async def train(config: Config, view: View, *, allow_changed_data: bool = False) -> int:
    """Train until the last step; returns the exit code. A run that was started before resumes from its newest checkpoint.

    With ``allow_changed_data`` it resumes although rows of its data were added, removed or changed.
    """
    config, folder = check_settings(config)
    with folder.opened(config):
        prepare_toolchain()  # a missing compiler is reported before anything large is loaded
        async with inspect_model(config) as inspection:
            loaded = load_run(config, folder, view, allow_changed_data=allow_changed_data)
            config = config.with_prompt(template_hash=loaded.rendered.template_hash)
            # Signals are handled from here on. Until now nothing has to be stopped, and Ctrl-C interrupts blocking calls too.
            interruption = interruption_of_task(view)
            with tracking(config, folder, step=loaded.num_steps_done) as send_metrics, ray_cluster(view.log) as cluster:
                folder.link_worker_logs(cluster.logs)
                try:
                    placed = place_run(config, cluster, view)
                    folder.keep_config(with_kept_sizes(config, placed))
                    await require_served(inspection, view)
                    dataset = await audit_and_split(placed, loaded.rendered, view, folder, loaded.data)
                    training = Training(
                        placed, folder, dataset, view, interruption, send_metrics, loaded.adapter_targets
                    )
                    return await training.run()
                except* CaravanError:
                    _log_how_to_resume(folder, cluster, view)
                    raise


def _log_how_to_resume(folder: RunFolder, cluster: Cluster, view: View) -> None:
    """Log where the output of the failed parts is, and how to resume."""
    view.log(f"output of samplers, graders and learner: {cluster.logs}/worker-*")
    if newest := newest_checkpoint(folder.checkpoints):
        view.log(
            f"training is saved up to step {step_of(newest)}; to resume from there: caravan train --resume {folder.argument}"
        )
