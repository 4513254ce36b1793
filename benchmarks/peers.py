"""One update of SAC as each library does it: minibatch, losses, gradients, optimizer, target networks.

Every function returns `update()`, one whole update on a replay of random transitions, with the networks and settings
of `gin/sac.gin`: two critics with LayerNorm, batch 256, a learning rate of 1e-3, a learned temperature. Its
`num_parameters` counts those of actor and critics.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn

import gin
from rlhive.config import load_config
from rlhive.core.env_spec import EnvSpec
from rlhive.core.keys import make_generators
from rlhive.training.learner import make_learner

OBSERVATION_DIM, ACTION_DIM, TRANSITIONS, BATCH_SIZE = 21, 9, 5_000, 256
SPEC = EnvSpec(
    name="random",
    observation_keys=("state",),
    observation_slices=((0, OBSERVATION_DIM),),
    observation_dim=OBSERVATION_DIM,
    action_dim=ACTION_DIM,
    action_low=(-1.0,) * ACTION_DIM,
    action_high=(1.0,) * ACTION_DIM,
    action_names=tuple(map(str, range(ACTION_DIM))),
    dt=0.08,
    max_episode_steps=50,
)


def transitions() -> dict[str, np.ndarray]:
    """Random transitions, `[TRANSITIONS, ...]` float32."""
    rng = np.random.default_rng(0)
    normal = lambda width: rng.normal(size=(TRANSITIONS, width)).astype(np.float32)  # noqa: E731
    return {
        "observation": normal(OBSERVATION_DIM),
        "action": np.tanh(normal(ACTION_DIM)),
        "next_observation": normal(OBSERVATION_DIM),
        "reward": normal(1),
    }


def rlhive_update(
    num_seeds: int = 1, *, hidden: int = 256, compile: bool = True, device: str = "cpu"
) -> Callable[[], TensorDict]:
    """RLHive's, of several seeds side by side."""
    bindings = [f"NUM_SEEDS={num_seeds}", f"train.compile={compile}", f"DEVICE='{device}'"]
    config = load_config(["sac.gin"], [*bindings, f"sac_network.hidden_sizes=({hidden}, {hidden})"])
    learner = make_learner(config, SPEC)
    generators = [make_generators(seed) for seed in config.seeds]
    replay = config.make_replay(num_seeds=num_seeds, device=device)
    gin.clear_config()
    _fill(replay, num_seeds)
    state = learner.init(generators)

    def update() -> TensorDict:
        nonlocal state
        batch = replay.sample([own["replay"] for own in generators], BATCH_SIZE)
        state, metrics = learner.train_step(state, batch, learner.draw_loss_noise(generators))
        return metrics

    networks = state[0]["params"].select("actor", "critic")
    update.num_parameters = sum(leaf.numel() for leaf in networks.values(True, True))
    return update


