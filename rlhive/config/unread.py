"""Refuses settings that would have no effect, which gin itself accepts silently. Free of gin."""

from __future__ import annotations

import graphlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlhive.algorithms import ALGORITHMS
from rlhive.config.errors import ConfigError
from rlhive.paths import gin_directory
from rlhive.suggest import suggest

if TYPE_CHECKING:
    from rlhive.config.train_config import TrainConfig

MACRO = r"[A-Za-z_][\w/]*"
QUOTED = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\"""")


def scopes_in_use(text: str) -> list[str]:
    """The scopes, such as "foo/", whose bindings count, because a reference such as @foo/adam uses them.

    Args:
        text: all bindings in force, as a gin file.

    Raises:
        ConfigError: a binding is in another scope, where it would have no effect.
    """
    text = QUOTED.sub("''", text)
    references = set(re.findall(r"@([\w./]+/)", text))
    bindings = re.findall(r"^([\w./]+/)([\w.]+\.\w+) =", text, flags=re.MULTILINE)
    for scope, name in bindings:
        if not any(reference.startswith(scope) for reference in references):
            raise ConfigError(
                f"nothing reads {scope}{name}: no reference is @{scope}{name.rpartition('.')[0]}; "
                f"leave {scope} out"
            )
    return sorted(references)


def check_macros(text: str, bindings: Sequence[str]) -> None:
    """Refuses macros that nothing reads, that have no value, or that are defined by themselves.

    Gin itself accepts any new name as a macro, and notices a missing value only when the macro is read.

    Args:
        text: all bindings in force, as a gin file.
        bindings: those of the command line.

    Raises:
        ConfigError: naming the macro.
    """
    text = QUOTED.sub("''", text)
    values = dict(re.findall(rf"^({MACRO}) =(.*(?:\n +.*)*)", text, flags=re.MULTILINE))
    defined, used = set(values), set(re.findall(f"%({MACRO})", text))
    given = set(re.findall(rf"^\s*({MACRO})\s*=", "\n".join(bindings), flags=re.MULTILINE))
    shipped = "".join(path.read_text() for path in gin_directory().glob("*.gin"))
    # A shipped macro is no longer read where the parameter that read it is bound to a value itself.
    overridden = set(re.findall(f"%({MACRO})", shipped)) - given
    for name in sorted(defined - used - overridden):
        hint = suggest(name, sorted(used)) if used else "include 'base.gin' or a shipped file that does"
        raise ConfigError(f"nothing reads the macro {name!r}: {hint}")
    for name in sorted(used - defined):
        raise ConfigError(f"the macro %{name} has no value: {suggest(name, sorted(defined))}")
    _check_cycles({name: sorted(re.findall(f"%({MACRO})", value)) for name, value in sorted(values.items())})


def _check_cycles(reads: Mapping[str, Sequence[str]]) -> None:
    """Refuses macros that lead back to themselves; `reads` are the macros in the value of each."""
    try:
        graphlib.TopologicalSorter(reads).prepare()
    except graphlib.CycleError as error:
        name, *others = error.args[1][:-1]
        through = f", through %{', %'.join(others)}" if others else ""
        raise ConfigError(f"the macro %{name} is defined by itself{through}: give it a value") from None


def check_seeds(config: TrainConfig, bindings: Sequence[str]) -> None:
    """Refuses SEED and NUM_SEEDS on the command line if SEEDS names the seeds.

    Files may have both: SEEDS on the command line may add seeds to the run of a file.

    Raises:
        ConfigError: naming the binding.
    """
    given = re.findall(r"^\s*([\w.]+)\s*=", "\n".join(bindings), flags=re.MULTILINE)
    counted = [name for name in given if name in {"SEED", "NUM_SEEDS", "train.seed", "train.num_seeds"}]
    if config.named_seeds and counted:
        raise ConfigError(
            f"nothing reads {counted[0]}: SEEDS={config.named_seeds} says which seeds are trained; leave one of the "
            "two out"
        )


def check_parts(
    config: TrainConfig,
    bindings: Sequence[str],
    operative: str,
    replay: Mapping[str, Any],
    factories: Collection[str],
) -> None:
    """Refuses command-line bindings of parts that the run does not use, such as another algorithm's loss.

    Files may have them: the shipped ones set parts that a later file or binding chooses.

    Args:
        config: the configuration, all of whose parts have been built.
        bindings: those of the command line.
        operative: the bindings that building them used, as a gin file.
        replay: the replay's bindings in force.
        factories: the names of RLHive's parts; a part of the user's own may be called later.

    Raises:
        ConfigError: naming the binding.
    """
    given = re.findall(rf"^\s*({MACRO}[\w./]*)\.(\w+)\s*=", "\n".join(bindings), flags=re.MULTILINE)
    built = set(re.findall(r"^# Parameters for (?:[\w.]+/)*([\w.]+):$", operative, flags=re.MULTILINE))
    algorithm = ALGORITHMS[config.algorithm]
    acts = (not algorithm.offline, "an algorithm that steps environments to learn")
    needs = {
        "train.init_random_steps": acts,
        "train.exploration": acts,
        "train.tau": (bool(algorithm.target_keys), "an algorithm that has a target network"),
        "train.skip_damaged": (config.dataset is not None or not config.skip_damaged, "train.dataset"),
        "train.video_cameras": (bool(config.video_every or not config.video_cameras), "train.video_every"),
        "train.wandb": ("wandb" in config.loggers or not config.wandb, "'wandb' in train.loggers"),
        "replay.gamma": (replay.get("n_step", 1) > 1, "replay.n_step above 1"),
        "replay.alpha": (bool(replay.get("prioritized")), "replay.prioritized=True"),
        "replay.beta": (bool(replay.get("prioritized")), "replay.prioritized=True"),
    }
    for part, parameter in given:
        name = part.split("/")[-1].split(".")[-1]
        if name in factories and (name not in built or (name == "replay" and algorithm.offline)):
            raise ConfigError(
                f"nothing reads {part}.{parameter}: no part of this run is {name}; leave it out"
            )
        counts, with_what = needs.get(f"{name}.{parameter}", (True, ""))
        if not counts:
            raise ConfigError(
                f"nothing reads {part}.{parameter} without {with_what}: add that, or leave it out"
            )
