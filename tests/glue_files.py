"""All nine tasks of GLUE in their own layouts, small."""

from __future__ import annotations

from pathlib import Path

THINGS = ("cat", "dog", "tree")


def write(path: Path) -> None:
    """A folder of them; one word of a row tells its label."""
    parsed = "genre\tsentence1_parse\tsentence2_parse"
    layouts: dict[str, tuple[str | None, str, tuple[str, ...]]] = {
        # The header, a row, and the names of the classes where the files have names.
        "CoLA": (None, 'gj04\t{label}\t{mark}\tThe {thing} sat "on.', ()),
        "SST-2": ("sentence\tlabel", "the {thing} ran , and it 's big . \t{label}", ()),
        "MRPC": (
            "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String",
            '{label}\t{number}\t7\tHe said " the {thing} ran .\tA {thing} "ran .',
            (),
        ),
        "STS-B": (
            "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
            '{number}\tmain\tMSRvid\t2012\t0\tnone\tnone\tA "{thing} sat.\tThe {thing} sat.\t{value:.3f}',
            (),
        ),
        "QQP": (
            "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
            "{number}\t1\t2\tWhere is the {thing}?\tIs the {thing} here?\t{label}",
            (),
        ),
        "MNLI": (
            f"index\t{parsed}\tsentence1\tsentence2\tlabel1\tgold_label",
            "{number}\tfiction\t( a )\t( b )\tThe {thing} ran.\tA {thing} ran.\tneutral\t{name}",
            ("entailment", "neutral", "contradiction"),
        ),
        "QNLI": (
            "index\tquestion\tsentence\tlabel",
            "{number}\tWhat ran?\tThe {thing} ran.\t{name}",
            ("entailment", "not_entailment"),
        ),
        "RTE": (
            "index\tsentence1\tsentence2\tlabel",
            "{number}\tThe {thing} ran.\tIt ran.\t{name}",
            ("entailment", "not_entailment"),
        ),
        "WNLI": ("index\tsentence1\tsentence2\tlabel", "{number}\tThe {thing} ran.\tIt ran.\t{label}", ()),
    }
    for task, (header, row, names) in layouts.items():
        (path / task).mkdir(parents=True)
        classes = len(names) or 2
        for file, rows in (("train.tsv", 48), ("dev.tsv", 16)):
            lines = [] if header is None else [header]
            for number in range(rows):
                label = number % classes
                lines.append(
                    row.format(
                        number=number,
                        label=label,
                        mark="" if label else "*",
                        name=names[label] if names else "",
                        value=5.0 * label,
                        thing=THINGS[label],
                    )
                )
            parts = (
                [file] if task != "MNLI" or file == "train.tsv" else ["dev_matched.tsv", "dev_mismatched.tsv"]
            )
            for part in parts:
                (path / task / part).write_text("\n".join(lines) + "\n", encoding="utf-8")
