"""Layers grouped by the module they came from, as finely as a table of a given length can show."""

from __future__ import annotations

from collections.abc import Sequence

from openglm.model.analysis.statistics import Layer

NO_MODULE = "(no module)"

Groups = dict[str, list[Layer]]


def group(layers: Sequence[Layer], most: int) -> list[tuple[str, list[Layer]]]:
    """At most `most` groups of layers, by the beginnings of their dotted names, in order of the graph.

    The group with the most multiply-accumulates is cut one level finer as long as there is room.
    A graph without module names is grouped by its heaviest nodes and "others".
    """
    if all(layer.name == layer.node for layer in layers):
        return _heaviest(layers, most)
    groups = _cut(layers, 1)
    finished: set[str] = set()
    while open_groups := [name for name in groups if name not in finished]:
        name = max(open_groups, key=lambda name: _weight(groups[name]))
        parts = _cut(groups[name], name.count(".") + 2) if name != NO_MODULE else groups
        if len(groups) - 1 + len(parts) > most or set(parts) == {name} or name == NO_MODULE:
            finished.add(name)
            continue
        # A module's own nodes keep its name; they are not cut again.
        finished |= {name} & set(parts)
        groups = {
            key: members
            for outer in groups
            for key, members in (parts.items() if outer == name else ((outer, groups[outer]),))
        }
    return list(groups.items())


def _heaviest(layers: Sequence[Layer], most: int) -> list[tuple[str, list[Layer]]]:
    by_cost = sorted(range(len(layers)), key=lambda index: _weight([layers[index]]), reverse=True)
    kept = sorted(by_cost[: most if len(layers) <= most else most - 1])
    rest = [layers[index] for index in sorted(by_cost[len(kept) :])]
    found = [(layers[index].name, [layers[index]]) for index in kept]
    return [*found, (f"{len(rest)} others", rest)] if rest else found


def _cut(layers: Sequence[Layer], level: int) -> Groups:
    groups: Groups = {}
    for layer in layers:
        name = NO_MODULE if layer.name == layer.node else ".".join(layer.name.split(".")[:level])
        groups.setdefault(name, []).append(layer)
    return groups


def _weight(layers: Sequence[Layer]) -> tuple[int, int]:
    return sum(layer.macs for layer in layers), sum(layer.read_bytes + layer.write_bytes for layer in layers)
