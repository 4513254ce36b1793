"""Errors that files and observations are refused with. Free of torch, for deployments that do without."""


class LoadError(ValueError):
    """A file or a tree is not what it has to be; the message is one line that says what and what to do."""


class NotFiniteError(ValueError):
    """An observation holds a NaN or an infinity; the message names where."""


class NotFiniteActionError(NotFiniteError):
    """An action does, though the observation does not."""
