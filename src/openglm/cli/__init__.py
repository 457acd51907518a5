"""The command line. Modules of commands import what is heavy inside the command that needs it."""

from __future__ import annotations

import os
import sys

import typer

from openglm.cli import devices, fit, measure, models, optimize, run
from openglm.errors import OpenGLMError

OVERVIEW = """Fit neural models to phones: verdict, compression, proof, bundle.

\b
I want to ...                                   command
see which phones are known                      openglm devices
see what a model is made of                     openglm inspect MODEL
know if a model fits a phone                    openglm fit MODEL --device D
make it fit, and prove that it is still right   openglm optimize MODEL --device D -o OUT
run the result                                  openglm run OUT --text "..."
check that a bundle is whole and still right    openglm verify OUT
see what was done to it and why                 openglm explain OUT
measure two against each other                  openglm compare A B

MODEL is a zoo name (openglm models), a hub id, a folder, an .onnx or a .pt2 file.
Exit codes: 0 done, 2 bad input, 3 does not fit, 4 not what it claims to be, 5 cannot write, 130 stopped.
"""

app = typer.Typer(
    name="openglm",
    help=OVERVIEW,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (devices, models, fit, optimize, run, measure):
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


def main() -> None:
    """Run the command line: an `OpenGLMError` becomes two sentences on stderr and an exit code."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(arguments, standalone_mode=True)
    except OpenGLMError as error:
        if debug:
            raise
        print(f"Error: {error.problem}\n{error.advice}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        if debug:
            raise
        print("Stopped. Nothing half written was left behind.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if debug:
            raise
        print(
            f"Error: an unexpected fault in openglm: {type(error).__name__}: {error}\n"
            "Run the command again with --debug and report the traceback.",
            file=sys.stderr,
        )
        sys.exit(1)
