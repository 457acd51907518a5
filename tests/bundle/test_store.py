"""Bundles on disk: whole or not there, checked to the byte, and never reaching outside."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import openglm
from openglm import hashing
from openglm.bundle import store
from openglm.bundle.manifest import FILE
from openglm.bundle.store import check_target, is_bundle, opened, writing
from openglm.errors import InputError, OpenGLMError, OutputError, VerificationError

FILES = ("model.onnx", "plan.json", "probes.npz", "recipe.toml", "report.html", "tokenizer.json")


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((bundle / FILE).read_text(encoding="utf-8"))
    change(content)
    (bundle / FILE).write_text(json.dumps(content), encoding="utf-8")


def zipped(bundle: Path, target: Path, **more: bytes) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for path in bundle.iterdir():
            archive.write(path, path.name)
        for name, content in more.items():
            archive.writestr(name, content)
    return target


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_in_it(text_bundle: Path) -> None:
    assert sorted(path.name for path in text_bundle.iterdir()) == sorted([FILE, *FILES])
    with opened(text_bundle) as (folder, manifest):
        assert folder == text_bundle
        assert sorted(manifest.files) == sorted(FILES)
        for name, file in manifest.files.items():
            assert hashing.sha256(folder / name) == file.sha256
            assert (folder / name).stat().st_size == file.bytes


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
def test_a_changed_byte(text_bundle: Path, name: str, where: float) -> None:
    content = bytearray((text_bundle / name).read_bytes())
    content[int(where * (len(content) - 1))] ^= 1
    (text_bundle / name).write_bytes(content)
    with pytest.raises(VerificationError, match=f"The file {name} .* is not the one"):
        openglm.load(text_bundle)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_or_gone(text_bundle: Path, name: str) -> None:
    content = (text_bundle / name).read_bytes()
    (text_bundle / name).write_bytes(content[:-1])
    with pytest.raises(VerificationError, match=f"The file {name} .* is not the one"):
        openglm.load(text_bundle)
    (text_bundle / name).unlink()
    with pytest.raises(VerificationError, match=f"lacks its file {name}"):
        openglm.load(text_bundle)


def test_a_file_that_cannot_be_read(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(store, "sha256", refuse)
    with pytest.raises(VerificationError, match="cannot be read"):
        openglm.load(bundle)


def test_bytes_of_the_manifest(bundle: Path) -> None:
    """Nothing hashes the manifest itself: what is changed in it is refused, or does no harm."""
    whole = (bundle / FILE).read_bytes()
    for place in range(0, len(whole), len(whole) // 150):
        content = bytearray(whole)
        content[place] ^= 1 << place % 7
        (bundle / FILE).write_bytes(content)
        try:
            with openglm.load(bundle, threads=1) as session:
                session.verify()
        except OpenGLMError:
            pass


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "/etc/passwd",
        "a/../../secret",
        "..\\secret",
        "C:secret",
        "C:\\secret",
        "",
        ".",
        "link",
        "\0",
        "\ud800",
        "loop",
    ],
)
@pytest.mark.parametrize("place", ["file", "model", "probes", "processor"])
def test_paths_that_leave_the_folder(bundle: Path, name: str, place: str) -> None:
    (bundle.parent / "secret").write_bytes(b"secret")
    (bundle / "link").symlink_to(bundle.parent / "secret")
    (bundle / "loop").symlink_to(bundle / "loop")

    def change(manifest: dict[str, Any]) -> None:
        file = {"sha256": hashing.sha256(bundle.parent / "secret"), "bytes": 6}
        if place == "model":
            manifest["program"]["segments"][0]["models"]["onnxruntime"] = name
        elif place == "probes":
            manifest["probes"] = name or "."
        elif place == "processor":
            manifest["processor"] = {"kind": "text", "files": [name]}
        manifest["files"][name] = file

    edit(bundle, change)
    with pytest.raises(VerificationError, match=r"leaves the bundle|is not valid|cannot be read"):
        openglm.load(bundle)


def test_a_used_file_without_a_hash(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["files"].pop("probes.npz"))
    with pytest.raises(VerificationError, match=r"uses 'probes\.npz' and gives no hash"):
        openglm.load(bundle)


def test_newer_format(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest.update(format=2))
    with pytest.raises(InputError, match="bundle format 2, newer than") as caught:
        openglm.load(bundle)
    assert "pip install --upgrade" in caught.value.advice


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '"x"', "{}", "\udcff", "[" * 100_000, '{"format": "2"}']
)
def test_broken_manifest(bundle: Path, content: str) -> None:
    (bundle / FILE).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(VerificationError, match=r"is not valid|cannot be read"):
        openglm.load(bundle)


@pytest.mark.parametrize("key", ["files", "program", "inputs", "after", "host", "candidates"])
def test_missing_key(bundle: Path, key: str) -> None:
    edit(bundle, lambda manifest: manifest.pop(key))
    with pytest.raises(VerificationError, match=f"not valid at {key}"):
        openglm.load(bundle)


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a bundle"):
        openglm.load(tmp_path)
    with pytest.raises(InputError, match="There is no bundle"):
        openglm.load(tmp_path / "nothing")


def test_zip(bundle: Path, tmp_path: Path) -> None:
    path = zipped(bundle, tmp_path / "b.zip")
    assert is_bundle(path)
    with opened(path) as (folder, manifest):
        assert folder != bundle
        assert sorted(manifest.files) == sorted(path.name for path in folder.iterdir() if path.name != FILE)
    assert not folder.exists()


@pytest.mark.parametrize(
    "name", ["../slipped", "/tmp/slipped", "a/../../slipped", "..\\slipped", "C:/slipped"]
)
def test_zip_that_slips(bundle: Path, tmp_path: Path, name: str) -> None:
    path = zipped(bundle, tmp_path / "b.zip", **{name: b"x"})
    with pytest.raises(VerificationError, match="leaves the bundle"):
        openglm.load(path)
    assert not list(tmp_path.rglob("*slipped"))


def test_zip_that_is_broken(bundle: Path, tmp_path: Path) -> None:
    path = zipped(bundle, tmp_path / "b.zip")
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[200:400] = bytes(200)
    for content in (whole[: len(whole) // 2], whole[:-1], b"", b"no zip", bytes(damaged)):
        path.write_bytes(content)
        is_bundle(path)
        with pytest.raises((InputError, VerificationError)):
            openglm.load(path)


def test_zip_and_no_room_for_it(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(bundle, tmp_path / "b.zip")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(zipfile.ZipFile, "extractall", full)
    with pytest.raises(InputError, match="no room to unpack"):
        openglm.load(path)


# Writing.


def fill(folder: Path, text: str = "new") -> None:
    (folder / "file").write_text(text)


@pytest.mark.parametrize("name", ["new", "deep/er/new", "with space", "ünï", os.fsdecode(b"\xff\xfe")])
def test_writing(tmp_path: Path, name: str) -> None:
    with writing(tmp_path / name) as folder:
        fill(folder)
        assert not (tmp_path / name).exists()
    assert contents(tmp_path) == {f"{name}/file": b"new"}


def test_writing_a_zip(tmp_path: Path) -> None:
    with writing(tmp_path / "b.zip") as folder:
        fill(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["b.zip"]
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        assert archive.namelist() == ["file"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with writing(tmp_path / "empty") as folder:
        fill(folder)
    assert contents(tmp_path) == {"empty/file": b"new"}


def test_an_earlier_bundle_is_replaced(bundle: Path) -> None:
    before = contents(bundle)
    with writing(bundle) as folder:
        fill(folder)
        assert contents(bundle) == before
    assert contents(bundle.parent) == {"bundle/file": b"new"}


def end(folder: Path, ending: BaseException) -> None:
    fill(folder)
    raise ending


ENDINGS = [
    RuntimeError("x"),
    KeyboardInterrupt(),
    OSError(errno.ENOSPC, "No space"),
    PermissionError(errno.EACCES, "x"),
]


@pytest.mark.parametrize("ending", ENDINGS, ids=repr)
@pytest.mark.parametrize("target", ["bundle", "new", "deep/er/new", "new.zip"])
def test_a_failure_leaves_what_was_there(bundle: Path, target: str, ending: BaseException) -> None:
    before = contents(bundle.parent)
    expected = OutputError if isinstance(ending, OSError) else type(ending)
    with pytest.raises(expected), writing(bundle.parent / target) as folder:
        end(folder, ending)
    assert contents(bundle.parent) == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("ending", [KeyboardInterrupt(), OSError(errno.EIO, "I/O error")], ids=repr)
@pytest.mark.parametrize("call", [1, 2])
def test_a_failure_while_taking_the_place(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, ending: BaseException, call: int
) -> None:
    """The earlier bundle is back where it was, whichever of the two renames fails."""
    before, rename, calls = contents(bundle), Path.rename, []

    def failing(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == call:
            raise ending
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises((KeyboardInterrupt, OutputError)), writing(bundle) as folder:
        fill(folder)
    assert contents(bundle) == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_full_disk_while_zipping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(zipfile.ZipFile, "write", full)
    with pytest.raises(OutputError, match="The disk is full"), writing(tmp_path / "b.zip") as folder:
        fill(folder)
    assert not list(tmp_path.iterdir())


def test_what_is_no_bundle_is_never_touched(tmp_path: Path) -> None:
    photos, file, archive = tmp_path / "photos", tmp_path / "file", tmp_path / "a.zip"
    photos.mkdir()
    (photos / "one.jpg").write_bytes(b"x")
    file.write_bytes(b"y")
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("letter.txt", b"z")
    before = contents(tmp_path)
    for target in (photos, file, archive):
        for enter in (writing, lambda path: _checked(path)):
            with pytest.raises(OutputError, match="exists and is not a bundle"), enter(target):
                pass
    assert contents(tmp_path) == before


def _checked(path: Path) -> Any:
    check_target(path)
    raise AssertionError("nothing was said")


@pytest.mark.parametrize("name", ["notes.txt", "sub/photo.jpg", "sub/openglm.json"])
def test_a_users_file_in_a_bundle_is_never_removed(bundle: Path, name: str) -> None:
    (bundle / "sub").mkdir()
    (bundle / name).write_bytes(b"mine")
    before = contents(bundle)
    with pytest.raises(OutputError, match=f"holds {name}, which is not part"), writing(bundle):
        pass
    assert contents(bundle) == before


def test_a_broken_bundle_is_not_replaced(bundle: Path) -> None:
    (bundle / FILE).write_text("{")
    with pytest.raises(OutputError, match="not a whole bundle"), writing(bundle):
        pass


@pytest.mark.parametrize("target", ["file/new", "file/deep/new", "x" * 300])
def test_where_nothing_can_be_written(tmp_path: Path, target: str) -> None:
    (tmp_path / "file").write_bytes(b"y")
    for enter in (writing, lambda path: _checked(path)):
        with pytest.raises(OutputError, match="cannot be written"), enter(tmp_path / target):
            pass
    assert contents(tmp_path) == {"file": b"y"}


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(store.tempfile, "mkdtemp", refuse)
    with (
        pytest.raises(OutputError, match=r"cannot be written \(Permission denied\)"),
        writing(tmp_path / "a/new"),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_a_link_to_a_bundle_is_replaced_not_followed(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(bundle)
    before = contents(bundle)
    with writing(tmp_path / "link") as folder:
        fill(folder)
    assert contents(bundle) == before
    assert contents(tmp_path / "link") == {"file": b"new"}


def test_killed_while_writing(bundle: Path) -> None:
    """SIGKILL leaves the earlier bundle as it was."""
    before = contents(bundle)
    code = f"""
import os, signal
from pathlib import Path
from openglm.bundle.store import writing
with writing(Path({str(bundle)!r})) as folder:
    (folder / "file").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert contents(bundle) == before
    shutil.rmtree(bundle)
