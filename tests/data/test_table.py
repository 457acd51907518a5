"""Tables as GLUE, spreadsheets and programs write them, and broken in real ways."""

from __future__ import annotations

import builtins
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from openglm.data import Sample, open_data
from openglm.errors import InputError, MissingExtraError

STSB = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(
            f'{STSB}\n0\tnews\tf\t2012\t1\tn\tn\tHe said "no.\t"Yes" it is.\t3.750\n',
            Sample({"text": 'He said "no.', "text_pair": '"Yes" it is.'}, 3.75),
            id="STS-B, with quotation marks that mean nothing",
        ),
        pytest.param(
            "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t10\t11\tOne .\tTwo .\r\n",
            Sample({"text": "One .", "text_pair": "Two ."}, 1),
            id="MRPC, with a byte order mark",
        ),
        pytest.param(
            "gj04\t0\t*\tThey drank the pub.\n", Sample({"text": "They drank the pub."}, 0), id="CoLA"
        ),
        pytest.param("index\tsentence\n0\tBill slept.\n", Sample({"text": "Bill slept."}), id="CoLA test"),
        pytest.param("sentence\tlabel\nfine . \t1\n\n", Sample({"text": "fine . "}, 1), id="SST-2"),
        pytest.param(
            "index\tquestion\tsentence\tlabel\n0\tWhat?\tThat.\tnot_entailment\n",
            Sample({"text": "What?", "text_pair": "That."}, "not_entailment"),
            id="QNLI",
        ),
        pytest.param(
            "premise\thypothesis\tlabel1\tgold_label\nA\tB\tneutral\tentailment\n",
            Sample({"text": "A", "text_pair": "B"}, "entailment"),
            id="MNLI",
        ),
    ],
)
def test_tsv_as_glue_has_it(content: str, expected: Sample, tmp_path: Path) -> None:
    dataset = open_data(write(tmp_path / "dev.tsv", content))
    assert list(dataset) == [expected]
    assert dataset.labelled == (expected.label is not None)
    assert dataset.name == "dev.tsv"


def test_csv_with_quotes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'Label,Text\npos,"a, ""b""\nc"\n-1.5e1,d\n')
    assert list(open_data(path)) == [Sample({"text": 'a, "b"\nc'}, "pos"), Sample({"text": "d"}, -15.0)]


def test_json_lines_and_an_array(tmp_path: Path) -> None:
    rows = [{"text": "a\u2028b", "label": 2}, {"text": "", "label": "x"}]
    lines = write(tmp_path / "a.jsonl", "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    array = write(tmp_path / "a.json", json.dumps(rows, indent=2))
    expected = [Sample({"text": "a\u2028b"}, 2), Sample({"text": ""}, "x")]
    assert (list(open_data(lines)), list(open_data(array))) == (expected, expected)


def test_text_lines(tmp_path: Path) -> None:
    dataset = open_data(write(tmp_path / "a.txt", "one\n\ntwo\r\n"), limit=5)
    assert [sample.inputs["text"] for sample in dataset] == ["one", "two"]


def test_columns_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "review,stars,text\nfine,5,x\n")
    assert list(open_data(path, columns={"text": "review", "label": "stars"})) == [
        Sample({"text": "fine"}, 5)
    ]
    assert list(open_data(path, columns={"label": "stars"})) == [Sample({"text": "x"}, 5)]
    with pytest.raises(InputError, match="no column 'revue'") as raised:
        open_data(path, columns={"text": "revue"})
    assert "review" in raised.value.advice


