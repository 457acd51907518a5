"""The section on a program: the ways that inputs may take through it."""

from __future__ import annotations

from openglm.bundle.manifest import Gate, Manifest, Program, Recalibration
from openglm.dynamic.gates.tokens import LEAST
from openglm.report import units
from openglm.report.markup import Markup, tag
from openglm.report.parts import Cell, section, table

SAYS = {
    "confidence": "ends here where the answer is at least {threshold:.1%} probable",
    "entropy": "ends here where the answer's entropy is at most {threshold:.3g} of the largest",
    "learned": "ends here where the answer is at least {threshold:.1%} sure to stay",
    "patience": "ends here once {patience} exits in a row have agreed",
    "wake": "wakes the next where that is at least {threshold:.1%} probable",
    "tokens": "keeps the {least} most important tokens and {others} of the others",
    "length": "goes by the number of tokens, up to {bounds}",
    "size": "goes by the size of {input}, up to {limit}",
}
"""What a gate does, by its kind, from its settings."""


def show(manifest: Manifest) -> Markup | None:
    """The section; nothing where the bundle is one whole model."""
    program = manifest.program
    if not program.gates:
        return None
    notes = [note for item in manifest.candidates if item.outcome == "chosen" for note in item.notes]
    heads = [Cell("Node"), Cell("What it does"), Cell("Work", "number"), Cell("Then")]
    return section(
        "ways",
        "Ways through it",
        tag("p", "Work is a share of the whole model's multiply-accumulates."),
        [tag("p", note) for note in notes if note.startswith(("Inputs leave", "Tokens are", "The "))],
        tag("p", said) if (said := average(manifest)) else None,
        table("The program, node by node, in order", heads, _rows(program)),
        [_again(record) for record in manifest.recalibrated[-1:]],
    )


def average(manifest: Manifest) -> str:
    """What inputs cost in the mean on the device, where it is known how far they go."""
    work, where = manifest.mean_work, "the samples that judged"
    if manifest.recalibrated:
        record = manifest.recalibrated[-1]
        work, where = record.work[1], record.data
    if work is None:
        return ""
    predicted = {limit["name"]: limit["predicted"] for limit in manifest.verdict_after["limits"]}
    latency, energy = predicted["latency"], predicted["energy"]
    return (
        f"On {where} an input does {units.percent(work)} of the work in the mean. At that share "
        f"{manifest.device['name']} is predicted to take {units.ms(work * latency)} and "
        f"{units.figure(work * energy)}{units.NBSP}mJ for one, and {units.ms(latency)} and "
        f"{units.figure(energy)}{units.NBSP}mJ for one that goes all the way."
    )


def _rows(program: Program) -> list[list[Cell]]:
    segments = {segment.name: segment for segment in program.segments}
    gates = {gate.name: gate for gate in program.gates}
    rows = []
    for name in program.order:
        if name in segments:
            work = units.percent(segments[name].work)
            then = segments[name].next or "the end"
            rows.append([Cell(name), Cell("a graph, run by the engine"), Cell(work, "number"), Cell(then)])
        else:
            gate = gates[name]
            then = ", or ".join(dict.fromkeys(route or "the end" for route in gate.routes))
            rows.append([Cell(name), Cell(says(gate)), Cell("", "number"), Cell(then)])
    return rows


def says(gate: Gate) -> str:
    """What a gate does, in words."""
    if len(gate.routes) > 1 and len(set(gate.routes)) == 1 and gate.kind != "length":
        return "is closed: nothing ends here"
    settings = gate.settings
    if gate.kind == "tokens" and (least := settings.get("threshold", 0.0) * settings.get("scale", 1.0)):
        return f"drops tokens below {least:.3g} times the mean importance"
    values = {
        "least": LEAST,
        **settings,
        "others": units.percent(settings.get("share", 1.0)),
        "bounds": ", ".join(map(str, settings.get("buckets", ()))),
    }
    return SAYS[gate.kind].format_map(values) if gate.kind in SAYS else f"decides by {gate.kind}"


def again(record: Recalibration) -> str:
    """What came of setting thresholds again, after the words "Thresholds were set again"."""
    work = [units.percent(share) for share in record.work]
    return (
        f"on {units.count(record.samples, 'sample')} of {record.data}, after all other figures here were "
        f"measured. There the program does {work[1]} of the whole model's work, at a loss of "
        f"{record.drop[1]:.4f} beyond it; with the thresholds it had before, {work[0]}, at a loss of "
        f"{record.drop[0]:.4f}."
    )


def _again(record: Recalibration) -> Markup:
    lead = tag("strong", "Thresholds were set again ")
    return tag("p", lead, " ".join((again(record), *record.notes)), class_="warning")
