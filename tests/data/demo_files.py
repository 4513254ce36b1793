"""Files of episodes, written by RoboHive's own loggers, and their episodes."""

import numpy as np

from rlhive.data import formats
from rlhive.envs.importing import quiet

OBSERVATION_DIM, ACTION_DIM = 6, 3


def demo_rows(trial, steps):
    """The numbers of one trial, `steps + 1` rows of each, all different."""
    rng = np.random.default_rng(trial)
    actions = rng.uniform(-1, 1, (steps + 1, ACTION_DIM))
    actions[-1] = np.nan
    return {
        "time": 0.04 * np.arange(steps + 1),
        "observations": rng.normal(size=(steps + 1, OBSERVATION_DIM)),
        "actions": actions,
        "rewards": rng.normal(size=steps + 1),
        "done": np.arange(steps + 1) == (steps if trial % 2 else -1),
        "solved": np.arange(steps + 1) > steps - trial,
    }


def write_demo(path, trials=3, steps=10, f_res=np.float64, prefix="Trial"):
    """A Trace of RoboHive's writer; trial k ends for good if k is odd, and is solved on its last k steps."""
    with quiet():
        from robohive.logger.grouped_datasets import Trace

        trace = Trace("demo")
        for number in range(trials):
            trace.create_group(f"{prefix}{number}")
            rows = demo_rows(number, steps)
            for row in range(steps + 1):
                datum = {key: values[row] for key, values in rows.items() if key != "solved"}
                infos = {
                    "solved": rows["solved"][row],
                    "state": {"qpos": rows["observations"][row], "act": None},
                }
                trace.append_datums(f"{prefix}{number}", {**datum, "env_infos": infos})
        trace.save(str(path), verify_length=True, f_res=f_res)
    return path


def write_roboset(path, trials=2, steps=8, size=6):
    """A RoboSet of RoboHive's writer: an arm of 7 joints, a gripper, and one camera."""
    with quiet():
        from robohive.logger.roboset_logger import RoboSet_Trace

        trace = RoboSet_Trace("demo")
        for number in range(trials):
            rng = np.random.default_rng(number)
            trace.create_group(f"Trial{number}")
            for row in range(steps + 1):
                obs_dict = {
                    "time": np.float64(0.1 * row),
                    "qp_arm": rng.normal(size=7),
                    "qv_arm": rng.normal(size=7),
                }
                obs_dict |= {
                    "qp_ee": rng.normal(size=1),
                    "pos_ee": rng.normal(size=3),
                    "rot_ee": rng.normal(size=3),
                }
                image = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
                visual_dict = {f"rgb:left_cam:{size}x{size}:2d": image}
                action = np.full(8, np.nan) if row == steps else rng.uniform(-1, 1, 8)
                infos = {"obs_dict": obs_dict, "visual_dict": visual_dict}
                trace.append_datums(f"Trial{number}", {"actions": action, "env_infos": infos})
        trace.save(str(path), f_res=np.float64)
    return path


def read_all(path):
    """The episodes of a file."""
    return list(formats.episodes(path, formats.detect(path)))
