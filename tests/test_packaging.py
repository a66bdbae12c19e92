"""What is shipped, what importing it costs, and who may know whom."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "adaptive_constraints"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

#: What only extras bring; importing our modules must not load any of it.
OPTIONAL = (
    *("gymnasium", "mujoco", "minari", "h5py", "gymnasium_robotics", "ogbench", "stable_baselines3"),
    *(
        "torchopt",
        "higher",
        "tyro",
        "rich",
        "tensorboard",
        "matplotlib",
        "ray",
        "jax",
        "pytest",
        "hypothesis",
        "pyarrow",
        "onnx",
        "onnxscript",
        "onnxruntime",
        "optuna",
        "altair",
        "vl_convert",
    ),
)
#: Modules whose classes derive from an extra's; only functions import them.
ON_DEMAND = (
    "adaptive_constraints.data.collecting.recording",
    "adaptive_constraints.environments.antmaze_env",
    "adaptive_constraints.environments.flat_observations",
    "adaptive_constraints.environments.maze_env",
)
PROJECT_VERSION = re.findall(r'"(.*)"', (SOURCE / "_version.py").read_text(encoding="utf-8"))[-1]
#: What tools and runs make; none of it is of the tree.
MADE = ("__pycache__", "*.egg-info")
MADE_AT_THE_TOP = ("build", "dist", "runs")
#: What a baseline may import from this package, as a stranger's learner would.
PUBLIC = ("adaptive_constraints.networks", "adaptive_constraints.core.learner", "adaptive_constraints.core.adapter")


def run_python(
    *arguments: str, path: Path | None = None, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run this Python without the environment's PYTHONPATH, or with ``path`` as the whole of it."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=folder)


def answer(code: str, path: Path, folder: Path) -> Any:
    """What ``code`` prints as JSON, run in ``folder`` with ``path`` on the import path."""
    done = run_python("-c", code, path=path, folder=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def modules(top: Path = SOURCE, name: str = "adaptive_constraints") -> Iterator[tuple[str, Path]]:
    """(dotted name, file) of every module in the tree, through the link to the baselines."""
    for path in sorted(top.iterdir()):
        if path.is_dir() and path.name != "__pycache__":
            yield from modules(path, f"{name}.{path.name}")
        elif path.suffix == ".py":
            yield (name if path.stem == "__init__" else f"{name}.{path.stem}"), path


def test_packages_are_those_of_the_tree() -> None:
    packages = {name if path.stem == "__init__" else name.rpartition(".")[0] for name, path in modules()}
    assert PROJECT["tool"]["setuptools"]["packages"] == sorted(packages)
    for name in packages:
        folder = SOURCE.parent / name.replace(".", "/")
        assert (folder / "__init__.py").is_file(), f"{name} has no __init__.py"


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="an sdist has no links")
@pytest.mark.parametrize(
    ("link", "target"), [("baselines", "../../baselines"), ("experiments/suites", "../../../benchmarks/suites")]
)
def test_what_stands_beside_the_source_is_reached_by_a_relative_link(link: str, target: str) -> None:
    assert os.readlink(SOURCE / link) == target
    assert (SOURCE / link).resolve() == ROOT / target.replace("../", "")


def test_the_bare_name_of_the_baselines_is_refused() -> None:
    done = run_python("-c", "import baselines", path=SOURCE.parent, folder=ROOT)
    assert done.returncode != 0
    assert "ImportError: This folder is the package adaptive_constraints.baselines" in done.stderr
    assert "from adaptive_constraints.baselines import TD3BC" in done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wheel and sdist, and in ``again`` the wheel of that sdist, built from a copy of the tree."""
    copy, out, unpacked = (tmp_path_factory.mktemp(name) for name in ("tree", "dist", "unpacked"))
    for name in tree_files(ROOT):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name, follow_symlinks=False)
    build(copy, "build_sdist", out)
    build(copy, "build_wheel", out)
    (sdist,) = out.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    (inside,) = unpacked.iterdir()
    build(inside, "build_wheel", out / "again")
    return out


def build(tree: Path, what: str, out: Path) -> None:
    """Build with the backend that pyproject.toml names."""
    out.mkdir(exist_ok=True)
    done = run_python("-c", f"import setuptools.build_meta as b; b.{what}({str(out)!r})", folder=tree)
    assert done.returncode == 0, done.stderr


def wanted_files() -> set[str]:
    """Every module and data file, as the wheel must name them."""
    files = {path.relative_to(SOURCE.parent).as_posix() for _, path in modules()}
    bundled = [path for pattern in ("*.npz", "*.json") for path in (SOURCE / "data" / "bundled").glob(pattern)]
    assert any(path.suffix == ".npz" for path in bundled)
    template = list((SOURCE / "reports" / "template").iterdir())
    assert {path.suffix for path in template} == {".html", ".css", ".js"}
    suites = list((SOURCE / "experiments" / "suites").glob("*.toml"))
    assert {path.stem for path in suites} >= {"smoke", "quick"}
    data = {path.relative_to(SOURCE.parent).as_posix() for path in [*bundled, *template, *suites]}
    return files | data | {"adaptive_constraints/py.typed"}


