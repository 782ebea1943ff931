"""The frame of the benchmarks that write a result file: arguments, threads, provenance, file, pictures and failures.

A study declares its module, its result file, its own options, how it measures, and how it shows what it has found.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from rich.console import Console, RenderableType
from rich.markdown import Markdown

from benchmarks import RESULTS, ROOT
from benchmarks.arguments import add_device, command, parser_of, positive, writable, writable_folder
from betavae_fast.bench import machine
from betavae_fast.bench.results import Provenance
from betavae_fast.files import read_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

R = TypeVar("R", bound=Provenance)


class StudyError(RuntimeError):
    """The study cannot be made; the message says why."""


@dataclass(frozen=True)
class Run:
    """One call of a study: its arguments, its device, and the origin of its results (the fields of ``Provenance``)."""

    args: argparse.Namespace
    device: torch.device
    origin: dict[str, Any]
    console: Console


@dataclass(frozen=True)
class Study(Generic[R]):
    """A benchmark that writes one file for each kind of machine.

    Args:
        module: the name after ``python -m``, with the arguments that are always the same.
        about: the docstring of the module, which is the text of the help.
        results: the class of the result file.
        file: path of the file in benchmarks/results/, in which MACHINE stands for the kind of machine.
        measure: makes the results. It yields them whenever it has more of them, and each time the file is written anew.
            It may raise ``StudyError``, or ``argparse.ArgumentTypeError`` for wrong arguments.
        show: the text of the results in Markdown, or anything else that rich prints.
        options: adds the study's own options.
        device: the default of ``--device``; None if there is no such option, and it runs on the CPU.
        threads: True if there is the option ``--threads``.
        partial: True for arguments that measure only part of the configuration, which is written only with ``--out``.
        draw: the pictures of the results by name. There are then the options ``--draw`` and ``--pictures``.
        pictures: the folder of the pictures; None for that of the file.
    """

    module: str
    about: str | None
    results: type[R]
    file: str
    measure: Callable[[Run], Iterator[R]]
    show: Callable[[R], RenderableType]
    options: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    device: str | None = None
    threads: bool = True
    partial: Callable[[argparse.Namespace], bool] = lambda args: False
    draw: Callable[[R], Mapping[str, Figure]] | None = None
    pictures: Path | None = None

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run the command line; the status is that of ``run``."""
        arguments = list(sys.argv[1:] if argv is None else argv)
        parser = parser_of(self.module, self.about)
        self.add_options(parser)
        return self.run(parser, parser.parse_args(arguments), arguments)

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        self.options(parser)
        if self.device:
            add_device(parser, self.device)
        if self.threads:
            parser.add_argument("--threads", type=positive, help="CPU threads; default: torch's choice")
        default = RESULTS / self.file
        if self.draw is None:
            shown = default.relative_to(ROOT)
            parser.add_argument("--out", type=writable, metavar="FILE", help=f"default: {shown}")
            return
        for name, folder in (("--out", default.parent), ("--pictures", self.pictures or default.parent)):
            shown = folder.relative_to(ROOT)
            parser.add_argument(name, type=writable_folder, metavar="FOLDER", help=f"default: {shown}")
        parser.add_argument("--draw", action="store_true", help="only draw, from the existing file")

    def run(self, parser: argparse.ArgumentParser, args: argparse.Namespace, arguments: Sequence[str]) -> int:
        """Measure, write, show and draw.

        Returns: 0; 1 if nothing was measured or something failed, which is named; 130 after Ctrl-C. Wrong arguments end
            the program with 2.
        """
        # A log tells no width, so tables get room there for 18 columns, which a study of objectives has.
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 400)
        device = torch.device(getattr(args, "device", "cpu"))
        if self.threads and args.threads:
            torch.set_num_threads(args.threads)
        path = self._path(args, device)
        only_draw = self.draw is not None and args.draw
        try:
            if only_draw:
                results = self._loaded(path)
            else:
                origin = machine.provenance(command(self.module, arguments), device)
                results = self._measured(Run(args, device, origin, console), path)
        except argparse.ArgumentTypeError as error:
            parser.error(str(error))
        except StudyError as error:
            console.print(f"Nothing is written: {error}", soft_wrap=True, markup=False)
            return 1
        except KeyboardInterrupt:
            console.print("interrupted; what was not finished is not written")
            return 130
        shown = self.show(results)
        console.print(Markdown(shown) if isinstance(shown, str) else shown)
        drawn = only_draw or (self.draw and (args.pictures or self._to_write(args)))
        for name, figure in (self.draw(results) if self.draw and drawn else {}).items():
            # Results that are written elsewhere than by default have their pictures beside them.
            folder = args.pictures or (path.parent if args.out else self.pictures) or path.parent
            folder.mkdir(parents=True, exist_ok=True)
            figure.savefig(folder / f"{name}.png", dpi=110)
        if not results.measured:
            written = "Nothing was measured, so nothing is written."
        elif only_draw:
            written = f"Drawn from {path}"
        elif self._to_write(args):
            written = f"Written to {path}"
        else:
            written = "Not written: only part of the configuration was measured. --out FILE writes it anyway."
        for line in (written, *(f"FAILED {failure}" for failure in results.failures)):
            console.print(line, soft_wrap=True, markup=False)
        return int(bool(results.failures) or not results.measured)

    def _path(self, args: argparse.Namespace, device: torch.device) -> Path:
        default = RESULTS / self.file.replace("MACHINE", machine.kind(device))
        if args.out is None:
            return default
        path: Path = args.out / default.name if self.draw else args.out
        return path

    def _loaded(self, path: Path) -> R:
        try:
            return self.results.load(path)
        except (OSError, ValueError) as error:
            raise StudyError(str(error)) from error

    def _check_machine(self, path: Path, here: Mapping[str, object]) -> None:
        """Raise StudyError if ``path`` holds the figures of another CPU of the same kind."""
        if "MACHINE" not in self.file or here["gpu"] or not path.exists():
            return
        there = read_json(path)["machine"]
        if any(there[fact] != here[fact] for fact in ("cpu", "cores")):
            raise StudyError(
                f"{path} is of another machine, {there['cpu']} with {there['cores']} cores; --out writes elsewhere"
            )

    def _to_write(self, args: argparse.Namespace) -> bool:
        return args.out is not None or not self.partial(args)

    def _measured(self, run: Run, path: Path) -> R:
        if run.args.out is None and self._to_write(run.args):
            self._check_machine(path, run.origin["machine"])
        if run.origin["machine"]["busy"]:
            run.console.print(
                "[yellow]Other programs keep this machine busy, so the figures may be wrong.[/]"
            )
        for results in self.measure(run):
            if results.measured and self._to_write(run.args):
                results.save(path)
        return results


def tidy(axis: Axes) -> None:
    """Leave of an axis's lines a light grid and two of its sides."""
    axis.grid(color="#e4e4e4", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
