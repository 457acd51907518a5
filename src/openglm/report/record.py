"""The section on how it was made: recipe, data, command, host, versions, files."""

from __future__ import annotations

from typing import Any

from openglm.bundle.manifest import Manifest
from openglm.passes.recipe import toml
from openglm.report import story, units
from openglm.report.markup import Content, Markup, tag
from openglm.report.parts import Cell, copyable, facts, section, table

LIMITS = {"latency_ms": "ms", "memory_mb": "MB", "size_mb": "MB", "energy_mj": "mJ", "load_ms": "ms"}
RECIPE_FILE = "recipe.toml"


def show(manifest: Manifest) -> Markup:
    """The section."""
    return section(
        "record",
        "How it was made",
        tag("p", "All of this is in openglm.json as well, for programs."),
        tag("h3", "Data"),
        data(manifest),
        _training(manifest),
        tag("h3", "Command"),
        copyable(manifest.command),
        tag("h3", "Recipe"),
        copyable(toml(manifest.recipe)) if manifest.recipe else tag("p", "None: the model is as it was."),
        _again(manifest),
        _notes(manifest),
        tag("h3", "Model and machine"),
        facts(_facts(manifest)),
        tag("h3", "Files"),
        _files(manifest),
    )


def data(manifest: Manifest) -> Markup:
    """What the ranges and the quality rest on; with a warning where it is none of the user's."""
    text = manifest.calibration
    text = text if text.endswith((".", "!", "?")) else f"{text}."
    if not story.unjudged(manifest):
        return tag("p", text)
    text = text[:1].upper() + text[1:]
    lead = tag("strong", "Not judged on your data. ")
    return tag("p", lead, text, class_="warning")


def _training(manifest: Manifest) -> Markup | None:
    """What was trained on, where anything was trained."""
    if not manifest.training:
        return None
    chosen = [item for item in manifest.candidates if item.outcome == "chosen"]
    if any(map(story.trainings, chosen)):
        return tag("p", f"Trained on {manifest.training}.")
    if any(map(story.trainings, manifest.candidates)):
        return tag("p", f"Trained on {manifest.training}: other candidates, not the one chosen.")
    return None


def _again(manifest: Manifest) -> Markup | None:
    """How the recipe's file is used, where there is one beside the page."""
    if RECIPE_FILE not in manifest.files:
        return None
    command = tag("code", f"openglm optimize MODEL ... --recipe {RECIPE_FILE}")
    file = tag("code", RECIPE_FILE, class_="whole")
    return tag("p", file, " beside this page holds the recipe, and ", command, " rebuilds the model with it.")


def _notes(manifest: Manifest) -> Markup | None:
    chosen = next((item for item in manifest.candidates if item.outcome == "chosen"), None)
    if chosen is None or not chosen.notes:
        return None
    return tag("ul", [tag("li", note) for note in chosen.notes], class_="notes")


def _facts(manifest: Manifest) -> list[tuple[str, Content]]:
    source, host = manifest.source, manifest.host
    limits = [
        f"{key.rsplit('_', 1)[0]} {units.number(value)}{units.NBSP}{LIMITS[key]}"
        for key, value in manifest.budget.items()
        if key in LIMITS and value is not None
    ]
    drop = f"at most {units.number(manifest.max_drop)} {manifest.before.quality.metric} lost"
    origin = "" if source.source == source.name else f" from {source.source}"
    return [
        ("Model", f"{source.name}{origin}: {manifest.task}, {_millions(source.parameters)} parameters"),
        ("Inputs", _lines(manifest.inputs)),
        ("Outputs", _lines(manifest.outputs)),
        (
            "Measured with",
            ", ".join(f"{name} {size}" for name, size in manifest.shape.items()) or "fixed shapes",
        ),
        ("Budget", ", ".join([*limits, drop])),
        ("Host", f"{host.processor}, {units.count(host.cores, 'core')}, {host.system}, {host.engine}"),
        *([("Threads", _threads(manifest))] if manifest.threads else []),
        *([("Activations", _arenas(manifest))] if manifest.arenas else []),
        ("Versions", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())),
    ]


def _threads(manifest: Manifest) -> str:
    told = [
        f"{units.count(item.threads, 'thread')} {units.ms(item.timing.median_ms)}"
        for item in manifest.threads
    ]
    return f"{', '.join(told)}; an app is best served by {manifest.best_threads}"


def _arenas(manifest: Manifest) -> str:
    told = []
    for item in manifest.arenas:
        proof = "the least possible" if item.optimal else f"at least {units.size(item.lower_bound)}"
        name = f"{item.segment} " if len(manifest.arenas) > 1 else ""
        told.append(f"{name}{units.size(item.arena_bytes)} ({proof})")
    return f"{', '.join(told)} in one static arena; the offsets are in {manifest.plans}"


def _lines(specs: tuple[Any, ...]) -> list[Content]:
    return [tag("code", str(spec), class_="line") for spec in specs]


def _millions(many: int) -> str:
    return f"{units.figure(many / 1e6)}{units.NBSP}M" if many >= 1e6 else f"{many:,}"


def _files(manifest: Manifest) -> Markup:
    heads = [Cell("File"), Cell("Size", "number"), Cell("SHA-256, its beginning")]
    rows = [
        [
            Cell(tag("code", name)),
            Cell(units.size(file.bytes), "number"),
            Cell(tag("code", file.sha256[:12], title=file.sha256)),
        ]
        for name, file in manifest.files.items()
    ]
    return table("Files beside this page", heads, rows, "files")
