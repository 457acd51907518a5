"""Any model or bundle on any engines, at any number of threads, measured without writing anything."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import Any

from openglm.bundle.manifest import Precision, Target
from openglm.bundle.store import is_bundle, opened
from openglm.dynamic.program import files_of
from openglm.errors import InputError, OpenGLMError
from openglm.model.auto import AutoModel
from openglm.runtimes.engine import Engine, check_threads, engines
from openglm.runtimes.onnxruntime import NAME
from openglm.targets.export import SAMPLES, SECONDS, Outcome, check_precision, measured, tried, wanted
from openglm.targets.subject import Files, Subject


def latency(
    source: str | PathLike[str],
    runtimes: Sequence[str],
    *,
    precision: Precision | None = None,
    sizes: Mapping[str, Sequence[int]] | None = None,
    dims: Mapping[str, int] | None = None,
    data: Any = None,
    samples: int = SAMPLES,
    threads: Sequence[int] = (1,),
    rounds: int = 15,
    seconds: float = SECONDS,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Outcome]:
    """Convert a model, anything that `AutoModel` reads, or a bundle for engines, by name, or "all" that are
    installed, compare their answers with ONNX Runtime's, and measure all in turn, once for each number of
    `threads`. The first outcome for each number is ONNX Runtime's.

    A name may choose a processor, "onnxruntime:xnnpack". Engines that a bundle has are taken as they are, if
    no `precision` is asked for. `dims` are the sizes of a model's open dimensions; all else is as in
    `export`, and so is what is raised.
    """
    check_precision(precision)
    asked = wanted([name for name in runtimes if name != NAME], run=True)
    for count in threads:
        check_threads(count)
    settings: dict[str, Any] = {
        "samples": samples, "threads": threads[0], "seconds": seconds, "progress": progress,
    }  # fmt: skip
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="openglm-")))
        files: dict[str, Files] = {}
        chosen: dict[str, Precision] = {}
        if is_bundle(Path(source)):
            if dims:
                raise InputError("A bundle is measured at its own sizes.", "Leave out --shape.")
            folder, manifest = stack.enter_context(opened(Path(source)))
            subject = Subject.of_bundle(folder, manifest, work, data, **settings)
            for target in manifest.targets if precision is None else ():
                files[target.engine] = files_of(manifest.program, target.engine, folder)
                chosen[target.engine] = target.precision
        else:
            model = AutoModel.from_pretrained(source)
            subject = Subject.of_model(model, dims, work, data, **settings)
        files[NAME] = subject.own
        failed = {}
        for each in asked:
            if each.name not in files:
                try:
                    files[each.name] = subject.converted(each, precision or subject.precision, sizes)
                except OpenGLMError as error:
                    failed[each.name] = error.problem

        def there(target: Engine, held: Precision) -> Target:
            return subject.proven(target, held, files[target.name])

        found: list[Outcome] = []
        for count in threads:
            subject.threads = count
            outcomes = [tried(engines()[NAME], subject.precision, there)]
            for each in asked:
                held = chosen.get(each.name, precision or subject.precision)
                if each.name in failed:
                    outcomes.append(Outcome(each.label, held, None, failed[each.name]))
                else:
                    outcomes.append(tried(each, held, there))
            found += measured(subject, outcomes, files, rounds)
        return found
