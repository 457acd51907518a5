"""The C header compiles, as C and as C++, and says what the plan says."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from openglm.memory.c_header import c_header
from openglm.memory.plan import Placement, plan
from openglm.model.analysis.shapes import resolve
from planned_graphs import mixed

PROGRAM = """
#include "plan.h"
#include <stdio.h>
static uint8_t arena[G_ARENA_BYTES];
int main(void) {
  size_t i;
  arena[0] = 1;
  printf("%u %u %u\\n", G_ARENA_BYTES, G_X_OFFSET, G_H_OFFSET);
  for (i = 0; i < sizeof g_plan / sizeof g_plan[0]; ++i)
    printf("%u %u %u %u\\n", g_plan[i].offset, g_plan[i].bytes, g_plan[i].first, g_plan[i].last);
  return arena[0] - 1;
}
"""


@pytest.mark.parametrize(("compiler", "suffix"), [("cc", "c"), ("c++", "cpp")])
def test_it_compiles(tmp_path: Path, compiler: str, suffix: str) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    planned = plan(resolve(mixed()))
    (tmp_path / "plan.h").write_text(c_header(planned))
    source = tmp_path / f"main.{suffix}"
    source.write_text(PROGRAM)
    flags = ["-Wall", "-Wextra", "-Werror", "-pedantic"]
    subprocess.run([compiler, *flags, str(source), "-o", str(tmp_path / "main")], check=True)
    first, *rows = subprocess.run(
        [tmp_path / "main"], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    offsets = {value: place.offset for place in planned.placements for value in place.values}
    assert first == f"{planned.arena_bytes} {offsets['x']} {offsets['h']}"
    wanted = [f"{place.offset} {place.nbytes} {place.first} {place.last}" for place in planned.placements]
    assert rows == wanted


def test_names_that_c_does_not_take_stay_apart() -> None:
    planned = plan(resolve(mixed()))
    odd = [
        Placement(name=name, offset=64 * index, nbytes=64, first=0, last=0, values=(name,))
        for index, name in enumerate(("a/b", "a.b", "1", "*/ evil", "ü"))
    ]
    text = c_header(planned.model_copy(update={"name": "3 nets", "placements": tuple(odd)}))
    for macro in ("M_3_NETS_A_B_OFFSET 0u", "M_3_NETS_A_B_2_OFFSET 64u", "M_3_NETS_M_1_OFFSET 128u"):
        assert f"#define {macro}" in text
    assert "*/ evil" not in text
