"""Folders in the layout of Hugging Face transformers, sentence encoders among them.

The graph is exported once with torch and transformers and kept in the user's cache under a hash of
all that it was made from, so that later commands need neither.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import onnx_ir as ir

from openglm.errors import InputError, MissingExtraError
from openglm.hashing import sha256_once
from openglm.model.model import Model, Trainable
from openglm.model.sources.kept import kept

EXPORT_REVISION = 2
"""Raised whenever the same folder would be exported to another graph."""
TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_TASKS = {
    "ForSequenceClassification": "classification",
    "ForImageClassification": "image-classification",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
}


def matches(source: str) -> bool:
    """Whether `source` is a folder with a `config.json` and weights."""
    return (Path(source) / "config.json").is_file()


def load(source: str, weights: Callable[[], Mapping[str, Any]] | None = None) -> Model:
    """The model of a transformers folder; raises `InputError` for a folder that is not whole.

    `weights` gives its tensors by name, where the folder holds them in another form.
    """
    folder = Path(source)
    config = _read_json(folder / "config.json")
    if not list(folder.glob("*.safetensors")):
        pickles = [file.name for file in folder.glob("*.bin")]
        raise InputError(
            f"{folder} has no weights in safetensors"
            + (f", only {pickles[0]}, a pickle." if pickles else "."),
            "Save the model with save_pretrained, which writes safetensors.",
        )
    architectures = config.get("architectures") or ["AutoModel"]
    if not isinstance(architectures, list) or not isinstance(architectures[0], str):
        raise InputError(f"{folder / 'config.json'} names no architecture.", "Copy the folder again.")
    architecture = architectures[0]
    task = next((task for ending, task in _TASKS.items() if architecture.endswith(ending)), "generic")
    pooling = _pooling(folder) if task == "generic" else None
    if pooling is not None:
        task = "embedding"

    def graph_of(module: Any) -> ir.Model:
        return _export(module, task)

    def module() -> Any:
        return _module(folder, architecture, task, pooling, weights)

    return Model(
        name=folder.resolve().name.lower(),
        source=source,
        task=task,
        export=lambda: cached(folder, lambda: graph_of(module())),
        processor=_processor(folder, task, config),
        trainable=Trainable(module, graph_of),
        config=config,
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}).", "Copy the folder again.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a model's configuration.", "Copy the folder again.")
    return content


def _pooling(folder: Path) -> dict[str, Any] | None:
    """How a sentence encoder pools its tokens, from sentence-transformers' files; none elsewhere."""
    if not (folder / "modules.json").is_file():
        return None
    try:
        stages = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        paths = {str(stage["type"]).rsplit(".", 1)[-1]: str(stage["path"]) for stage in stages}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{folder / 'modules.json'} lists no stages.", "Copy the folder again.") from error
    kinds = list(paths)
    if unknown := set(kinds) - {"Transformer", "Pooling", "Normalize"}:
        raise InputError(
            f"{folder} has a stage '{sorted(unknown)[0]}' after its encoder, which is not supported.",
            "Supported stages are Transformer, Pooling and Normalize.",
        )
    if "Pooling" not in paths:
        return None
    pooling = _read_json(folder / paths["Pooling"] / "config.json")
    modes = [
        key.removeprefix("pooling_mode_")
        for key, on in pooling.items()
        if key.startswith("pooling_mode_") and on
    ]
    if modes not in (["mean_tokens"], ["cls_token"]):
        raise InputError(
            f"{folder} pools by {' and '.join(modes)}.", "Supported are mean_tokens and cls_token."
        )
    return {"mode": modes[0], "normalize": "Normalize" in kinds}


