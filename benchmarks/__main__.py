"""``python -m benchmarks latent``: measure an op. ``python -m benchmarks show FILE``: print a result file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.arguments import parser_of
from benchmarks.compare import BaseError, against
from benchmarks.compare import show as show_changes
from benchmarks.study import Run, Study
from betavae_fast.bench.registry import DTYPES, Op, Shape, entry_names, get, parse_shape
from betavae_fast.bench.results import Results
from betavae_fast.bench.runner import run
from betavae_fast.bench.table import shown
from betavae_fast.bench.timing import BRIEF, QUICK, Effort


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the result file is written anew after each problem.

    Returns: the status of a study, in which a contender that fails is named and not timed. With ``--base``: 1 if anything
        is slower than there or cannot be measured, else 0.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = parser_of("benchmarks", __doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    studies = {name: _study(get(name)) for name in entry_names()}
    for name, study in studies.items():
        study.add_options(actions.add_parser(name, help=f"measure the {name} op", allow_abbrev=False))
    actions.add_parser("show", help="print a result file").add_argument("file", type=Path)
    args = parser.parse_args(arguments)
    if args.action == "show":
        return _show_file(args.file, Console(highlight=False))
    if wrong := _wrong_combination(args):
        parser.error(wrong)
    if args.base is not None:
        return _compare(args, Console())
    return studies[args.action].run(parser, args, arguments[1:])


def _study(op: Op) -> Study[Results]:
    def measure(study: Run) -> Iterator[Results]:
        args = study.args
        return run(
            op,
            args.shapes or op.shapes[args.device],
            args.dtypes or op.dtypes,
            study.device,
            origin=study.origin,
            effort=QUICK if args.quick else BRIEF if args.brief else Effort(),
            contenders=args.contenders,
            seed=args.seed,
            time_limit=args.time_limit,
            watch=study.console.status,
        )

    return Study(
        f"benchmarks {op.name}",
        __doc__,
        Results,
        f"{op.name}-MACHINE.json",
        measure,
        shown,
        _options,
        device="cpu",
        partial=lambda args: bool(args.quick or args.shapes or args.dtypes or args.contenders),
    )


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shapes", type=_shape, nargs="+", metavar="BxD", help="default: the registry's")
    parser.add_argument("--dtypes", choices=DTYPES, nargs="+", help="default: the registry's")
    parser.add_argument("--seed", type=int, default=0, help="seed of the problems' numbers")
    parser.add_argument("--contenders", nargs="+", help="measure only these contenders")
    parser.add_argument("--brief", action="store_true", help="take fewer samples")
    parser.add_argument("--quick", action="store_true", help="take too few samples for reliable figures")
    parser.add_argument(
        "--base", metavar="REV", help="compare with this commit instead, briefly, and write nothing"
    )
    parser.add_argument("--time-limit", type=float, metavar="S", help="begin no problem after S seconds")


def _shape(text: str) -> Shape:
    if shape := parse_shape(text):
        return shape
    raise argparse.ArgumentTypeError(f"a shape is written BATCHxDIM, for example 65536x128, got {text!r}")


def _wrong_combination(args: argparse.Namespace) -> str:
    """The error in a combination of arguments that are each valid, or ""; checked before anything is measured."""
    names = [c.name for c in get(args.action).contenders(args.device)]
    if unknown := set(args.contenders or ()) - set(names):
        return f"--contenders: no {', '.join(sorted(unknown))} on {args.device}; there are {', '.join(names)}"
    if args.base is not None and (args.out is not None or args.time_limit is not None):
        return "--base goes with neither --out nor --time-limit, because it writes nothing and measures everything"
    return ""


def _show_file(path: Path, console: Console) -> int:
    try:
        results = Results.load(path)
    except (OSError, ValueError) as error:
        console.print(str(error), soft_wrap=True, markup=False)
        return 1
    console.print(shown(results))
    for failure in results.failures:
        console.print(f"FAILED {failure}", soft_wrap=True, markup=False)
    return 0


def _compare(args: argparse.Namespace, console: Console) -> int:
    """Compare with the commit ``--base``. Returns: 1 if anything is slower than there or cannot be measured, else 0."""
    threads = str(args.threads or torch.get_num_threads())
    options = [args.action, "--device", args.device, "--threads", threads, "--seed", str(args.seed)]
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


if __name__ == "__main__":
    sys.exit(main())
