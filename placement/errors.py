"""The exception tree of the placement core.

::

    PlacementError
    ├── ConfigError     a strategy, setting or parameter that cannot be used
    │   └── TooLarge    a quantity that is too large to add up
    ├── ModelError      a model file that does not belong to this build
    │   └── NoModel     a folder without a model, which is a ConfigError as well
    └── StateError      a change that contradicts the ledger

"Does not fit" and "the solver ran out of time" are values, not exceptions. Each message says what
happened, to which input, and what to do. ``TraceError`` lives in ``simulator``, ``WireError`` and
``ApiError`` in ``scheduler``; they derive from :class:`PlacementError` too, so that a command line
can turn every expected failure into one message and an exit code.
"""

import difflib

import msgspec


class PlacementError(Exception):
    """Base of every error that Ullage raises on purpose."""


class ConfigError(PlacementError):
    """A strategy, setting or parameter that cannot be used; the command line exits 2."""


class TooLarge(ConfigError):
    """A quantity that is too large to add up."""


class ModelError(PlacementError):
    """A model file that is damaged or was fitted for another schema."""


class NoModel(ModelError, ConfigError):
    """A folder without a model: an input that is not there."""


class StateError(PlacementError):
    """A change that contradicts the ledger: an unknown node, a pod bound twice."""


UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding raises: for no JSON or the wrong shape, for bytes that are no UTF-8, for lists a thousand deep."""


def why(error: Exception) -> str:
    """What went wrong, without number and path: the message that quotes it names the input itself."""
    return (error.strerror if isinstance(error, OSError) else "") or str(error)


def yaml_fault(error: Exception) -> str:
    """What the YAML parser found wrong, in one line; its own message is several, with the text that it is about."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    return f"line {mark.line + 1}: {problem}" if mark and problem else " ".join(str(error).split())


def nearest(word: str, known: list[str]) -> str:
    """``did you mean …?`` for the closest known word, or the list of all."""
    close = difflib.get_close_matches(word, known, 1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known))}"
