"""Reading and writing bundles: folders, or zips of them, that are whole or not there at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from openglm.bundle.manifest import FILE, File, Manifest
from openglm.errors import InputError, OpenGLMError, OutputError, VerificationError
from openglm.hashing import sha256

STUDY = "study"
"""The folder in a bundle's where the search that made it is kept; no part of the bundle."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError)


def is_bundle(path: Path) -> bool:
    """Whether `path` is a bundle: a folder with a manifest, or a zip with one."""
    if path.is_dir():
        return (path / FILE).is_file()
    if path.suffix != ".zip":
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return FILE in archive.namelist()
    except _BROKEN_ZIP:
        return False


def study_folder(target: Path) -> Path:
    """Where the search for a bundle is kept: inside its folder, or beside its zip."""
    return target.with_name(f"{target.stem}.{STUDY}") if target.suffix == ".zip" else target / STUDY


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle's folder, its paths checked and its hashes not.

    Raises `InputError` where there is none or it is of a newer format, `VerificationError` where
    it is broken or names a path outside the folder.
    """
    path = folder / FILE
    if not path.is_file():
        raise InputError(f"{folder} is not a bundle: it has no {FILE}.", "Make one with `openglm optimize`.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and isinstance(content.get("format"), int) and content["format"] > 1:
            raise InputError(
                f"{folder} is in bundle format {content['format']}, newer than this openglm reads.",
                "Upgrade it: pip install --upgrade openglm.",
            )
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise VerificationError(
            f"The manifest of {folder} is not valid at {'.'.join(map(str, first['loc']))}: {first['msg']}.",
            "Copy the bundle again, or make it again.",
        ) from error
    except (ValueError, OSError, RecursionError) as error:
        raise VerificationError(
            f"The manifest of {folder} cannot be read.", "Copy the bundle again."
        ) from error
    named = [name for segment in manifest.program.segments for name in segment.models.values()]
    named += [name for name in (manifest.probes, manifest.plans) if name]
    named += [str(name) for name in (manifest.processor or {}).get("files") or ()]
    for name in [*manifest.files, *named]:
        _check_inside(folder, name)
    for name in named:
        if name not in manifest.files and not any(file.startswith(f"{name}/") for file in manifest.files):
            raise VerificationError(
                f"The manifest of {folder} uses '{name}' and gives no hash for it.", "Copy the bundle again."
            )
    return manifest


def _check_inside(folder: Path, name: str) -> None:
    pure = PurePosixPath(name)
    outside = pure.is_absolute() or ".." in pure.parts or not pure.parts or any(c in name for c in "\\:\0")
    try:
        outside = outside or not (folder / name).resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # no name of a file, or a link that leads to itself
        outside = True
    if outside:
        raise VerificationError(
            f"The manifest of {folder} names '{name}', which leaves the bundle.", "Do not use this bundle."
        )


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compare every file with its size and hash; raises `VerificationError` for the first that differs."""
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise VerificationError(f"The bundle {folder} lacks its file {name}.", "Copy the bundle again.")
        try:
            same = path.stat().st_size == expected.bytes and sha256(path) == expected.sha256
        except OSError as error:
            raise VerificationError(
                f"The file {name} of {folder} cannot be read ({error.strerror}).", "Copy the bundle again."
            ) from error
        if not same:
            raise VerificationError(
                f"The file {name} of {folder} is not the one the bundle was made with.",
                "Copy the bundle again.",
            )


@contextmanager
def opened(path: Path) -> Iterator[tuple[Path, Manifest]]:
    """A checked bundle's folder and manifest; a zip is unpacked for as long as it is open.

    Raises as `read_manifest` and `check_files` do.
    """
    if not path.exists():
        raise InputError(f"There is no bundle at {path}.", "Check the path.")
    if path.is_dir():
        manifest = read_manifest(path)
        check_files(path, manifest)
        yield path, manifest
        return
    with tempfile.TemporaryDirectory(prefix="openglm-") as name:
        folder = Path(name)
        _unpack(path, folder)
        manifest = read_manifest(folder)
        check_files(folder, manifest)
        yield folder, manifest


