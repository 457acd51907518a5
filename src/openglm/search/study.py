"""The record of a search: an Optuna study in SQLite that a search which was killed goes on from.

Each Optuna trial is one attempt: its parameters, its effort, and, once it is over, what was found. A
trial that was under way when the search ended is tried again by the next one; what is over stays.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from openglm.errors import InputError, OutputError

if TYPE_CHECKING:
    from sqlalchemy import URL

FORMAT = 1
"""Raised whenever trials of an older study would mean something else."""
FILE = "study.db"
NAME_FILE = "study.name"
"""Holds the study's name where its record is elsewhere, with others maybe."""
NAME = "openglm"
_ANEW = "Start anew with --fresh, or give another --output."
_SEED = 20
_RANDOM = 6
"""Trials at random before the sampler models what is good."""

Params = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """A trial that is under way."""

    number: int
    params: Params
    effort: int


@dataclass(frozen=True)
class Told:
    """A trial that is over."""

    number: int
    params: Params
    effort: int
    content: str
    """What was stored of it."""


class Study:
    """The trials of one search."""

    def __init__(
        self, folder: Path, fingerprint: Mapping[str, str], choices: Mapping[str, tuple[Any, ...]],
        storage: str | None = None,
    ) -> None:  # fmt: skip
        """Open the study in `folder`, or make it; `storage` is where it is instead: a URL that Optuna
        knows (postgresql://...), or the path of a journal file (.log).

        Raises `InputError` where the one that is there is of another format or was made for other
        input, which `fingerprint` tells, or where `storage` is no URL that can be used.
        """
        import optuna

        optuna.logging.set_verbosity(logging.ERROR)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self._optuna = optuna
        self._space: dict[str, optuna.distributions.BaseDistribution] = {
            name: optuna.distributions.CategoricalDistribution(values) for name, values in choices.items()
        }
        self._where = _shown(storage) if storage else str(folder / FILE)
        self._running: dict[int, Any] = {}
        with self._safely():
            try:
                kept = _storage(optuna, folder, storage)
            except RuntimeError as error:  # tables of another version of Optuna
                raise self._outdated() from error
            self._study = optuna.create_study(
                storage=kept,
                study_name=_name(folder, storage),
                load_if_exists=True,
                directions=["minimize"]
                * 3,  # time, size, loss: each as a share of, or beside, the original's
                sampler=optuna.samplers.TPESampler(
                    seed=_SEED,
                    multivariate=True,
                    n_startup_trials=_RANDOM,
                ),
            )
            self._check(fingerprint, as_json(choices))
            for trial in self._study.get_trials(deepcopy=False):
                if trial.state == optuna.trial.TrialState.RUNNING:
                    self._study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                    self._enqueue(trial.params, trial.user_attrs.get("effort", 0))

    def _check(self, fingerprint: Mapping[str, str], choices: str) -> None:
        """Raise `InputError` where the study is of another format or for other input."""
        wanted = {"format": str(FORMAT), **fingerprint, "choices": choices}
        known = self._study.user_attrs.get("fingerprint")
        if known is None:
            self._study.set_user_attr("fingerprint", wanted)
            return
        changed = [name for name in {**wanted, **known} if known.get(name) != wanted.get(name)]
        # For the same input, other choices come of another version.
        if "format" in changed or changed == ["choices"]:
            raise self._outdated()
        if changed:
            others = " and other ".join(name for name in changed if name != "choices")
            raise InputError(f"The search in {self._where} was begun with other {others}.", _ANEW)

    def _outdated(self) -> InputError:
        return InputError(f"The search in {self._where} was begun by another version of openglm.", _ANEW)

    def remember(self, name: str, value: Any) -> None:
        """Keep something beside the trials that JSON can hold."""
        with self._safely():
            self._study.set_user_attr(name, value)

    def recall(self, name: str) -> Any:
        """What was kept under a name, or None."""
        with self._safely():
            return self._study.user_attrs.get(name)

    def plan(self, params: Params, effort: int) -> Asked:
        """Begin a trial of these parameters."""
        with self._safely():
            self._enqueue(params, effort)
            return self._ask()

    def resume(self) -> Asked:
        """Begin a trial anew that was interrupted."""
        with self._safely():
            return self._ask()

    def propose(self, fixed: Params) -> Asked:
        """Begin a trial of what the sampler finds promising, some parameters being given."""
        return self.plan(fixed, 0)

    @property
    def interrupted(self) -> bool:
        """Whether trials wait that an earlier search began and did not end."""
        waiting = (self._optuna.trial.TrialState.WAITING,)
        with self._safely():
            return bool(self._study.get_trials(deepcopy=False, states=waiting))

    def _enqueue(self, params: Params, effort: int) -> None:
        self._study.enqueue_trial(params, user_attrs={"effort": effort})

    def _ask(self) -> Asked:
        trial = self._study.ask(self._space)
        self._running[trial.number] = trial
        return Asked(trial.number, dict(trial.params), trial.user_attrs.get("effort", 0))

    def finish(
        self, asked: Asked, content: str, values: tuple[float, float, float] | None, over: float
    ) -> None:
        """End a trial with what was found; without `values` it failed or could not be measured.

        `over` is how far its loss is beyond the limit.
        """
        state = self._optuna.trial.TrialState
        trial = self._running.pop(asked.number)
        with self._safely():
            trial.set_user_attr("content", content)
            if values is None:
                self._study.tell(trial, state=state.FAIL)
            else:
                trial.set_constraint("loss", over)
                self._study.tell(trial, values)

    def drop(self, asked: Asked) -> None:
        """End a trial that is not worth making, such as one that was made before."""
        with self._safely():
            self._study.tell(asked.number, state=self._optuna.trial.TrialState.PRUNED)

    def again(self, asked: Asked) -> None:
        """End a trial that was interrupted, and let it wait for the next turn."""
        with self._safely():
            self._study.tell(asked.number, state=self._optuna.trial.TrialState.FAIL)
            self._enqueue(asked.params, asked.effort)

    def told(self) -> list[Told]:
        """The trials that are over, in order."""
        with self._safely():
            trials = self._study.get_trials(deepcopy=False)
        return [
            Told(
                trial.number,
                dict(trial.params),
                trial.user_attrs.get("effort", 0),
                trial.user_attrs["content"],
            )
            for trial in trials
            if trial.state.is_finished() and "content" in trial.user_attrs
        ]

    @contextmanager
    def _safely(self) -> Iterator[None]:
        """Errors of the storage, in plain words."""
        from sqlalchemy.exc import DBAPIError

        try:
            yield
        except (DBAPIError, sqlite3.Error, OSError, self._optuna.exceptions.StorageInternalError) as error:
            cause = str(error.__cause__ or error).partition("\n")[0]
            raise OutputError(
                f"The record of the search in {self._where} cannot be read or written ({cause}).",
                "See that there is space and that it can be reached, or give another --output; "
                "what was finished is kept.",
            ) from error


