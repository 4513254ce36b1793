"""Environments that misbehave, apart from the tests so that worker processes import no torch to find them."""

import time

from tests.envs.toy import ReachPoint


class Slow(ReachPoint):
    def step(self, action):
        time.sleep(0.3)
        return super().step(action)


class Failing(ReachPoint):
    """Fails on its third step when the episode's seed is the fatal one."""

    def __init__(self, fatal):
        super().__init__()
        self.fatal = fatal

    def reset(self, seed=None):
        self.armed = seed == self.fatal
        return super().reset(seed)

    def step(self, action):
        if self.armed and self._elapsed == 2:
            raise ArithmeticError("the arm fell off")
        return super().step(action)


class Exhausted(ReachPoint):
    """Asks an iterator for more than it has."""

    def step(self, action):
        return next(iter(()))


def unbuildable():
    raise FileNotFoundError("no such model: arm.xml")


class _Noted(ReachPoint):
    """Leaves a file in a directory when it is opened and when it is closed."""

    def __init__(self, directory):
        super().__init__()
        self.directory = directory
        (directory / "opened").touch()

    def close(self):
        (self.directory / "closed").touch()


def second_unbuildable(directory):
    return unbuildable() if (directory / "opened").exists() else _Noted(directory)