def _processor(folder: Path, task: str, config: Mapping[str, Any]) -> Any:
    if (folder / "preprocessor_config.json").is_file():
        from openglm.model.processors.image_processor import ImageProcessor

        return ImageProcessor.from_folder(folder)
    if not (folder / "tokenizer.json").is_file():
        return None
    from openglm.model.processors.text_processor import TextProcessor

    # RoBERTa's positions start after the padding id, which takes two from its table.
    positions = config.get("max_position_embeddings")
    limit = (
        positions - 2 if positions and config.get("model_type") in ("roberta", "xlm-roberta") else positions
    )
    return TextProcessor.from_folder(folder, _text_inputs(config, task), limit)


def _text_inputs(config: Mapping[str, Any], task: str) -> tuple[str, ...]:
    takes_types = task != "text-generation" and config.get("type_vocab_size", 0) > 1
    return TEXT_INPUTS if takes_types else TEXT_INPUTS[:2]


def cached(folder: Path, make: Callable[[], ir.Model]) -> ir.Model:
    """The graph that `make` makes of a folder's model, kept in the user's cache under a hash of its files."""
    files = sorted(folder.rglob("*.json")) + sorted(folder.glob("*.safetensors"))
    named = "".join(f"{file.relative_to(folder)} {sha256_once(file)}" for file in files)
    return kept(f"{EXPORT_REVISION} {_versions()}{named}", make)


