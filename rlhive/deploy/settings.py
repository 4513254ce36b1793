"""How a control loop runs and when it stops."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import attrs
import numpy as np

from rlhive.core.converters import floats
from rlhive.core.env_spec import EnvSpec

_MIN_DELTA = 1e-4


def _plain(value: Any) -> Any:
    """A number of any type as an int or a float, as JSON has them; the validators refuse anything else."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def _positive(kind: Any, expected: str) -> Callable[[Settings, attrs.Attribute[Any], Any], None]:
    """A validator that requires a positive, finite number of this kind; a bool is not a number."""

    def check(_: Settings, field: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{field.name} must be {expected}, got {value!r}")
        if not 0 < value < math.inf:
            raise ValueError(f"{field.name} must be positive and finite, got {value}")

    return check


_number = _positive(Real, "a number")
_optional_number = attrs.validators.optional(_number)
_optional_count = attrs.validators.optional(_positive(Integral, "a whole number"))


def _bool(_: Settings, field: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{field.name} must be True or False, got {value!r}")


def _action(values: Any) -> tuple[float, ...]:
    try:
        return floats(values)
    except (TypeError, ValueError):
        raise ValueError(f"safe_action must be a number for each actuator, got {values!r}") from None


def _not_too_small(_: Settings, field: attrs.Attribute[Any], value: float | None) -> None:
    if value is not None and value < _MIN_DELTA:
        raise ValueError(f"{field.name} is {value}: below {_MIN_DELTA:g} no action would ever be reached")


@attrs.frozen
class Settings:
    """How a loop runs and when it stops.

    Attributes:
        max_steps: steps after which the loop finishes; None for no limit.
        max_seconds: seconds after which the loop finishes; None for no limit.
        safe_action: where to go after a fault, `[A]`; None to hold the last action.
        max_delta: the largest change of an action per step, in its units; on hardware, from the last command. None for
            no limit.
        staleness: maximum age of a measurement, seconds; None for two control periods.
        frozen: seconds for which all values of a device with several sensors, or an image, may stay the same in every
            bit.
        dry_run: do everything but send; hardware is not reset either.
    """

    max_steps: int | None = attrs.field(default=None, converter=_plain, validator=_optional_count)
    max_seconds: float | None = attrs.field(default=None, converter=_plain, validator=_optional_number)
    safe_action: tuple[float, ...] | None = attrs.field(
        default=None, converter=attrs.converters.optional(_action)
    )
    max_delta: float | None = attrs.field(
        default=None, converter=_plain, validator=[_optional_number, _not_too_small]
    )
    staleness: float | None = attrs.field(default=None, converter=_plain, validator=_optional_number)
    frozen: float = attrs.field(default=1.0, converter=_plain, validator=_number)
    dry_run: bool = attrs.field(default=False, validator=_bool)


def check_max_delta(settings: Settings, *, is_hardware: bool) -> None:
    """Refuses hardware without a limit; needs no policy, so it can run early.

    Raises:
        ValueError: naming the setting.
    """
    if is_hardware and settings.max_delta is None:
        raise ValueError("hardware needs max_delta, the most that an action may change per step")


def check_settings(settings: Settings, env: EnvSpec, *, is_hardware: bool) -> None:
    """Refuses settings that do not fit a robot, before anything is sent.

    Raises:
        ValueError: naming the setting.
    """
    check_max_delta(settings, is_hardware=is_hardware)
    if settings.safe_action is not None:
        safe = np.asarray(settings.safe_action, np.float32)
        if safe.shape != (env.action_dim,) or not np.isfinite(safe).all():
            raise ValueError(
                f"safe_action must be {env.action_dim} finite numbers, got {list(settings.safe_action)}"
            )
        if (safe < np.asarray(env.action_low, np.float32)).any() or (
            safe > np.asarray(env.action_high, np.float32)
        ).any():
            raise ValueError(f"safe_action is outside the action's limits: {list(settings.safe_action)}")


def check_act_mode(settings: Settings, act_mode: str) -> None:
    """Refuses a safe action if hardware takes velocities (`act_mode` "vel"): moving there would need the sensors.

    Raises:
        ValueError: naming the setting.
    """
    if act_mode == "vel" and settings.safe_action is not None:
        raise ValueError(
            "safe_action must not be given where actions are velocities: after a fault such a robot stands still, "
            "because its last position is sent again"
        )
