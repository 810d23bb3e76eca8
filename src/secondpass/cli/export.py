"""secondpass export: a model as an ONNX or OpenVINO folder, in a chosen precision, measured before it is written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.table import Table
from rich.text import Text

from secondpass.cli.options import AllowOption, FamilyOption, JsonOption
from secondpass.cli.requests import read_requests
from secondpass.cli.terminal import print_json, results, say
from secondpass.errors import InputError, ParityError
from secondpass.evaluation.lines import opened
from secondpass.rerankers.fields import renderer

if TYPE_CHECKING:
    from secondpass.scoring.exporting import Pairs
    from secondpass.scoring.parity import Parity


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A folder, a shipped name or a hub name.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write, new or empty.")],
    format: Annotated[str, typer.Option("--format", metavar="NAME", help="onnx or openvino.")],
    precision: Annotated[
        str, typer.Option("--precision", metavar="NAME", help="fp32, fp16 (half the bytes) or int8.")
    ] = "fp32",
    family: FamilyOption = None,
    allow: AllowOption = None,
    parity: Annotated[
        float | None,
        typer.Option(
            "--parity",
            metavar="TOL",
            min=0,
            help="The largest deviation of a logit from fp32 allowed. Without it: what the model states for the "
            "precision, else 0.01 % (fp32), 1 % (fp16) or 5 % (int8) of the largest logit.",
        ),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option("--pairs", metavar="FILE", help="Requests as of `rerank`: to measure on, and for int8 scales."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write a model as a folder with its ONNX or OpenVINO graph.

    It is read back and compared with the model in fp32; where it deviates by more
    than is allowed nothing is written, and the exit code is 1. It opens with
    secondpass and with sentence-transformers' backend of the format's name.

    Examples:

    $ secondpass export my-model my-model-onnx --format onnx
    $ secondpass export my-model small --format openvino --precision fp16
    """
    from secondpass.scoring.checkpoint import open_checkpoint
    from secondpass.scoring.exporting import FORMATS, PRECISIONS, export

    names: Any
    for value, names, option in ((format, FORMATS, "--format"), (precision, PRECISIONS, "--precision")):
        if value not in names:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(names)}", param_hint=option)
    given = _read(pairs) if pairs else []
    checkpoint = open_checkpoint(model, family=family, allow=allow or ())
    try:
        done = export(
            checkpoint,
            out,
            format=cast(Any, format),
            precision=cast(Any, precision),
            pairs=given,
            tolerance=parity,
        )
    except ParityError as error:
        _show(cast(Any, error.parity), json=json)
        raise
    _show(done, json=json)
    say(f"written to {out}", style="")


def _read(path: Path) -> Pairs:
    """Queries with the texts that are scored of their documents."""
    render = renderer()
    with opened(path) as lines:
        found = [
            (one.query, [text for hit in one.hits if isinstance(text := render(hit.document), str)])
            for one in read_requests(lines, path)
        ]
    if not found:
        raise InputError(f"{path}: has no request; give one a line, as `secondpass rerank` reads them")
    return found


def _show(parity: Parity, *, json: bool) -> None:
    if json:
        print_json(parity.to_dict())
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in parity.table():
        table.add_row(name, Text(value))
    results.print(table)
    for note in parity.notes:
        results.print(Text(f"• {note}"))
