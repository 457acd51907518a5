"""A plan as a C header: one static arena and the offset of each tensor in it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from openglm.memory.plan import Plan


def c_header(plan: Plan) -> str:
    """C99 and C++: sizes and offsets as macros, and a table of when each piece of storage lives.

    Tensors that share a place (views, and what is computed in place) each have a macro of their own.
    """
    prefix = _identifier(plan.name)
    guard = f"{prefix}_ARENA_H"
    names: dict[str, int] = {}
    lines = [
        f"/* Memory plan of {_comment(plan.name)}: made by openglm, not to be edited.",
        f" * {plan.arena_bytes:,} bytes; no plan in this order needs less than {plan.lower_bound:,}.",
        f" * The arena has to lie at a multiple of {prefix}_ARENA_ALIGN bytes. */",
        f"#ifndef {guard}",
        f"#define {guard}",
        "",
        "#include <stddef.h>",
        "#include <stdint.h>",
        "",
        f"#define {prefix}_ARENA_BYTES {plan.arena_bytes}u",
        f"#define {prefix}_ARENA_ALIGN {plan.alignment}u",
        f"#define {prefix}_STEPS {len(plan.steps)}u",
        "",
        "/* Offsets in bytes from the beginning of the arena. */",
    ]
    for placement in plan.placements:
        for value in dict.fromkeys((*placement.values, placement.name)):
            name = f"{prefix}_{_identifier(value)}"
            names[name] = names.get(name, 0) + 1
            number = f"_{names[name]}" if names[name] > 1 else ""
            lines.append(f"#define {name}{number}_OFFSET {placement.offset}u")
            lines.append(f"#define {name}{number}_BYTES {placement.nbytes}u")
    lines += [
        "",
        "/* Storage by the step that makes it: offset, bytes, first and last step. */",
        "typedef struct {",
        "  uint32_t offset, bytes, first, last;",
        f"}} {prefix.lower()}_storage;",
        f"static const {prefix.lower()}_storage {prefix.lower()}_plan[{max(len(plan.placements), 1)}] = {{",
        *_rows(plan),
        "};",
        "",
        f"#endif /* {guard} */",
        "",
    ]
    return "\n".join(lines)


def _rows(plan: Plan) -> Iterator[str]:
    for place in plan.placements:
        numbers = f"{place.offset}u, {place.nbytes}u, {place.first}u, {place.last}u"
        yield f"  {{{numbers}}}, /* {_comment(place.name)} */"
    if not plan.placements:
        yield "  {0u, 0u, 0u, 0u},"


def _identifier(name: str) -> str:
    found = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").upper() or "TENSOR"
    return f"M_{found}" if found[0].isdigit() else found


def _comment(name: str) -> str:
    return name.replace("*/", "* /").replace("/*", "/ *").replace("\n", " ").replace("\\", "/")
