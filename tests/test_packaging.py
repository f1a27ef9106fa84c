"""Packaging: what the wheel holds, which module names exist, and which way imports point.

The rooms `kernels/`, `sim/` and `cli.py` lie at the top of the repository and are imported only as
`minimodels.kernels`, `minimodels.sim` and `minimodels.cli`, through links inside `minimodels/`.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINKS = {"kernels": "../kernels", "sim": "../sim", "cli.py": "../cli.py"}
ROOMS = {"kernels": "minimodels/kernels", "minimodels": "minimodels", "sim": "minimodels/sim"}
SOURCES = (*ROOMS, "cli.py", "pyproject.toml", "README.md", "LICENSE")
TOP_LEVEL = ("kernels", "sim", "cli")


def files(folder: Path) -> list[Path]:
    """The files under `folder`, links not followed, caches and hidden files left out."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
    return [path for path in found if "__pycache__" not in path.parts and not path.name.startswith(".")]


def package_files(root: Path) -> dict[str, Path]:
    """Where each file of the import package lies under `root`, by its path inside the wheel."""
    rooms = {
        f"{home}/{path.relative_to(root / room)}": path for room, home in ROOMS.items() for path in files(root / room)
    }
    return rooms | {"minimodels/cli.py": root / "cli.py"}


def modules() -> dict[str, Path]:
    """The Python files of the import package by module name."""
    named = ((name.removesuffix(".py"), path) for name, path in package_files(ROOT).items() if name.endswith(".py"))
    return {name.removesuffix("/__init__").replace("/", "."): path for name, path in named}


