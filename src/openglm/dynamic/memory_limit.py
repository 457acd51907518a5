"""A limit on the memory that a session takes of its process."""

from __future__ import annotations

from openglm.dynamic.footprint import resident_mb
from openglm.errors import InputError


class MemoryLimit:
    """Watches what is added to this process from when it is made on; `megabytes` (10^6 bytes) at most, any
    number of them where None.

    What is watched is the peak of the whole process's resident memory, so work beside it counts too.
    """

    def __init__(self, megabytes: float | None) -> None:
        """Raises `InputError` for a limit that is none, and where the system does not tell."""
        self._megabytes = megabytes
        if megabytes is None:
            return
        if not megabytes > 0:
            raise InputError(f"{megabytes:g} MB hold nothing.", "Give a limit above zero.")
        now, peak = resident_mb(peak=False), resident_mb(peak=True)
        if now is None or peak is None:
            raise InputError("This system does not tell how much memory is used.", "Leave out the limit.")
        self._before, self._peak = now, peak

    def check(self) -> None:
        """Raise `InputError` where more was taken."""
        if self._megabytes is None:
            return
        peak = resident_mb(peak=True) or 0.0
        # A peak of before says nothing of what came since.
        taken = (peak if peak > self._peak else resident_mb(peak=False) or 0.0) - self._before
        if taken > self._megabytes:
            raise InputError(
                f"It took {taken:.0f} MB of memory, and {self._megabytes:g} MB are allowed.",
                "Make a smaller bundle with `openglm optimize --memory-mb`, or allow more.",
            )