def test_the_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert shipped == wanted_files()
    assert "adaptive_constraints/baselines/td3_bc.py" in shipped


def test_the_sdist_holds_the_whole_tree(built: Path) -> None:
    """All that is not hidden, each file once: not behind the links too."""
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        shipped = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    made = {"PKG-INFO", "setup.cfg"}
    wanted = {name for name in tree_files(ROOT) if not (ROOT / name).is_symlink()}
    assert {name for name in shipped if ".egg-info/" not in name} - made == wanted


def tree_files(folder: Path) -> Iterator[str]:
    """Every file and link of the tree by its path, but for hidden ones and what tools make."""
    for path in folder.iterdir():
        made = any(fnmatch(path.name, pattern) for pattern in MADE) or path in {ROOT / name for name in MADE_AT_THE_TOP}
        if made or path.name.startswith("."):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from tree_files(path)
        else:
            yield path.relative_to(ROOT).as_posix()


def test_the_wheel_of_the_sdist_is_the_wheel_of_the_tree(built: Path) -> None:
    contents = []
    for folder in (built, built / "again"):
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            contents.append({name: archive.read(name) for name in archive.namelist()})
    assert contents[0] == contents[1]


def test_the_wheel_works_where_it_is_unpacked(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import json, adaptive_constraints as a\n"
        "from adaptive_constraints import load_dataset\n"
        "from adaptive_constraints.baselines import TD3BC\n"
        "print(json.dumps([a.__file__, a.__version__, TD3BC.__module__, len(load_dataset('bundled:hopper'))]))"
    )
    file, version, module, rows = answer(code, tmp_path / "site", tmp_path)
    assert file == str(tmp_path / "site" / "adaptive_constraints" / "__init__.py")
    assert module == "adaptive_constraints.baselines.td3_bc"
    assert version in wheel.name
    assert rows > 0
    code = (
        "import json\n"
        "from adaptive_constraints.experiments.suite import list_suites, load_suite\n"
        "print(json.dumps([{name: str(path) for name, path in list_suites().items()}, len(load_suite('quick').cells)]))"
    )
    suites, cells = answer(code, tmp_path / "site", tmp_path)
    assert set(suites) == {path.stem for path in (ROOT / "benchmarks" / "suites").glob("*.toml")}
    assert all(path.startswith(str(tmp_path / "site")) for path in suites.values())
    assert cells > 1


def test_importing_costs_little_more_than_torch(tmp_path: Path) -> None:
    code = (
        "import json, time\n"
        "start = time.perf_counter()\n"
        "import torch, numpy\n"
        "between = time.perf_counter()\n"
        "import adaptive_constraints.baselines\n"
        "from adaptive_constraints import wrap\n"
        "print(json.dumps((time.perf_counter() - between) / (between - start)))"
    )
    shares = (answer(code, SOURCE.parent, tmp_path) for _ in range(3))
    assert any(share < 0.4 for share in shares), "in none of three tries"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--help"], 0, "finetune"),
        (["--version"], 0, PROJECT_VERSION),
        (["trian"], 2, "did you mean train?"),
        (["train", "--stpes", "3"], 2, "did you mean --steps?"),
    ],
)
def test_what_needs_no_torch_does_not_import_it(words: list[str], code: int, said: str, tmp_path: Path) -> None:
    program = (
        "import json, sys\n"
        "from adaptive_constraints.cli import main\n"
        f"code = main({words!r})\n"
        "print()\n"
        "print(json.dumps([code, 'torch' in sys.modules]))"
    )
    done = run_python("-c", program, path=SOURCE.parent, folder=tmp_path)
    assert json.loads(done.stdout.splitlines()[-1]) == [code, False], done.stderr
    assert said in done.stdout + done.stderr


def test_public_names_are_there_when_they_are_asked_for(tmp_path: Path) -> None:
    code = (
        "import json, sys, adaptive_constraints as a\n"
        "before = 'torch' in sys.modules, hasattr(a, '_nothing'), 'torch' in sys.modules\n"
        "shown = dir(a)\n"
        "from adaptive_constraints import *\n"
        "missing = [name for name in a.__all__ if name not in globals() or name not in shown or not hasattr(a, name)]\n"
        "print(json.dumps([before, missing, hasattr(a, 'nothing'), a.data.load_dataset is a.load_dataset]))"
    )
    assert answer(code, SOURCE.parent, tmp_path) == [[False, False, False], [], False, True]


