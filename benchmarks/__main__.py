"""``python -m benchmarks latent``: measure an op. ``python -m benchmarks show FILE``: print a result file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from benchmarks import RESULTS
from benchmarks.arguments import available, command, positive, writable
from benchmarks.compare import BaseError, against
from benchmarks.compare import show as show_changes
from betavae_fast.bench import machine
from betavae_fast.bench.parity import ParityError
from betavae_fast.bench.registry import DTYPES, Shape, entry_names, get, parse_shape
from betavae_fast.bench.results import Results, load
from betavae_fast.bench.runner import run
from betavae_fast.bench.table import headlines, show
from betavae_fast.bench.timing import BRIEF, QUICK, Effort


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the result file is written anew after each problem.

    Returns: 0; 1 if nothing was measured or a contender failed (it is named and not timed); 2 for wrong arguments; 130
        after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    args = parser.parse_args(arguments)
    console = Console()
    try:
        if args.action == "show":
            return _show_file(args.file, console)
        if wrong := _wrong_combination(args):
            parser.error(wrong)
        return _measure(args, arguments, console)
    except KeyboardInterrupt:
        console.print("interrupted; the unfinished problem is not written")
        return 130


def _show_file(path: Path, console: Console) -> int:
    try:
        results = load(path)
    except OSError as error:
        console.print(f"{path}: {error.strerror}", highlight=False, soft_wrap=True)
        return 1
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else error
        console.print(f"{path} is not a result file of an op: {why}", highlight=False, soft_wrap=True)
        return 1
    _show(results, console)
    return 0


def _wrong_combination(args: argparse.Namespace) -> str:
    """The error in a combination of arguments that are each valid, or ""; checked before anything is measured."""
    names = [c.name for c in get(args.action).contenders(args.device)]
    if unknown := set(args.contenders or ()) - set(names):
        return f"--contenders: no {', '.join(sorted(unknown))} on {args.device}; there are {', '.join(names)}"
    if args.base is not None and (args.out is not None or args.time_limit is not None):
        return "--base goes with neither --out nor --time-limit, because it writes nothing and measures everything"
    return ""


def _measure(args: argparse.Namespace, arguments: list[str], console: Console) -> int:
    torch.set_num_threads(args.threads)
    if machine.busy():
        console.print("[yellow]Other programs keep this machine busy, so the figures may be wrong.[/]")
    if args.base is not None:
        return _compare(args, console)
    op, device = get(args.action), torch.device(args.device)
    partial = args.quick or args.shapes or args.dtypes or args.contenders
    out = args.out or (None if partial else RESULTS / f"{op.name}-{machine.kind(device)}.json")
    kept: list[Results] = []

    def keep(results: Results) -> None:
        kept.append(results)
        if out is not None and results.measurements:
            results.save(out)

    status = 0
    try:
        results = run(
            op,
            args.shapes or op.shapes[args.device],
            args.dtypes or op.dtypes,
            device,
            command=command("benchmarks", arguments),
            effort=QUICK if args.quick else BRIEF if args.brief else Effort(),
            contenders=args.contenders,
            seed=args.seed,
            time_limit=args.time_limit,
            watch=console.status,
            keep=keep,
        )
    except ParityError:  # its text is shown with the results
        results, status = kept[-1], 1
    if not results.measurements:
        written, status = "Nothing was measured, so nothing is written.", 1
    elif out is None:
        written = "Not written: only part of the configuration was measured. --out PATH writes it anyway."
    else:
        written = f"Written to {out}"
    _show(results, console, written)
    return status


def _compare(args: argparse.Namespace, console: Console) -> int:
    """Compare with the commit ``--base``. Returns: 1 if anything is slower than there or cannot be measured, else 0."""
    options = [args.action, "--device", args.device, "--threads", str(args.threads), "--seed", str(args.seed)]
    options += ["--quick"] if args.quick else ["--brief"]
    ours = [c.name for c in get(args.action).contenders(args.device) if c.ours and c.name != "reference"]
    options += ["--contenders", *(args.contenders or ours)]
    if args.shapes:
        options += ["--shapes", *("x".join(map(str, shape)) for shape in args.shapes)]
    if args.dtypes:
        options += ["--dtypes", *args.dtypes]
    try:
        with console.status(f"{args.action} here and at {args.base}, in turn"):
            changes = against(args.base, options)
    except BaseError as error:
        console.print(f"[bold red]Nothing is compared:[/] {error}", highlight=False)
        return 1
    show_changes(changes, args.base, console)
    return int(any(change.regression for change in changes))


def _show(results: Results, console: Console, written: str = "") -> None:
    """Print the results, then the headlines, and the failures last, where they are not overlooked."""
    show(results, console)
    failed = (f"FAILED {failure}" for failure in results.failures)
    for line in (*headlines(results), *([written] if written else ()), *failed):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _shape(text: str) -> Shape:
    if shape := parse_shape(text):
        return shape
    raise argparse.ArgumentTypeError(f"a shape is written BATCHxDIM, for example 65536x128, got {text!r}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, allow_abbrev=False)
    actions = parser.add_subparsers(dest="action", required=True)
    for name in entry_names():
        op = actions.add_parser(name, help=f"measure the {name} op", allow_abbrev=False)
        op.add_argument("--shapes", type=_shape, nargs="+", metavar="BxD", help="default: the registry's")
        op.add_argument("--dtypes", choices=DTYPES, nargs="+", help="default: the registry's")
        op.add_argument("--device", type=available, choices=("cpu", "cuda"), default="cpu")
        op.add_argument("--threads", type=positive, default=torch.get_num_threads(), help="CPU threads")
        op.add_argument("--seed", type=int, default=0, help="seed of the problems' numbers")
        op.add_argument("--contenders", nargs="+", help="measure only these contenders")
        op.add_argument("--brief", action="store_true", help="take fewer samples")
        op.add_argument("--quick", action="store_true", help="take too few samples for reliable figures")
        op.add_argument(
            "--base", metavar="REV", help="compare with this commit instead, briefly, and write nothing"
        )
        op.add_argument("--time-limit", type=float, metavar="S", help="begin no problem after S seconds")
        op.add_argument("--out", type=writable, help="default: benchmarks/results/OP-MACHINE.json")
    actions.add_parser("show", help="print a result file").add_argument("file", type=Path)
    return parser


if __name__ == "__main__":
    sys.exit(main())
