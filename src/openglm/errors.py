"""What can go wrong, said in one sentence, and what to do about it, in another.

Every error a user can meet derives from `OpenGLMError`; the command line prints its two sentences
and leaves with its exit code. Anything else that escapes is a fault of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class OpenGLMError(Exception):
    """A problem a user can act on.

    `problem` says what is wrong and `advice` what to do, each in one sentence.
    """

    exit_code = 2

    def __init__(self, problem: str, advice: str) -> None:
        super().__init__(f"{problem} {advice}")
        self.problem = problem
        self.advice = advice


class InputError(OpenGLMError):
    """What was handed in cannot be used: a file, a name, a shape, a value. Exit code 2."""


class MissingExtraError(OpenGLMError):
    """An optional part of the installation is needed and not there. Exit code 2."""

    def __init__(self, need: str, extra: str) -> None:
        super().__init__(f"{need} is not installed.", f'Install it with: pip install "openglm[{extra}]".')


class VerificationError(OpenGLMError):
    """A bundle is not what its manifest says: changed, incomplete, or other outputs. Exit code 4."""

    exit_code = 4


class OutputError(OpenGLMError):
    """The result cannot be written. Nothing half written stays behind. Exit code 5."""

    exit_code = 5


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """A hint for a misspelt `name`: "Did you mean a, b?", or the list of all where none is near."""
    candidates = sorted(known)
    close = difflib.get_close_matches(name.lower(), candidates, n=count, cutoff=0.5)
    if close:
        return f"Did you mean {', '.join(close)}?"
    return f"Known are: {', '.join(candidates)}."
