"""Recipes: TOML that is read back as it was written, and refused in plain words where it is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openglm.errors import InputError
from openglm.passes import recipe
from openglm.passes.contract import GraphPass, ModulePass
from openglm.passes.dynamic_wi8_ai8 import DynamicInt8
from openglm.passes.fuse import Fuse
from openglm.passes.magnitude import MagnitudePruning
from openglm.passes.static_wi8_ai8 import StaticInt8

names = st.text('abcdefgh._é"\\\x7f', min_size=1, max_size=8)


@given(
    skip=st.lists(names, max_size=3),
    per_channel=st.booleans(),
    percentile=st.floats(51, 100),
    sparsity=st.floats(0.01, 0.99),
)
def test_written_and_read(
    tmp_path_factory: pytest.TempPathFactory,
    skip: list[str],
    per_channel: bool,
    percentile: float,
    sparsity: float,
) -> None:
    steps = (
        MagnitudePruning(sparsity=sparsity),
        Fuse(),
        StaticInt8(skip=tuple(skip), per_channel=per_channel, percentile=percentile),
    )
    path = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    path.write_text(recipe.toml([step.to_recipe() for step in steps]), encoding="utf-8")
    assert recipe.read(path) == steps


def test_split_and_code() -> None:
    steps = (MagnitudePruning(sparsity=0.5), Fuse(), DynamicInt8())
    modules, graphs, program = recipe.split(steps)
    assert program == ()
    assert all(isinstance(step, ModulePass) for step in modules)
    assert all(isinstance(step, GraphPass) for step in graphs)
    assert modules + graphs == steps
    assert recipe.code(steps) == f"{steps[0].code} + fuse + dynamic_wi8_ai8"
    assert recipe.code(()) == "as it is"


def test_digest_tells_recipes_apart() -> None:
    one, other = (Fuse(), DynamicInt8()), (Fuse(), DynamicInt8(per_channel=False))
    assert recipe.digest(one) == recipe.digest((Fuse(), DynamicInt8()))
    assert len({recipe.digest(steps) for steps in (one, other, one[:1], ())}) == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no steps"),
        ("steps = 3", "has no steps"),
        ("[[steps]]\npass = 'fuse'\n[others]\na = 1", "'others' beside its steps"),
        ("[[steps]]\npass = 'fuze'", "no pass 'fuze'"),
        ("[[steps]]\npass = 'fuse'\nstrength = 1", "not valid at strength"),
        ("[[steps]", "cannot be read"),
        ("[[steps]]\npass = 'fuse'\n[[steps]]\npass = 'magnitude_pruning'\nsparsity = 0.5", "after fuse"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=words):
        recipe.read(path)


def test_missing_and_binary(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no recipe"):
        recipe.read(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        recipe.read(tmp_path / "binary.toml")


def test_engines_are_named_beside_the_steps(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    steps = '[[steps]]\npass = "fp16"\n'
    path.write_text(steps)
    assert recipe.read_targets(path) is None
    path.write_text(steps + '[targets]\nruntimes = ["mnn"]\nprecision = "int8"\nsizes = { n = [8] }\n')
    found = recipe.read_targets(path)
    assert found == recipe.Targets(runtimes=("mnn",), precision="int8", sizes={"n": (8,)})
    assert len(recipe.read(path)) == 1
    for wrong in ("runtimes = []", 'runtimes = ["mnn"]\nprecision = "int3"', "runtime = 'mnn'"):
        path.write_text(f"{steps}[targets]\n{wrong}\n")
        with pytest.raises(InputError, match="targets"):
            recipe.read_targets(path)