def inside(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def room(module: str) -> str:
    """The room of a module: "kernels", "minimodels", "sim" or "cli"."""
    return next((top for top in TOP_LEVEL if inside(module, f"minimodels.{top}")), "minimodels")


def may_import(importer: str, imported: str) -> bool:
    """Whether the arrows of import allow a room to import a module of ours (any other module: yes)."""
    if not inside(imported, "minimodels") or importer == "cli":
        return not inside(imported, *TOP_LEVEL)
    if importer == "kernels":
        return inside(imported, "minimodels.kernels")
    closed = {"minimodels": ("minimodels.sim", "minimodels.cli"), "sim": ("minimodels.cli",)}
    return not inside(imported, *closed[importer])


def imports(module: str, path: Path) -> Iterator[str]:
    """The dotted names that a file imports anywhere in it."""
    tree = ast.parse(path.read_text("utf-8"))
    if module == "minimodels":  # hands out public names of all rooms: lazily, and to type checkers
        tree.body = [node for node in tree.body if not _hands_out(node)]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _hands_out(node: ast.stmt) -> bool:
    lazy = isinstance(node, ast.FunctionDef) and node.name == "__getattr__"
    return lazy or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")


def run(*command: str | Path, cwd: Path, path: Path | None = None) -> str:
    """Run a command in `cwd` with `path` as PYTHONPATH and return what it printed; it must succeed."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path is not None:
        env["PYTHONPATH"] = str(path)
    done = subprocess.run(command, check=False, cwd=cwd, env=env, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build reads, so that building leaves nothing in the real checkout."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copy2(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> Path:
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", "dist", ".", cwd=checkout)
    (built,) = (checkout / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory outside the checkout with the wheel installed into it."""
    target = tmp_path_factory.mktemp("site")
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", target, wheel, cwd=target)
    return target


@pytest.fixture(scope="module")
def loaded(site: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The modules of ours in memory after importing the installed rooms one after another, by room."""
    rooms = {name: [module for module in modules() if room(module) == name] for name in (*ROOMS, "cli")}
    code = (
        "import importlib, json, sys; loaded = {}\n"
        "for room, names in json.loads(sys.argv[1]).items():\n"
        "    for name in names: importlib.import_module(name)\n"
        "    loaded[room] = [name for name in sys.modules if name.split('.')[0] in ('minimodels', *sys.argv[2:])]\n"
        "import minimodels; loaded['file'] = [minimodels.__file__]\n"
        "print(json.dumps(loaded))"
    )
    cwd = tmp_path_factory.mktemp("elsewhere")
    return json.loads(run(sys.executable, "-c", code, json.dumps(rooms), *TOP_LEVEL, cwd=cwd, path=site))


def wheel_files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_wheel_holds_every_file_of_the_package(checkout: Path, wheel: Path) -> None:
    assert wheel_files(wheel) == set(package_files(checkout))


def test_wheel_holds_kernels_configs_devices_and_the_command(wheel: Path) -> None:
    names = wheel_files(wheel)
    for folder, suffix in (("kernels", ".py"), ("configs", ".toml"), ("sim/devices", ".toml")):
        assert [name for name in names if name.startswith(f"minimodels/{folder}/") and name.endswith(suffix)]
    assert {"minimodels/cli.py", "minimodels/py.typed"} <= names


def test_wheel_built_from_sdist_holds_the_same_files(checkout: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, cwd=checkout)
    (built,) = tmp_path.glob("*.whl")
    assert wheel_files(built) == set(package_files(checkout))


def test_installed_command_lists_models(site: Path, tmp_path: Path) -> None:
    names = {
        entry["name"]
        for entry in json.loads(run(site / "bin" / "minibench", "list", "--json", cwd=tmp_path, path=site))
    }
    assert {"llama-tiny", "parti-20b"} <= names


def test_installed_module_profiles(site: Path, tmp_path: Path) -> None:
    assert "llama-tiny" in run(sys.executable, "-m", "minimodels.cli", "list", cwd=tmp_path, path=site)
    assert "llama-tiny" in run(sys.executable, "-m", "minimodels.cli", "profile", "llama-tiny", cwd=tmp_path, path=site)
    assert not list(tmp_path.iterdir())


def test_importing_everything_loads_no_top_level_kernels_sim_or_cli(site: Path, loaded: dict[str, list[str]]) -> None:
    assert Path(loaded["file"][0]).is_relative_to(site)
    assert [name for name in loaded["cli"] if inside(name, *TOP_LEVEL)] == []


@pytest.mark.parametrize("installed", [True, False], ids=["wheel", "environment"])
def test_no_top_level_kernels_sim_or_cli_is_importable_elsewhere(installed: bool, site: Path, tmp_path: Path) -> None:
    code = (
        "import json, sys; from importlib.util import find_spec\n"
        "specs = [spec for name in sys.argv[1:] if (spec := find_spec(name))]\n"
        "print(json.dumps([str(p) for s in specs for p in (s.origin, *(s.submodule_search_locations or ()))]))"
    )
    places = json.loads(run(sys.executable, "-c", code, *TOP_LEVEL, cwd=tmp_path, path=site if installed else None))
    assert [place for place in places if Path(place).is_relative_to(ROOT) or Path(place).is_relative_to(site)] == []


@pytest.mark.parity
def test_transformers_and_diffusers_import_beside_the_checkout() -> None:
    code = (
        "import minimodels, transformers, diffusers\n"
        "from transformers import LlamaForCausalLM, T5EncoderModel\n"
        "from diffusers import AutoencoderKL, UNet2DConditionModel"
    )
    run(sys.executable, "-c", code, cwd=ROOT)


@pytest.mark.parametrize("name", ["kernels", "minimodels", "sim"])
def test_importing_a_room_loads_only_what_the_arrows_allow(name: str, loaded: dict[str, list[str]]) -> None:
    assert [module for module in loaded[name] if module != "minimodels" and not may_import(name, module)] == []


@pytest.mark.parametrize("name", [*ROOMS, "cli"])
def test_import_arrows_hold(name: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {imported}"
        for module, path in modules().items()
        if room(module) == name
        for imported in imports(module, path)
        if not may_import(name, imported)
    ]
    assert wrong == []


@pytest.mark.parametrize("name", LINKS)
def test_links_are_relative_and_resolve(name: str) -> None:
    link = ROOT / "minimodels" / name
    assert os.readlink(link) == LINKS[name]
    assert link.resolve(strict=True) == ROOT / name


@pytest.mark.parametrize("folder", ["kernels", "sim", "tests"])
def test_rooms_are_not_packages_of_their_own(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


def test_no_python_file_is_longer_than_400_lines() -> None:
    sources = [path for folder in (*ROOMS, "tests", "docs") for path in files(ROOT / folder) if path.suffix == ".py"]
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in [*sources, ROOT / "cli.py"]
    }
    assert {name: count for name, count in lines.items() if count > 400} == {}
