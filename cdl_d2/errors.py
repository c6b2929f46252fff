"""The errors that are not bugs: a command prints them as one line, without a traceback."""


class CdlError(ValueError):
    """Something given cannot be used; the message says what, what was expected, and what to do."""


class MissingPackageError(CdlError, ImportError):
    """A package that is needed for this is not installed; the message says how to install it."""


class DivergedError(CdlError, FloatingPointError):
    """A training's loss is not finite any more."""
