"""A step of learning online: environments step in workers while the learner updates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from tensordict import TensorDict
from torch import Tensor

from rlhive.core.random import normal, uniform
from rlhive.core.tree import to_device, tree_of_leaves
from rlhive.core.types import TrainState
from rlhive.progress import Progress
from rlhive.training.learner import logged_metrics, observe
from rlhive.training.rollout import SEEN, latest_episodes
from rlhive.training.run import OnlineRun, Run
from rlhive.training.stop import UPDATED, not_finite, stop_broken


def step(run: OnlineRun, progress: Progress) -> None:
    """One step of all environments and the updates that are due."""
    action = _choose_action(run)
    if broken := dict.fromkeys(not_finite(run, action), "action"):
        kept = stop_broken(run, broken, states_acted_with(run, broken), progress)
        if not kept:
            return
        action = action[kept]
    # Until recv() this runs while the workers step. It waits for a GPU only if several updates are due, for all but the
    # last, or if the replay is prioritized.
    run.envs.send(action)
    run.store_step()
    before = run.acted_with = run.state
    run.state, run.rollout["normalizer"] = observe(
        before, run.rollout["normalizer"], run.rollout["observation"]
    )
    # An observation whose square exceeds float32.
    overflown = not_finite(run, run.rollout["observation"].square())
    updates = _update(run)
    transition = run.envs.recv()
    good_states = updates.good_states()
    broken = dict.fromkeys(not_finite(run, _seen(transition)), "observation or reward")
    broken |= dict.fromkeys(good_states, UPDATED) | dict.fromkeys(overflown, "normaliser")
    if broken:
        good_states |= {seed: before[run.seeds.index(seed)] for seed in overflown}
        kept = stop_broken(run, broken, good_states, progress)
        if not kept:
            return
        action, transition = action[kept], transition[kept]
    _move_on(run, action, transition)
    run.step += run.config.num_envs
    if transition["next", "done"].any():
        run.store_step()
        progress.update(run.step, *latest_episodes(run.rollout["episodes"]))


def states_acted_with(run: Run, seeds: Iterable[int]) -> dict[int, TrainState]:
    """The states of seeds before the updates that broke their actions, by seed; empty offline."""
    return {s: run.acted_with[run.seeds.index(s)] for s in seeds} if isinstance(run, OnlineRun) else {}


def _choose_action(run: OnlineRun) -> Tensor:
    """The next action `[S, E, A]`: uniformly random at first, then sampled from the policy with exploration."""
    num_envs, action_dim = run.config.num_envs, run.spec.env.action_dim
    if run.step < run.config.init_random_steps:
        random = uniform([g["action"] for g in run.generators], num_envs, action_dim)
        low, high = run.learner.network.limits(random)
        return low + random * (high - low)
    noise = normal([g["action"] for g in run.generators], num_envs, action_dim)
    device, rollout = run.config.device, run.rollout
    seen = to_device(rollout.select(*SEEN, strict=False), device)
    action = run.learner.act(run.state, seen, noise.to(device)).cpu()
    draws = run.explore.draw([g["exploration"] for g in run.generators], num_envs)
    action, rollout["explore"] = run.explore.apply(
        rollout["explore"], action, draws, run.step, rollout["is_init"]
    )
    return action


class _Updates:
    """Which seeds a series of updates broke. An update is checked once the next one is under way, or at the end."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._seeds = seeds
        self._good_states: dict[int, TrainState] = {}
        self._latest: tuple[TrainState, Tensor] | None = None

    def add(self, before: TrainState, finite: Tensor) -> None:
        """Adds an update: the state before it, and `finite` `[S]` of the state after it."""
        earlier, self._latest = self._latest, (before, finite)
        self._look_at(earlier)

    def good_states(self) -> dict[int, TrainState]:
        """The last good state of each seed that an update broke."""
        self._look_at(self._latest)
        return self._good_states

    def _look_at(self, update: tuple[TrainState, Tensor] | None) -> None:
        if update is None:
            return
        before, finite = update
        for index in (~finite).nonzero().flatten().tolist():
            self._good_states.setdefault(self._seeds[index], before[index])


def _update(run: OnlineRun) -> _Updates:
    """The gradient updates due for the coming environment steps."""
    config, updates = run.config, _Updates(run.seeds)
    if run.step < config.init_random_steps or len(run.replay) < config.batch_size:
        return updates
    ratio = config.updates_per_step
    due = math.floor((run.step + config.num_envs) * ratio) - math.floor(run.step * ratio)
    for _ in range(due):
        batch = _minibatch(run)
        noise = run.learner.draw_loss_noise(run.generators)
        before = run.state
        run.state, metrics = run.learner.train_step(before, batch, noise)
        updates.add(before, metrics["finite"])
        if "index" in batch.keys():  # noqa: SIM118
            run.replay.update_priority(batch["index"], _td_error(metrics).nan_to_num(posinf=0.0))
        run.metrics = logged_metrics(metrics)
    return updates


def _td_error(metrics: TensorDict) -> Tensor:
    if "td_error" not in metrics.keys():  # noqa: SIM118
        raise ValueError(
            'replay.prioritized=True needs "td_error" [B] among the metrics of the loss, which has none'
        )
    return metrics["td_error"]


def _minibatch(run: OnlineRun) -> TensorDict:
    """Transitions `[S, B]` from the replay, and from any demonstrations (Ball 2023, section 4.1)."""
    size, streams = run.config.batch_size, [of_seed["replay"] for of_seed in run.generators]
    if run.dataset is None:
        return run.replay.sample(streams, size)
    recorded = round(run.config.demonstrations * size)
    own = run.replay.sample(streams, size - recorded)
    return torch.cat([own, to_device(run.dataset.sample(streams, recorded), run.config.device)], dim=1)


def _move_on(run: OnlineRun, action: Tensor, transition: TensorDict) -> None:
    """Moves on to the environments' new state, and leaves what the next action does not need to `store_step`."""
    rollout, following = run.rollout, transition["next"]
    run.unstored = tree_of_leaves(
        {**rollout.select(*SEEN, strict=False), "action": action, "next": following}, transition.batch_size
    )
    rollout.update(transition.select(*SEEN, strict=False))
    rollout["is_init"] = following["done"]


def _seen(transition: TensorDict) -> Tensor:
    """Everything that came from the environments, `[S, E, 2 O + 1]`."""
    following = transition["next"]
    return torch.cat([transition["observation"], following["observation"], following["reward"]], dim=-1)
