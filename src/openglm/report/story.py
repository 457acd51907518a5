"""What the figures come to, in plain sentences."""

from __future__ import annotations

from typing import Any

from openglm.bundle.manifest import Candidate, Manifest, Quality
from openglm.report import units

NOISE = 0.03
"""A difference in speed below this share is none: timings repeat no better."""

SAME = 0.005
"""A difference in size below this share is not worth a word."""

UNJUDGED = "no data was given"
"""How the manifest's sentence about data begins where the figures rest on none of the user's."""


def headline(manifest: Manifest) -> str:
    """What was done, in one sentence."""
    name, device = manifest.name, manifest.device.get("name", "the device")
    if not manifest.recipe:
        tried = [item for item in manifest.candidates if item.recipe and item.outcome != "not tried"]
        if not tried:
            return f"{name} was left as it is for {device}: no recipe was tried."
        if any(item.outcome == "accepted" for item in tried):
            return f"{name} was left as it is for {device}: it serves the budget best unchanged."
        outcome = (
            "the one recipe tried did not pay" if len(tried) == 1 else f"none of {len(tried)} recipes paid"
        )
        return f"{name} was left as it is for {device}: {outcome}."
    before, after = manifest.before, manifest.after
    weight, speed = _weight(before.size_bytes, after.size_bytes), _speed(manifest.speedup)
    # The speed is this machine's: the device's own is predicted, and stands with the verdict.
    gains = [part for part in (weight, f"{speed} where it was measured" if speed else "") if part]
    made = ", ".join(gains) if gains else "rebuilt, no faster and no smaller"
    return f"{name} for {device}: {made}, {loss(before.quality, after.quality)}."


def _speed(faster: float) -> str:
    if faster <= 0 or abs(faster - 1) < NOISE:
        return ""
    return f"{_about(faster)}× faster" if faster > 1 else f"{_about(1 / faster)}× slower"


def _about(factor: float) -> str:
    """Two digits: timings are no better than that."""
    return f"{factor:.1f}" if factor < 10 else f"{factor:,.0f}"


def _weight(before: int, after: int) -> str:
    share = (after - before) / before if before else 0.0
    if abs(share) < SAME:
        return ""
    return f"{units.percent(abs(share))} {'smaller' if share < 0 else 'larger'}"


def loss(before: Quality, after: Quality) -> str:
    """What it cost: "at a loss of 0.0073 fidelity"."""
    if before.metric != after.metric:
        return f"with {units.score(after.value)} {after.metric}"
    worse = before.value - after.value
    if worse == 0:
        return f"with no loss of {after.metric}"
    worse = worse if after.higher_is_better else -worse
    if worse < 0:
        return f"with {units.small(-worse)} better {after.metric}"
    return f"at a loss of {units.small(worse)} {after.metric}"


def standing(manifest: Manifest) -> str:
    """Whether the result fits the device, in one sentence, as predicted."""
    before, after = manifest.verdict_before, manifest.verdict_after
    device = manifest.device.get("name", "the device")
    if after.get("fits"):
        there = _speed(_latency(before) / (_latency(after) or 1.0)) if manifest.recipe else ""
        than = f", {there} there than the original" if there else ""
        also = "; the original fits, too" if before.get("fits") and manifest.recipe else ""
        return f"It is predicted to fit {device} within every limit{than}{also}."
    over = [limit for limit in after.get("limits", []) if not limit["ok"]]
    if not over:
        return f"Whether it fits {device} is not known."
    told = [
        f"{limit['name']} is {amount(limit, 'predicted')} where {amount(limit, 'budget')} is allowed"
        for limit in over
    ]
    return f"It is predicted not to fit {device}: {', '.join(told)}."


def _latency(verdict: dict[str, Any]) -> float:
    return next(
        (limit["predicted"] for limit in verdict.get("limits", []) if limit["name"] == "latency"), 0.0
    )


def amount(limit: dict[str, Any], key: str) -> str:
    """A limit's predicted or budgeted amount with its unit."""
    value = limit.get(key)
    if value is None:
        return units.NONE
    if limit.get("unit") == "ms":
        return units.ms(value)
    if limit.get("unit") == "MB":
        return units.size(value * 1e6)
    return f"{units.figure(value)}{units.NBSP}{limit.get('unit', '')}"


def allowed(manifest: Manifest) -> float:
    """The worst quality that is accepted."""
    before = manifest.before.quality
    return before.value - (manifest.max_drop if before.higher_is_better else -manifest.max_drop)


def unjudged(manifest: Manifest) -> bool:
    """Whether no data was given, so that the quality says less than it seems to."""
    return UNJUDGED in manifest.calibration.lower()


def trainings(item: Candidate) -> int:
    """How often a candidate was trained, in a search or by the steps of a recipe that was given."""
    return max(item.effort, len([step for step in item.recipe if step.get("pass") == "distil"]))


def trained(item: Candidate) -> str:
    """How often a candidate was trained, in words; empty where it was not."""
    times = trainings(item)
    words = {1: "once", 2: "twice", 3: "three times"}
    return f"trained {words.get(times, f'{times} times')}" if times else ""
