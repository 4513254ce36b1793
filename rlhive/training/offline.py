"""A step of learning offline: one update of every seed, each on its own minibatch of the data set."""

from __future__ import annotations

from rlhive.core.tree import to_device
from rlhive.progress import Progress
from rlhive.training.learner import logged_metrics
from rlhive.training.run import Run
from rlhive.training.stop import UPDATED, stop_broken


def step(run: Run, progress: Progress) -> None:
    """One update."""
    assert run.dataset is not None  # `load_config` refuses an offline algorithm without one
    config, before = run.config, run.state
    streams, chunk_size = [own["replay"] for own in run.generators], run.learner.network.chunk_size
    batch = to_device(run.dataset.sample(streams, config.batch_size, chunk_size), config.device)
    run.state, metrics = run.learner.train_step(before, batch, run.learner.draw_loss_noise(run.generators))
    run.metrics = logged_metrics(metrics)
    broken = (~metrics["finite"]).nonzero().flatten().tolist()
    if broken:
        good_states = {run.seeds[index]: before[index] for index in broken}
        if not stop_broken(run, dict.fromkeys(good_states, UPDATED), good_states, progress):
            return
    run.step += 1
    progress.update(run.step)
