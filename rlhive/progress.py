"""Shows progress on stderr: a bar on a terminal, otherwise a line now and then."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from typing import TextIO

from tqdm import tqdm

from rlhive.core.stats import iqm


class Progress:
    """Shows steps, their rate, return, success rate and time left: a bar on a terminal, else a line now and then.

    Args:
        total_steps: environment steps of the whole run, per seed; offline, gradient updates.
        initial_step: where a resumed run begins.
        interval: seconds between two lines if the stream is not a terminal.
        stream: where to write; None is stderr.
    """

    def __init__(
        self,
        total_steps: int,
        *,
        initial_step: int = 0,
        interval: float = 10.0,
        stream: TextIO | None = None,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        plain = not self._stream.isatty()
        self._bar = tqdm(
            total=total_steps,
            initial=initial_step,
            unit="step",
            file=self._stream,
            disable=plain,
            dynamic_ncols=True,
        )
        self._plain, self._interval = plain, interval
        self._total, self._initial, self._step = total_steps, initial_step, initial_step
        self._started = self._last_line = time.monotonic()
        self._shown: int | None = None
        self._return: dict[str, str] = {}
        self._success: dict[str, str] = {}

    def update(self, step: int, returns: Sequence[float] = (), success_rate: float | None = None) -> None:
        """Shows that `step` is reached; the last given returns of the seeds and success rate (0 to 1) stay shown."""
        # A return that is not finite comes from a broken episode; showing it must not end the run.
        returns = [value for value in returns if math.isfinite(value)]
        if returns:
            spread = f" ({min(returns):.1f} to {max(returns):.1f})" if len(returns) > 1 else ""
            self._return = {"return IQM" if spread else "return": f"{iqm(returns):.1f}{spread}"}
        if success_rate is not None:
            self._success = {"success": f"{success_rate:.0%}"}
        if not self._plain:
            self._bar.set_postfix({**self._return, **self._success}, refresh=False)
            self._bar.update(step - self._step)
        self._step = step
        if self._plain and time.monotonic() - self._last_line >= self._interval:
            self._line()

    def note(self, text: str) -> None:
        """Writes a line of its own, which stays."""
        tqdm.write(text, file=self._stream)

    def close(self) -> None:
        """Ends the bar, or writes a last line."""
        if self._plain and self._shown != self._step:
            self._line()
        self._bar.close()

    def _line(self) -> None:
        self._last_line, self._shown = time.monotonic(), self._step
        text = tqdm.format_meter(
            self._step,
            self._total,
            self._last_line - self._started,
            unit="step",
            initial=self._initial,
            postfix=", ".join(f"{name} {value}" for name, value in {**self._return, **self._success}.items()),
            bar_format="{n_fmt}/{total_fmt} steps ({percentage:.0f}%), {rate_fmt}{postfix}, {remaining} left",
        )
        self._stream.write(text + "\n")
        self._stream.flush()