def _storage(optuna: Any, folder: Path, storage: str | None) -> Any:
    if storage is None:
        # Long waits for a lock: workers of one machine write at the same time, each for milliseconds.
        settings = {"connect_args": {"timeout": 60}}
        return optuna.storages.RDBStorage(f"sqlite:///{folder / FILE}", engine_kwargs=settings)
    if "://" not in storage:
        backend = optuna.storages.journal.JournalFileBackend(storage)
        return optuna.storages.JournalStorage(backend)
    from sqlalchemy.exc import NoSuchModuleError

    url = _url(storage)
    try:
        # A server may close connections that wait while a model is trained.
        return optuna.storages.RDBStorage(
            url.render_as_string(hide_password=False), engine_kwargs={"pool_pre_ping": True}
        )
    except (NoSuchModuleError, ImportError) as error:
        raise InputError(
            f"There is no driver for {url.drivername}:// here.",
            'For postgresql:// it comes with: pip install "openglm[cluster]".',
        ) from error


def _url(storage: str) -> URL:
    """The URL of a database, with the driver for PostgreSQL that openglm installs."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(storage)
    except (ArgumentError, ValueError) as error:
        raise InputError(
            f"The storage {storage.partition('://')[0]}://... is no URL of a database.",
            "Give one such as postgresql://user@host/base.",
        ) from error
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def _shown(storage: str) -> str:
    """A storage as messages name it, without its password."""
    return _url(storage).render_as_string() if "://" in storage else storage


def _name(folder: Path, storage: str | None) -> str:
    """The name of a folder's study: one of its own where other searches may keep theirs beside it."""
    if storage is None:
        return NAME
    path = folder / NAME_FILE
    if not path.exists():
        path.write_text(f"{NAME}-{uuid4().hex}", encoding="utf-8")
    return path.read_text(encoding="utf-8")


def as_json(value: object) -> str:
    """A value as JSON in one order, to compare parameters by."""
    return json.dumps(value, sort_keys=True)
