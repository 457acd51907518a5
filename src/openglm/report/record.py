"""The section on how it was made: recipe, data, command, host, versions, files."""

from __future__ import annotations

import json
import re
from typing import Any

from openglm.bundle.manifest import Manifest
from openglm.report import story, units
from openglm.report.markup import Content, Markup, tag
from openglm.report.parts import Cell, facts, section, table

LIMITS = {"latency_ms": "ms", "memory_mb": "MB", "size_mb": "MB", "energy_mj": "mJ", "load_ms": "ms"}


def show(manifest: Manifest) -> Markup:
    """The section."""
    return section(
        "record",
        "How it was made",
        tag("p", "All of this is in openglm.json as well, for programs."),
        tag("h3", "Data"),
        data(manifest),
        tag("h3", "Command"),
        _copyable(manifest.command),
        tag("h3", "Recipe"),
        _copyable(toml(manifest.recipe)) if manifest.recipe else tag("p", "None: the model is as it was."),
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


def toml(recipe: tuple[dict[str, Any], ...]) -> str:
    """A recipe as TOML: one table a step. What is None is left out, as TOML has no word for it."""
    steps = []
    for step in recipe:
        lines = [f"{_key(key)} = {_value(value)}" for key, value in step.items() if value is not None]
        steps.append("\n".join(["[[steps]]", *lines]))
    return "\n\n".join(steps)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        inner = ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items() if item is not None)
        return f"{{ {inner} }}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value(item) for item in value if item is not None)}]"
    # A JSON string is a TOML basic string, but for DEL, which JSON leaves bare and TOML refuses.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _copyable(text: str) -> Markup:
    """Text with a button that copies it; the script shows the button."""
    button = tag("button", "Copy", type="button", hidden=True, class_="copy")
    return tag("div", tag("pre", tag("code", text), tabindex=0), button, class_="copyable")


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
        ("Versions", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())),
    ]


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