def test_no_module_imports_an_extra(tmp_path: Path) -> None:
    names = [name for name, _ in modules() if name not in ON_DEMAND and not name.endswith("__main__")]
    code = (
        "import importlib, json, sys, torch, numpy\n"
        "before = set(sys.modules)\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        f"print(json.dumps(sorted(set({OPTIONAL!r}) & (set(sys.modules) - before))))"
    )
    assert answer(code, SOURCE.parent, tmp_path) == []


def imports(path: Path) -> Iterator[str]:
    """Every ``module`` of ``import module``, and ``module.name`` of ``from module import name``, in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def allowed_to_baselines(imported: str) -> bool:
    """Whether a baseline may import this: other packages, each other, public modules, and top-level public names."""
    if imported.partition(".")[0] != "adaptive_constraints":
        return True
    if any(part.startswith("_") for part in imported.split(".")):
        return False
    package, _, name = imported.rpartition(".")
    if package == "adaptive_constraints":
        import adaptive_constraints

        return imported in PUBLIC or name in adaptive_constraints.__all__
    return imported.startswith((*(f"{module}." for module in PUBLIC), "adaptive_constraints.baselines."))


def test_baselines_import_only_public_names() -> None:
    foreign = {
        f"{path.name}: {name}"
        for path in sorted((ROOT / "baselines").glob("*.py"))
        for name in imports(path)
        if not allowed_to_baselines(name)
    }
    assert not foreign


def test_extras_carry_what_is_optional() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    always = {requirement.partition(">")[0] for requirement in PROJECT["project"]["dependencies"]}
    assert always == {"torch", "numpy"}
    assert set(extras) == {
        *("mujoco", "d4rl", "minari", "table", "robotics", "ogbench", "collect", "oracles", "cli", "logging", "plots"),
        *("ray", "docs", "export", "report", "wandb", "trackio", "video", "speed", "sweep", "demo", "dev"),
    }
    for path in [*SOURCE.rglob("*.py"), *(ROOT / "baselines").glob("*.py"), *(ROOT / "docs").glob("*.md")]:
        text = path.read_text(encoding="utf-8")
        named = re.findall(r"adaptive-constraints\[([\w,]+)\]", text) + re.findall(
            r"import_extra\(\S+, \"(\w+)\"\)", text
        )
        assert {extra for names in named for extra in names.split(",")} <= set(extras), path
    capped = {
        extra for extra, requirements in extras.items() if any("<" in requirement for requirement in requirements)
    }
    assert capped == {"docs", "robotics"}, "a cap is for what breaks"
    assert not any("functorch" in requirement for extra in extras.values() for requirement in extra)


#: Private names that are not ours: of named tuples, of torch, of the simulators, of notebooks.
FOREIGN = {
    *("_replace", "_asdict", "_fields", "_exit", "_data"),
    *("_repr_html_", "_repr_png_"),
    *("_C", "_functorch", "_schema", "_local_scalar_dense", "_unique2", "_unsafe_view"),
}


def private_reads(path: Path) -> Iterator[str]:
    """Every private name of another object or of our package that a file reads, imports or replaces."""
    private = re.compile(r"_[a-z]\w*", re.IGNORECASE).fullmatch
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id in OWN):
            names = [node.attr]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("adaptive_constraints"):
            names = [part for alias in node.names for part in f"{node.module}.{alias.name}".split(".")]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setattr":
            words = [argument.value for argument in node.args[:2] if isinstance(argument, ast.Constant)]
            names = [part for word in words for part in str(word).split(".")]
        line = getattr(node, "lineno", 0)
        yield from (f"{path.name}:{line}: {name}" for name in names if private(name) and name not in FOREIGN)


OWN = ("self", "cls")


@pytest.mark.parametrize("folder", ["tests", "benchmarks", "examples"])
def test_nothing_private_is_read_from_outside(folder: str) -> None:
    """Tests hold what the package promises, so that what it does not promise may change."""
    reads = [line for path in sorted((ROOT / folder).rglob("*.py")) for line in private_reads(path)]
    assert not reads, "\n".join(reads)


def test_the_guide_for_contributors_names_what_is_there() -> None:
    """Each path that it names, and every room of its picture, from top to bottom."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = set(re.findall(r"`([\w/]+/[\w.]*)`", text))
    assert paths and not {path for path in paths if not any((top / path).exists() for top in (ROOT, SOURCE))}
    picture = re.findall(
        r"^    (\w+(?: \| \w+)*)  +\w", text.partition("from top to bottom")[2].partition("| part")[0], re.M
    )
    (layers,) = (
        contract["layers"] for contract in PROJECT["tool"]["importlinter"]["contracts"] if contract["type"] == "layers"
    )
    assert picture == [layer.removesuffix(" | _version") for layer in layers]