def _unpack(path: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                _check_inside(folder, entry.filename)
            archive.extractall(folder)
    except _BROKEN_ZIP as error:
        if isinstance(error, OSError) and error.errno in _FULL:
            raise InputError(
                f"There is no room to unpack {path} into {folder}.",
                "Free some space there, or unpack it and give the folder.",
            ) from error
        raise InputError(
            f"{path} is neither a bundle's folder nor a whole zip of one.", "Check the path."
        ) from error


@contextmanager
def writing(target: Path) -> Iterator[Path]:
    """An empty folder to fill; on success it becomes `target`, on any failure it goes without a trace.

    `target` may be new, empty, or an earlier bundle, which is replaced only then; with the ending
    .zip the folder is zipped. Raises `OutputError` where `target` holds something else or cannot
    be written.
    """
    with _beside(target) as (work, target):
        yield work
        _put(work, target)


def check_target(target: Path) -> None:
    """Raise now what `writing` would raise after the work is done."""
    with _beside(target):
        pass


@contextmanager
def _beside(target: Path) -> Iterator[tuple[Path, Path]]:
    """A work folder in the target's parent, and the target's absolute path; what was made here goes again."""
    target = Path(os.path.abspath(target))  # noqa: PTH100  # resolve() would follow a link away
    made: list[Path] = []
    work: Path | None = None
    try:
        _check_free(target)
        made = [folder for folder in target.parents if not folder.exists()]
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        work.chmod(0o755)
        yield work, target
    except OSError as error:
        raise _unwritable(target, error) from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
        with suppress(OSError):  # a parent that holds the bundle now stays
            for folder in made:
                folder.rmdir()


def _check_free(target: Path) -> None:
    """Raise `OutputError` where something would be lost if the target were replaced."""
    if not target.exists() or (target.is_dir() and all(path.name == STUDY for path in target.iterdir())):
        return
    other = "Give another output folder, or remove it."
    if not is_bundle(target):
        raise OutputError(f"{target} exists and is not a bundle.", other)
    if not target.is_dir():
        return
    try:
        known = {FILE, *read_manifest(target).files}
    except OpenGLMError as error:
        raise OutputError(f"{target} exists and is not a whole bundle.", other) from error
    found = (path for path in target.rglob("*") if path.is_symlink() or not path.is_dir())
    names = {path.relative_to(target).as_posix() for path in found}
    foreign = sorted(name for name in names - known if not name.startswith(f"{STUDY}/"))
    if foreign:
        raise OutputError(f"{target} holds {foreign[0]}, which is not part of the bundle there.", other)


def _put(work: Path, target: Path) -> None:
    if target.suffix == ".zip":
        packed = work / "bundle.zip"
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(work.rglob("*")):
                if file.is_file() and file != packed:
                    archive.write(file, file.relative_to(work).as_posix())
        packed.replace(target)
        return
    if not target.exists():
        work.rename(target)
        return
    # A folder cannot take another's place in one step: the old one steps aside, and back on failure.
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
    try:
        target.rename(aside / "bundle")
        if (aside / "bundle" / STUDY).is_dir():
            (aside / "bundle" / STUDY).rename(work / STUDY)
        work.rename(target)
    finally:  # Ctrl-C may fall between the two
        if not target.exists():
            if (work / STUDY).is_dir():
                (work / STUDY).rename(aside / "bundle" / STUDY)
            (aside / "bundle").rename(target)
        shutil.rmtree(aside, ignore_errors=True)


def _unwritable(target: Path, error: OSError) -> OutputError:
    if error.errno in _FULL:
        return OutputError(f"The disk is full: {target} was not written.", "Free some space and run again.")
    return OutputError(
        f"{target} cannot be written ({error.strerror or error}).", "Give a folder that you may write to."
    )


def list_files(folder: Path) -> dict[str, File]:
    """Size and hash of every file of a folder, by its path there, the manifest left out."""
    return {
        path.relative_to(folder).as_posix(): File(sha256=sha256(path), bytes=path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != FILE
    }
