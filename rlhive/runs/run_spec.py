"""What a trained policy comes from: algorithm, environment, networks, versions; saved beside and in every file."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import secrets
from collections.abc import Mapping
from typing import Any

import attrs

from rlhive.algorithms import ALGORITHMS
from rlhive.core.converters import strings
from rlhive.core.env_spec import EnvSpec
from rlhive.core.errors import LoadError
from rlhive.core.tree_file import check_names
from rlhive.core.tree_header import check_version
from rlhive.policy_fn.actor import ActorCritic
from rlhive.policy_fn.encoders import Encoder, encoder_from_dict, feature_dim, learned

FORMAT_VERSION = 2
PACKAGES = ("rlhive-torch", "torch", "tensordict", "torchrl", "robohive", "mujoco", "numpy")


@attrs.frozen
class DataSource:
    """The data set that a run learns from, or has demonstrations of; plain values, JSON as it stands.

    Attributes:
        path: where it was; the same data may be moved later.
        sha256: of its contents.
        trials: their number.
        steps: transitions of all trials.
        left_out: the damaged trials, each with the reason but without the path.
    """

    path: str = attrs.field(eq=False, validator=attrs.validators.instance_of(str))
    sha256: str = attrs.field(validator=attrs.validators.matches_re("[0-9a-f]{64}"))
    trials: int = attrs.field(validator=attrs.validators.instance_of(int))
    steps: int = attrs.field(validator=attrs.validators.instance_of(int))
    # Not compared: sha256 and trials determine what was left out, and other versions may word the reasons differently.
    left_out: tuple[str, ...] = attrs.field(eq=False, converter=strings, default=())

    def describe(self) -> str:
        """The data set, in one line."""
        left_out = f"; {len(self.left_out)} damaged trials left out" if self.left_out else ""
        return (
            f"data set {self.path}: {self.trials} trials, {self.steps} steps{left_out}, sha256 {self.sha256}"
        )


@attrs.frozen
class Origin:
    """The checkpoint of another run that a run started from; plain values, JSON as it stands.

    Attributes:
        path: where that run was; it may be moved later.
        run_id: of that run.
        step: of the checkpoint.
    """

    path: str = attrs.field(eq=False, validator=attrs.validators.instance_of(str))
    run_id: str = attrs.field(validator=attrs.validators.matches_re("[0-9a-f]{64}"))
    step: int = attrs.field(validator=attrs.validators.instance_of(int))


def _known(spec: Any, attribute: Any, name: Any) -> None:
    if not isinstance(name, str) or name not in ALGORITHMS:
        raise ValueError(
            f"unknown algorithm {name!r}; this version of rlhive has {', '.join(ALGORITHMS)}; to load one of your own, "
            "import the module that enters it first, such as by --import=MODULE"
        )


@attrs.frozen
class RunSpec:
    """Everything that a policy needs except its tensors, and the run it comes from.

    Attributes:
        algorithm: a name of `rlhive.algorithms.ALGORITHMS`.
        env: the environment it was trained on, or that its data set comes from.
        network: its networks, of the algorithm's class.
        run_id: 64 random hexadecimal digits, different for every run.
        versions: of Python and of the packages that wrote it, by name.
        encoder: of its images; None without images.
        format_version: of the files.
        dataset: what it learns from besides its own steps; None if there is no data set.
        origin: the checkpoint it started from; None if it started from scratch.
    """

    algorithm: str = attrs.field(validator=_known)
    env: EnvSpec = attrs.field(validator=attrs.validators.instance_of(EnvSpec))
    network: ActorCritic = attrs.field(validator=attrs.validators.instance_of(ActorCritic))
    run_id: str = attrs.field(validator=attrs.validators.matches_re("[0-9a-f]{64}"))
    versions: dict[str, str] = attrs.field(validator=attrs.validators.instance_of(dict))
    encoder: Encoder | None = None
    format_version: int = FORMAT_VERSION
    dataset: DataSource | None = None
    origin: Origin | None = None

    def __attrs_post_init__(self) -> None:
        env, network = self.env, self.network
        if type(network) is not ALGORITHMS[self.algorithm].network:
            raise ValueError(f"{type(network).__name__} is not the network of {self.algorithm}")
        if (self.encoder is None) != (env.pixels is None):
            raise ValueError(f"{env.name}: images need an encoder, and an encoder needs images")
        observation_dim = env.observation_dim + feature_dim(self.encoder, env.pixels)
        limits = (env.action_low, env.action_high)
        if network.observation_dim != observation_dim or (network.action_low, network.action_high) != limits:
            raise ValueError(f"the network does not fit the observation and action limits of {env.name}")

    @property
    def normalized_dim(self) -> int:
        """How many numbers are normalised: the observation, and the features of a frozen encoder."""
        own = self.network.observation_dim
        return own if learned(self.encoder) is None else self.env.observation_dim

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        encoder = None if self.encoder is None else self.encoder.to_dict()
        return attrs.asdict(self) | {"encoder": encoder}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: object = "spec") -> RunSpec:
        """The inverse of `to_dict`; `where` starts the error messages.

        Raises:
            LoadError: an unknown format version or algorithm, missing or unknown fields, or values that do not fit.
        """
        check_version(where, values.get("format_version"), FORMAT_VERSION)
        try:  # first, because it determines the class of the network
            _known(None, None, values.get("algorithm"))
        except ValueError as error:
            raise LoadError(f"{where}: {error}") from None
        kinds: dict[str, type] = {"env": EnvSpec, "network": ALGORITHMS[values["algorithm"]].network}
        optional = {"dataset": DataSource, "origin": Origin}
        kinds |= {key: kind for key, kind in optional.items() if values.get(key) is not None}
        for kind, fields in ((cls, values), *((kind, values.get(key)) for key, kind in kinds.items())):
            if not isinstance(fields, Mapping):
                raise LoadError(f"{where}: has no valid description of {kind.__name__}")
            check_names(f"{where}, {kind.__name__}", [field.name for field in attrs.fields(kind)], fields)
        try:
            parts = {key: kind(**values[key]) for key, kind in kinds.items()}
            encoder = None if values["encoder"] is None else encoder_from_dict(values["encoder"])
            return cls(**{**values, **parts, "encoder": encoder})
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            reason = str(error.args[0] if error.args else error).splitlines()[0]
            raise LoadError(f"{where}: a value does not fit: {reason}") from None

    def to_json(self) -> str:
        """The text of `spec.json`, and of "spec" in every header."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str, where: object = "spec") -> RunSpec:
        """The inverse of `to_json`; `where` starts the error messages.

        Raises:
            LoadError: the text is not a JSON object, or as in `from_dict`.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise LoadError(f"{where}: is not JSON: {error}") from None
        if not isinstance(values, dict):
            raise LoadError(f"{where}: is not a JSON object")
        return cls.from_dict(values, where)


def new_run_spec(
    algorithm: str,
    env: EnvSpec,
    network: ActorCritic,
    encoder: Encoder | None = None,
    dataset: DataSource | None = None,
    origin: Origin | None = None,
) -> RunSpec:
    """The spec of a run that starts now, with a new run_id even if the settings are those of another run."""
    run_id = secrets.token_hex(32)
    return RunSpec(algorithm, env, network, run_id, versions(), encoder, dataset=dataset, origin=origin)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on; those not installed are left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