def test_images_stand_beside_the_table(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "file_name,label\nimages/1.png,cat\n")
    assert list(open_data(path)) == [Sample({"image": tmp_path / "images/1.png"}, "cat")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "", "holds no samples"),
        ("a.csv", "text,label\n", "holds no samples"),
        ("a.jsonl", "\n", "holds no samples"),
        ("a.json", "[]", "holds no samples"),
        ("a.tsv", "id\tname\n1\tx\n", r"its columns are id, name"),
        ("a.jsonl", "3\n", "no column"),
        ("a.tsv", "text\tlabel\na\t1\nb\n", r"a\.tsv:3 has 1 fields where the first line has 2"),
        ("a.csv", "text,label\na,1\nb,2,3\n", r"a\.csv:3 has 3 fields"),
        ("a.csv", 'text,label\na,1\n"b,2\n', r"a\.csv:3 is broken"),
        ("a.tsv", "text\tlabel\na\t1\nb\t \n", r"a\.tsv:3 has an empty label"),
        ("a.jsonl", '{"text": "a"}\n{"text": "b"\n', r"a\.jsonl:2 is not JSON"),
        ("a.jsonl", '{"text": "a"}\n{"txt": "b"}\n', r"a\.jsonl:2 has no 'text'"),
        ("a.jsonl", '{"text": "a"}\n[1]\n', r"a\.jsonl:2 is no mapping"),
        ("a.json", '[{"text": "a"}, ', r"a\.json is not JSON"),
        ("a.tsv", "text\nplain\ncaf\xe9\n".encode("latin-1"), r"a\.tsv:3 is not UTF-8"),
        ("a.csv", "text,label\na,1\n".encode("utf-16"), r"a\.csv:1 is not UTF-8"),
        ("a.parquet", b"PAR1 and no more", "cannot be read as parquet"),
        ("a.xls", "x", "no known kind"),
    ],
)
def test_broken_tables_are_named(name: str, content: str | bytes, message: str, tmp_path: Path) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    with pytest.raises(InputError, match=message):
        list(open_data(write(tmp_path / name, content)))


def test_rows_before_a_broken_one_are_given(tmp_path: Path) -> None:
    dataset = open_data(write(tmp_path / "a.tsv", "text\tlabel\na\t1\nbroken\n"))
    assert next(iter(dataset)) == Sample({"text": "a"}, 1)


def parquet(path: Path, rows: list[dict[str, Any]], group: int = 100) -> Path:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is what parquet is written with")
    from pyarrow import parquet as files

    files.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=group)
    return path


def test_parquet_with_images_as_hugging_face_keeps_them(tmp_path: Path) -> None:
    rows = [
        {"image": {"bytes": b"png", "path": None}, "label": 4},
        {"image": {"bytes": None, "path": "x"}, "label": 1},
    ]
    expected = [Sample({"image": b"png"}, 4), Sample({"image": tmp_path / "x"}, 1)]
    assert list(open_data(parquet(tmp_path / "a.parquet", rows))) == expected


def test_a_truncated_parquet_file(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", [{"text": "a", "label": 1}] * 10)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="cannot be read as parquet"):
        open_data(path)


def test_a_parquet_file_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"openglm\[tables\]"):
        open_data(write(tmp_path / "a.parquet", b"PAR1"))


def peak(path: Path) -> int:
    """Most bytes of Python memory held while a file is read."""
    tracemalloc.start()
    for _ in open_data(path):
        pass
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return held


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl", "a.parquet"])
def test_memory_does_not_grow_with_the_file(name: str, tmp_path: Path) -> None:
    def made(count: int) -> Path:
        path = tmp_path / f"{count}-{name}"
        if name == "a.parquet":
            return parquet(path, [{"text": f"{number} " * 50} for number in range(count)], group=500)
        if name == "a.jsonl":
            return write(path, "\n".join(json.dumps({"text": f"{number} " * 50}) for number in range(count)))
        return write(path, "text\n" + "\n".join(f"{number} " * 50 for number in range(count)))

    made(2)
    peak(made(2))  # imports
    small, large = made(1000), made(10_000)
    assert large.stat().st_size > 5 * small.stat().st_size or name == "a.parquet"
    assert peak(large) < 2 * peak(small)