def torchrl_update(*, device: str = "cpu") -> Callable[[], None]:
    """TorchRL's `SACLoss`, `SoftUpdate` and replay with `torch.optim.Adam`."""
    from torchrl.data import Bounded, LazyTensorStorage, TensorDictReplayBuffer
    from torchrl.modules import NormalParamExtractor, ProbabilisticActor, TanhNormal, ValueOperator
    from torchrl.objectives import SACLoss, SoftUpdate

    spec = Bounded(-torch.ones(ACTION_DIM), torch.ones(ACTION_DIM)).to(device)
    head = nn.Sequential(*_layers(OBSERVATION_DIM, 2 * ACTION_DIM, norm=False), NormalParamExtractor())
    actor = ProbabilisticActor(
        TensorDictModule(head, ["observation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=TanhNormal,
        spec=spec,
    )
    critic = ValueOperator(_Critic(), ["observation", "action"])
    loss = SACLoss(actor, critic, action_spec=spec, num_qvalue_nets=2, target_entropy=-float(ACTION_DIM))
    loss = loss.to(device)
    loss.make_value_estimator(gamma=0.95)
    target, opt = SoftUpdate(loss, tau=0.005), torch.optim.Adam(loss.parameters(), 1e-3)
    replay = TensorDictReplayBuffer(
        storage=LazyTensorStorage(TRANSITIONS, device=device), batch_size=BATCH_SIZE
    )
    data = {name: torch.from_numpy(values) for name, values in transitions().items()}
    done = torch.zeros(TRANSITIONS, 1, dtype=torch.bool)
    following = {"observation": data["next_observation"], "reward": data["reward"]}
    following |= {"terminated": done, "done": done}
    root = {"observation": data["observation"], "action": data["action"], "next": following}
    replay.extend(TensorDict(root, [TRANSITIONS]))

    def update() -> None:
        out = loss(replay.sample())
        opt.zero_grad()
        (out["loss_actor"] + out["loss_qvalue"] + out["loss_alpha"]).backward()
        opt.step()
        target.step()

    trees = (loss.actor_network_params, loss.qvalue_network_params)
    update.num_parameters = sum(leaf.numel() for tree in trees for leaf in tree.values(True, True))
    return update


def sb3_update() -> Callable[[], None]:
    """Stable-Baselines3's."""
    from stable_baselines3 import SAC

    from benchmarks.sb3_sac import LayerNormPolicy

    model = _sb3_like(SAC, LayerNormPolicy, {"net_arch": [256, 256]})

    def update() -> None:
        model.train(gradient_steps=1, batch_size=BATCH_SIZE)

    networks = [*model.actor.parameters(), *model.critic.parameters()]
    update.num_parameters = sum(leaf.numel() for leaf in networks)
    return update


def sbx_update() -> Callable[[], None]:
    """That of SBX, Stable-Baselines in JAX."""
    import jax
    from sbx import SAC

    model = _sb3_like(SAC, "MlpPolicy", {"net_arch": [256, 256], "layer_norm": True})

    def update() -> None:
        model.train(gradient_steps=1, batch_size=BATCH_SIZE)

    networks = (model.policy.actor_state.params, model.policy.qf_state.params)
    update.num_parameters = sum(leaf.size for leaf in jax.tree_util.tree_leaves(networks))
    return update


def _sb3_like(algorithm, policy, policy_kwargs):
    """A model of Stable-Baselines' interface with the replay filled."""
    import gymnasium
    from stable_baselines3.common.logger import Logger

    class Spaces(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (OBSERVATION_DIM,), np.float32)
        action_space = gymnasium.spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32)

    settings = {"learning_rate": 1e-3, "gamma": 0.95, "buffer_size": TRANSITIONS, "device": "cpu", "seed": 1}
    model = algorithm(policy, Spaces(), policy_kwargs=policy_kwargs, **settings)
    model.set_logger(Logger(None, []))
    data = transitions()
    for row in zip(
        *(data[name] for name in ("observation", "next_observation", "action", "reward")), strict=True
    ):
        model.replay_buffer.add(*row, np.zeros(1), [{}])
    return model


def _layers(fan_in: int, fan_out: int, *, norm: bool, hidden: int = 256) -> list[nn.Module]:
    first = [nn.Linear(fan_in, hidden), *([nn.LayerNorm(hidden)] if norm else []), nn.ReLU()]
    second = [nn.Linear(hidden, hidden), *([nn.LayerNorm(hidden)] if norm else []), nn.ReLU()]
    return [*first, *second, nn.Linear(hidden, fan_out)]


class _Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_layers(OBSERVATION_DIM + ACTION_DIM, 1, norm=True))

    def forward(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return self.layers(torch.cat([observation, action], dim=-1))


def _fill(replay, num_seeds: int) -> None:
    data = {name: torch.from_numpy(values) for name, values in transitions().items()}
    data["done"] = torch.zeros(TRANSITIONS, 1, dtype=torch.bool)
    for row in range(TRANSITIONS):
        own = {name: values[row].expand(num_seeds, 1, -1) for name, values in data.items()}
        following = {"observation": own["next_observation"], "reward": own["reward"]}
        following |= {"terminated": own["done"], "done": own["done"]}
        root = {"observation": own["observation"], "action": own["action"], "next": following}
        replay.extend(TensorDict(root, [num_seeds, 1]))