def _versions() -> str:
    found = []
    for package in ("torch", "transformers", "onnxscript"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:  # a graph that was exported elsewhere may still be in the cache
            found.append(f"{package} none")
    return ", ".join(found)


def _module(
    folder: Path,
    architecture: str,
    task: str,
    pooling: dict[str, Any] | None,
    weights: Callable[[], Mapping[str, Any]] | None,
) -> Any:
    """The folder's model with one tensor as its output, as a graph has it."""
    from openglm.model.sources.module import require_torch

    torch = require_torch()
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError("transformers, which this folder is for,", "transformers") from error
    maker = getattr(transformers, architecture, None)
    if maker is None:
        raise InputError(
            f"transformers {transformers.__version__} does not know the architecture '{architecture}'.",
            "Code that comes with a model is never run; use a model of a known architecture.",
        )
    if weights is None:
        module, loaded = from_pretrained(maker, folder)
    else:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        module, loaded = from_pretrained(maker, None, config=config, state_dict=dict(weights()))
    # transformers fills these with random numbers; a pooler's output is not used here.
    if missing := sorted(key for key in loaded["missing_keys"] if "pooler." not in key):
        raise InputError(
            f"{folder} has no weights for {missing[0]}"
            + (f" and {len(missing) - 1} others." if missing[1:] else "."),
            f"Save a whole {architecture} there, or name its own architecture in config.json.",
        )
    if task == "image-classification":
        return _picked(torch, module, "logits").eval()
    field = "last_hidden_state" if task in ("embedding", "generic") else "logits"
    return _encoder(torch, module, pooling, field, task).eval()


def from_pretrained(maker: Any, folder: Path | None, **options: Any) -> tuple[Any, dict[str, Any]]:
    """What a class of transformers makes of a folder's own files, or of a `config` and a `state_dict`, in
    float32, and which weights were missing.

    Raises `InputError` where it cannot.
    """
    import torch

    from openglm.model.sources.module import first_line

    try:
        with _silent():
            # Plain attention exports to few operators, which every engine fuses; the other forms do not.
            module, loaded = maker.from_pretrained(
                folder,
                attn_implementation="eager",
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                **options,
            )
    except Exception as error:  # transformers raises many kinds for a folder that is not whole
        raise InputError(
            f"transformers cannot load {folder} ({first_line(error)}).",
            "Check or copy the folder again.",
        ) from error
    return module, loaded


def save_pretrained(module: Any, folder: Path) -> None:
    """Write config.json and model.safetensors of transformers' module; raises `OSError` where it cannot."""
    with _silent():
        module.save_pretrained(folder)


@contextmanager
def _silent() -> Iterator[None]:
    """Keep transformers' remarks and progress bars off the terminal."""
    import transformers

    from openglm.model.sources.module import quiet

    progress: Any = transformers.utils.logging
    was_shown = progress.is_progress_bar_enabled()
    progress.disable_progress_bar()
    try:
        with quiet():
            yield
    finally:
        if was_shown:
            progress.enable_progress_bar()


def classifier_graph(module: Any) -> ir.Model:
    """The graph of a text classifier of transformers that came from no folder."""
    from openglm.model.sources.module import require_torch

    return _export(
        _encoder(require_torch(), module.eval(), None, "logits", "classification"), "classification"
    )


def _export(wrapper: Any, task: str) -> ir.Model:
    """The graph of what `_module` gives."""
    from openglm.model.sources.module import export, require_torch

    torch = require_torch()
    config = wrapper.model.config
    if task == "image-classification":
        side = config.image_size if isinstance(getattr(config, "image_size", None), int) else 224
        example = {"pixel_values": torch.randn(2, getattr(config, "num_channels", 3), side, side)}
        return export(wrapper, example, output_names=["logits"])
    config = config.to_dict()
    names = _text_inputs(config, task)
    tokens = torch.arange(2 * 16).reshape(2, 16) % min(config.get("vocab_size", 100), 100)
    mask = torch.ones_like(tokens)
    mask[1, 11:] = 0
    example = dict(zip(TEXT_INPUTS, (tokens, mask, torch.zeros_like(tokens)), strict=True))
    example = {name: example[name] for name in names}
    batch = torch.export.Dim("batch", min=1)
    longest = max(int(config.get("max_position_embeddings") or 4096), 32)
    sequence = torch.export.Dim("sequence", min=1, max=longest)
    shapes = {name: {0: batch, 1: sequence} for name in names}
    output = {"embedding": "sentence_embedding", "generic": "last_hidden_state"}.get(task, "logits")
    return export(wrapper, example, dynamic_shapes=shapes, output_names=[output])


def _picked(torch: Any, module: Any, field: str) -> Any:
    class Picked(torch.nn.Module):  # type: ignore[misc]
        """The module with one tensor as its output, as a graph has it."""

        def __init__(self) -> None:
            super().__init__()
            self.model = module

        def forward(self, pixel_values: Any) -> Any:
            return self.model(pixel_values=pixel_values)[field]

    return Picked()


def _sees_all(torch: Any, module: Any) -> bool:
    """Whether tokens see those behind them: a mask of four axes takes the place of a decoder's own, too."""
    tokens = torch.arange(16)[None] % min(getattr(module.config, "vocab_size", 100), 100)
    with torch.no_grad():
        masks = torch.ones_like(tokens), torch.zeros(1, 1, 1, 16)
        own, additive = (module(input_ids=tokens, attention_mask=mask)[0] for mask in masks)
    return bool(torch.allclose(own, additive, rtol=1e-4, atol=1e-5))


def _encoder(torch: Any, module: Any, pooling: dict[str, Any] | None, field: str, task: str) -> Any:
    simple = task != "text-generation" and _sees_all(torch, module)

    class Encoder(torch.nn.Module):  # type: ignore[misc]
        """Tokens in, one tensor out: pooled where the folder says so.

        An encoder's attention mask is made additive here, where it takes two operators; made
        inside transformers it takes twenty, of which no engine fuses any.
        """

        def __init__(self) -> None:
            super().__init__()
            self.model = module

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> Any:
            inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
            if token_type_ids is not None:
                inputs["token_type_ids"] = token_type_ids
            if task == "text-generation":
                inputs["use_cache"] = False
            if simple:
                kept = attention_mask[:, None, None, :].to(torch.float32)
                inputs["attention_mask"] = (1.0 - kept) * torch.finfo(torch.float32).min
            found = self.model(**inputs)[field]
            if pooling is None:
                return found
            if pooling["mode"] == "cls_token":
                found = found[:, 0]
            else:
                kept = attention_mask.unsqueeze(-1).to(found.dtype)
                found = (found * kept).sum(1) / kept.sum(1).clamp(min=1e-9)
            return torch.nn.functional.normalize(found, p=2, dim=1) if pooling["normalize"] else found

    return Encoder()
