"""Errors for files and observations that are refused. Free of torch, for deployments without it."""


class LoadError(ValueError):
    """A file or tree is not what it should be; the message is one line that says what is wrong and what to do."""


class NotFiniteError(ValueError):
    """An observation holds a NaN or an infinity; the message names where."""


class NotFiniteActionError(NotFiniteError):
    """An action holds a NaN or an infinity, although the observation does not."""
