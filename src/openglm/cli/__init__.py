"""The command line. Modules of commands import what is heavy inside the command that needs it."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
from contextlib import suppress
from typing import Any

import typer
from typer.core import TyperGroup

from openglm.cli import (
    bench,
    calibrate,
    convert,
    devices,
    export,
    finetune,
    fit,
    language,
    latency,
    measure,
    models,
    optimize,
    plan,
    run,
)
from openglm.errors import InputError, OpenGLMError

OVERVIEW = """Fit neural models to phones: verdict, compression, proof, bundle.

\b
I want to ...                                   command
see which phones are known                      openglm devices
see what a model is made of                     openglm inspect MODEL
know if a model fits a phone                    openglm fit MODEL --device D
know which language models a phone runs         openglm language-models
plan its memory to the byte                     openglm plan MODEL
make it fit, and prove that it is still right   openglm optimize MODEL --device D -o OUT
run the result                                  openglm run OUT --text "..."
check that a bundle is whole and still right    openglm verify OUT
see what was done to it and why                 openglm explain OUT
measure two against each other                  openglm compare A B
see which engines are here                      openglm doctor
prove it on an emulated ARM core                openglm verify OUT --cpu cortex-a53
carry it on other engines too                   openglm export OUT --runtime mnn,openvino
quantize a TensorFlow model for LiteRT          openglm convert DIR -o X.tflite --precision int8
set its thresholds again on other data          openglm calibrate OUT --data FILE -o NEW
fine-tune an encoder for a task                 openglm finetune MODEL --task sst-2 --data DIR -o OUT
judge it by GLUE                                openglm bench glue --model OUT --data DIR
measure any model on all engines                openglm bench latency MODEL

\b
MODEL is a zoo name (openglm models), a hub id, a folder (transformers,
SavedModel), an .onnx, .tflite or .pt2 file.

Exit codes: 0 done, 2 bad input, 3 does not fit, 4 not what it claims to be, 5 cannot write, 130 stopped.
"""


_TALKERS = ("torchao", "torch.utils._pytree")
"""Libraries that remark on their own state when transformers looks for them."""


_LONGEST = 30_000
"""Bytes of a command line: loading ONNX Runtime 1.30 crashes the process where there are over 32,000."""


class _Ended(Exception):  # noqa: N818
    """Carries Ctrl-C or a closed pipe past typer, whose versions give them exit codes of their own."""


class _Group(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, BrokenPipeError) as error:
            raise _Ended from error


app = typer.Typer(
    name="openglm",
    cls=_Group,
    help=OVERVIEW,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (
    devices, models, fit, language, plan, optimize, run, measure, export, convert, calibrate, finetune, bench,
    latency,
):  # fmt: skip
    group.register(app)


@app.callback(invoke_without_command=True)
def options(
    version: bool = typer.Option(False, "--version", help="Print the version and leave."),
    debug: bool = typer.Option(
        False, "--debug", help="On an error show the traceback; works after a command too."
    ),
) -> None:
    if version:
        from importlib.metadata import version as installed

        print(f"openglm {installed('openglm')}")
        raise typer.Exit


def _check_length() -> None:
    count = sum(len(os.fsencode(argument)) + 1 for argument in sys.orig_argv)
    if count > _LONGEST:
        raise InputError(
            f"The command line has {count:,} bytes, and ONNX Runtime bears about {_LONGEST:,}.",
            "Give so long a text from Python: openglm.load(BUNDLE).run(text=[...]).",
        )


def main() -> None:
    """Run the command line: an `OpenGLMError` becomes two sentences on stderr and an exit code."""
    for name in _TALKERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path may hold bytes that are no text
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            _check_length()
            app(arguments)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here a closed pipe or a full disk can still be told of
    except (_Ended, BrokenPipeError, OpenGLMError, OSError) as error:
        cause = error.__cause__ if isinstance(error, _Ended) else error
        if isinstance(cause, OSError):
            _discard_output()
        if isinstance(cause, BrokenPipeError):
            sys.exit(0)
        if debug:
            raise
        sys.exit(_tell(cause))
    except Exception as error:
        if debug:
            raise
        print(
            f"Error: an unexpected fault in openglm: {type(error).__name__}: {error}\n"
            "Run the command again with --debug and report the traceback.",
            file=sys.stderr,
        )
        sys.exit(1)


def _tell(error: BaseException | None) -> int:
    """Say on stderr what ended a command; its exit code."""
    if isinstance(error, OpenGLMError):
        print(f"Error: {error.problem}\n{error.advice}", file=sys.stderr)
        return error.exit_code
    if isinstance(error, OSError):
        what = error.filename or "The output"
        print(
            f"Error: {what} cannot be used ({error.strerror or error}).\n"
            "Check that it is there, that you may use it, and that there is room.",
            file=sys.stderr,
        )
        return 5 if error.errno in (errno.ENOSPC, errno.EDQUOT) else 2
    print("Stopped. Nothing half written was left behind.", file=sys.stderr)
    return 130


def _discard_output() -> None:
    # What is still buffered would raise again when the interpreter leaves.
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
