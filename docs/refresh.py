"""Run the commands in the docs and put what they print behind them.

A ```console block holds lines "$ command" and what each prints; a ```toml or ```python block headed "# FILE" is
written to FILE in the scratch folder the commands run in. A picture that a command draws into a file
under docs/ is refreshed with it. Every figure in the docs is thus a command's.

    python docs/refresh.py [PAGE...]            rewrite these pages; without any, README.md and docs/*.md
    python docs/refresh.py --check [PAGE...]    change nothing, exit 1 and show the difference if they are out of date
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```(?P<kind>console|toml|python)\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE)
WIDTH = "100"


def run(command: str, folder: Path) -> str:
    """What `command` prints, run in `folder`; an error of the command is an error here."""
    environment = os.environ | {"COLUMNS": WIDTH, "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
    command = re.sub(r"^minibench\b", "python -m minimodels.cli", command)
    command = re.sub(r"^python\b", sys.executable, command)
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"$ {command}\n{done.stdout}{done.stderr}exit code {done.returncode}")
    return "\n".join(line.rstrip() for line in done.stdout.splitlines())


def refresh(text: str, folder: Path) -> str:
    """`text` with its blocks executed in `folder`."""

    def execute(match: re.Match[str]) -> str:
        kind, body = match["kind"], match["body"]
        if kind != "console":
            name = re.match(r"# (\S+\.(?:toml|py))$", body, re.MULTILINE)
            if name:
                (folder / name[1]).write_text(body)
            return match[0]
        lines = []
        for command in re.findall(r"^\$ (.*)$", body, re.MULTILINE):
            if command.startswith("make "):  # what make sets up is tried by the packaging tests
                lines.append(f"$ {command}")
                continue
            printed = run(command, folder)
            lines += [f"$ {command}", *([printed] if printed else [])]
        return "```console\n" + "\n".join(lines) + "\n```"

    return BLOCK.sub(execute, text)


def main(check: bool, chosen: Sequence[str]) -> int:
    """Refresh the chosen pages, or all; with `check` only compare them."""
    pages = [Path(page) for page in chosen] or [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    stale = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "docs").mkdir()
        for page in pages:
            before = page.read_text()
            after = refresh(before, folder)
            if before != after:
                stale += 1
                if check:
                    difference = difflib.unified_diff(
                        before.splitlines(), after.splitlines(), page.name, "now", lineterm=""
                    )
                    print("\n".join(difference))
                else:
                    page.write_text(after)
        if not check:
            for picture in (folder / "docs").iterdir():
                shutil.copy(picture, ROOT / "docs" / picture.name)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:], [page for page in sys.argv[1:] if page != "--check"]))
