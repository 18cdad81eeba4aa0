"""The one exception that a user's mistake or a damaged file turns into."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class StudyError(Exception):
    """A fault that the user can mend; the message is one line that names the cause (with its path) and the fix."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint such as ``; did you mean 'budget'?`` for a misspelt name, or the known names when none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""
