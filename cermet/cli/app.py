"""The `cermet` command: its verbs, and how every error ends."""

from __future__ import annotations

import gc
import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from cermet import __version__
from cermet.cli.bench import bench
from cermet.cli.clean import clean
from cermet.cli.codecs import codecs
from cermet.cli.compare import compare
from cermet.cli.compress import compress
from cermet.cli.demo import demo
from cermet.cli.evaluate import evaluate
from cermet.cli.inspect import inspect
from cermet.cli.merge import merge
from cermet.cli.methods import methods
from cermet.cli.plan import plan
from cermet.cli.restore import restore
from cermet.cli.soup import soup
from cermet.cli.transplant import transplant
from cermet.cli.verify import verify
from cermet.cli.zoo import zoo
from cermet.core.errors import CermetError
from cermet.core.later import later

__all__ = ["app", "main"]

app = typer.Typer(
    name="cermet",
    help="Combine trained models: merge them, check the result, see what it is worth.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
# What a codec takes is not known before all of them are imported, so `compress` reads it itself.
_OPEN = {"ignore_unknown_options": True}
for verb in (
    merge,
    plan,
    restore,
    compress,
    soup,
    evaluate,
    transplant,
    inspect,
    compare,
    methods,
    codecs,
    verify,
    clean,
    demo,
    bench,
):
    app.command(context_settings=_OPEN if verb is compress else None)(verb)

app.add_typer(zoo)

_INTERRUPTED = 130
_OBJECTS = 100_000  # made before Python looks for garbage; torch makes half a million, all to stay


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cermet {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Combine trained models: merge them, check the result, see what it is worth."""


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line; every CermetError ends in one sentence and its exit code."""
    later("torch")  # a second and more, which plans and many merges do not need
    signal.signal(signal.SIGTERM, _terminate)
    gc.set_threshold(_OBJECTS)
    try:
        app(standalone_mode=True)
    except CermetError as error:
        print(f"cermet: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print("cermet: interrupted.", file=sys.stderr)
        raise SystemExit(_INTERRUPTED) from None
    except MemoryError:
        print("cermet: not enough memory; try a smaller --memory budget.", file=sys.stderr)
        raise SystemExit(4) from None
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported for this
            raise
        print(
            "cermet: not enough memory on the GPU; try a smaller --memory budget or fewer "
            "--threads.",
            file=sys.stderr,
        )
        raise SystemExit(4) from None
