"""Installs the wheel and the sdist of dist/ as a user would, and compares the installed files: ``make test-dist``.

Each gets an environment of its own. The name of its folder must be quoted in a shell, which tests the build's quoting.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "it's a folder (ü) & more"
BUILD_TOOLS = ["setuptools>=77", "ninja"]


def installed(archive: Path, torch: str) -> dict[str, int]:
    """Install ``archive`` with the requirement ``torch``; return the sizes of the package's files.

    Exits if the C++ kernels do not run.
    """
    environment = FOLDER / archive.name.removesuffix(".gz").rpartition(".")[2]
    venv.create(environment, clear=True, symlinks=True, with_pip=True)
    python, temporary = environment / "bin" / "python", environment / "tmp"
    temporary.mkdir()

    def run(*command: object) -> str:
        variables = {"TMPDIR": str(temporary), "BETAVAE_FAST_CPP": "1", "COLUMNS": "200"}
        done = subprocess.run(
            [str(part) for part in command],
            cwd=environment,
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            text=True,
        )
        if done.returncode:
            sys.exit(f"{done.stdout}{archive.name}: {command[-1]} failed")
        return done.stdout

    pip = [python, "-m", "pip", "install", "--quiet"]
    run(*pip, torch, *BUILD_TOOLS)
    run(*pip, "--no-build-isolation", archive)
    info = run(environment / "bin" / "betavae-fast", "info")
    print(f"{archive.name}, installed into {environment}:\n{info}")
    if set(re.findall(r"cpp\W+(yes|no)", info)) != {"yes"}:
        sys.exit(f"{archive.name}: the C++ kernels are not available")
    (package,) = environment.glob("lib/python*/site-packages/betavae_fast")
    return {
        str(path.relative_to(package)): path.stat().st_size for path in package.rglob("*") if path.is_file()
    }


def main(torch: str) -> None:
    (wheel,), (sdist,) = (ROOT / "dist").glob("*.whl"), (ROOT / "dist").glob("*.tar.gz")
    of_wheel, of_sdist = installed(wheel, torch), installed(sdist, torch)
    different = dict(of_wheel.items() ^ of_sdist.items())
    # Compiled files may contain the names of their sources, and so differ.
    different = {name for name in different if not name.endswith((".so", ".pyc"))}
    if different or of_wheel.keys() != of_sdist.keys():
        sys.exit(
            f"wheel and sdist install different files: {sorted(different | of_wheel.keys() ^ of_sdist.keys())}"
        )
    print(f"Both install the same {len(of_wheel)} files, of these sizes:")
    for name in sorted(name for name in of_wheel if name.endswith(".so")):
        print(f"  {name}: {of_wheel[name]} and {of_sdist[name]} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
