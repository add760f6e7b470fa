"""Which module may import which, and what importing the package may do."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "evohbde"

# A room is a module or subpackage right below evohbde; it imports rooms of its own layer or of lower ones.
LAYERS = (
    {"durable", "journal", "layout", "parts", "metrics", "data", "statistics", "optimizers", "reductions", "scale"}
    | {"threads"},
    {"objectives", "stages", "strategies", "engine", "racing", "evaluator", "searchers", "run", "actors"}
    | {"distillation", "outputs"},
    {
        "problem_base",
        "problem",
        "black_box",
        "pymoo_bridge",
        "checkpoint",
        "testing",
        "searcher_contract",
        "history",
        "judge",
        "record",
    },
    {"gradient", "gate", "recalibrate", "reconstruct", "sensitivity", "preset_base", "hbde_2024", "staged", "finetune"}
    | {"gradient_searcher", "plots", "report", "rundir", "unfinished", "pruning", "compress", "recovery"},
    {"comparison", "references", "report_comparison"},
    {"api", "progress", "tune", "prune_command", "resume", "report_command", "commands", "cli", "__main__"}
    | {"compare_command"},
)
LAYER = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}

# Narrower than the layers: these rooms import nothing else of evohbde.
ONLY = {"searchers": {"searchers", "run"}, "reductions": {"reductions"}}

# An optional package is imported in one room, so that the others work without it.
ONE_IMPORTER = {
    "bitsandbytes": "compress",
    "matplotlib": "plots",
    "peft": "compress",
    "pymoo": "pymoo_bridge",
    "pytorch_optimizer": "optimizers",
    "torch_pruning": "pruning",
    "torchao": "compress",
}

FOLDERS = ("evohbde", "problems", "tests", "examples", "benchmarks")
MAX_LINES = 400

MACHINE_PATH = re.compile(r"(?<![\w.~})*-])/(?:work|root|farm)/")


def read_package(folder: Path) -> dict[str, str]:
    """Map each dotted module name below `folder` to its source; a package goes by `name.__init__`."""
    paths = sorted(folder.rglob("*.py"))
    return {".".join([PACKAGE, *path.relative_to(folder).with_suffix("").parts]): path.read_text() for path in paths}


def imports_of(module: str, sources: dict[str, str]) -> Iterator[str]:
    """Yield the dotted name of whatever `module` imports, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(sources[module])):
        if isinstance(node, ast.Import):
            yield from (locate(alias.name, sources) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            origin = ".".join([*above, *filter(None, [node.module])])
            yield from (locate(f"{origin}.{alias.name}", sources) for alias in node.names)


def locate(name: str, sources: dict[str, str]) -> str:
    """Name the module of ours that an import means: `evohbde.run.run_until -> evohbde.run`; others as they are."""
    if name.split(".")[0] != PACKAGE:
        return name
    while name not in sources and f"{name}.__init__" not in sources and "." in name:
        name = name.rpartition(".")[0]
    return name if name in sources else f"{name}.__init__"


def room_of(module: str) -> str:
    """Name the room that a module of ours lies in: `evohbde.searchers.de -> searchers`; the root is `__init__`."""
    return module.split(".")[1]


def import_edges(sources: dict[str, str]) -> list[tuple[str, str]]:
    """List (module, imported module) within evohbde; what the root's `__init__` imports is left out."""
    rooms = [module for module in sources if room_of(module) != "__init__"]
    return [(m, name) for m in rooms for name in imports_of(m, sources) if name.split(".")[0] == PACKAGE]


def layer_faults(sources: dict[str, str]) -> list[str]:
    """Say which modules have no layer and which imports go upward."""
    faults = [
        f"{module}: room `{room_of(module)}` has no layer; add it to the table LAYERS in tests/test_layers.py"
        for module in sources
        if room_of(module) not in {*LAYER, "__init__"}
    ]
    for module, name in import_edges(sources):
        low, high = LAYER.get(room_of(module)), LAYER.get(room_of(name), len(LAYERS) - 1)
        if low is not None and high > low:
            faults.append(f"{module} (layer {low}) imports {name} (layer {high}); imports go down or stay in the layer")
    return faults


def room_faults(sources: dict[str, str]) -> list[str]:
    """Say which imports leave a room that has to know nothing of the others."""
    return [
        f"{module} imports {name}, but `{room_of(module)}` imports only {sorted(ONLY[room_of(module)])} of {PACKAGE}"
        for module, name in import_edges(sources)
        if room_of(name) not in ONLY.get(room_of(module), {room_of(name)})
    ]


def outside_faults(sources: dict[str, str]) -> list[str]:
    """Say which modules import an outside package that is not for them."""
    faults = []
    for module in sources:
        for outside in {name.split(".")[0] for name in imports_of(module, sources)}:
            if outside == "evotorch" and LAYER.get(room_of(module)) == 0:
                faults.append(f"{module} imports evotorch, but layer 0 knows tensors and nothing of problems")
            if room_of(module) != ONE_IMPORTER.get(outside, room_of(module)):
                faults.append(f"{module} imports {outside}, which only {PACKAGE}.{ONE_IMPORTER[outside]} may")
    return faults


def find_cycle(sources: dict[str, str]) -> list[str]:
    """Return the modules of one import cycle, the first again at the end, or nothing."""
    graph: dict[str, set[str]] = {module: set() for module in sources}
    for module, name in import_edges(sources):
        graph[module].add(name)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1][::-1]
    return []


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    return read_package(ROOT / PACKAGE)


def test_imports_never_go_upward(sources):
    assert not (faults := layer_faults(sources)), "\n" + "\n".join(faults)


def test_searchers_and_reductions_know_nothing_of_networks(sources):
    assert not (faults := room_faults(sources)), "\n" + "\n".join(faults)


def test_outside_packages_come_in_by_one_door(sources):
    assert not (faults := outside_faults(sources)), "\n" + "\n".join(faults)


def test_imports_are_acyclic(sources):
    assert not (cycle := find_cycle(sources)), " -> ".join(cycle)


@pytest.mark.parametrize(
    ("check", "module", "source", "fault"),
    [
        (
            layer_faults,
            "layout",
            "from evohbde.cli import app",
            r"evohbde\.layout \(layer 0\) .* evohbde\.cli \(layer 5\)",
        ),
        (layer_faults, "layout", "def late():\n    from . import cli", r"imports evohbde\.cli \(layer 5\)"),
        (layer_faults, "searchers.de", "from .. import run, cli", r"imports evohbde\.cli"),
        (layer_faults, "problem", "from evohbde import HistogramBlocking", r"imports evohbde\.__init__"),
        (layer_faults, "helpers", "", r"`helpers` has no layer; add it to the table"),
        (room_faults, "searchers.de", "import evohbde.layout", r"imports evohbde\.layout"),
        (room_faults, "reductions.base", "from evohbde import layout", r"imports evohbde\.layout"),
        (outside_faults, "layout", "from evotorch import Problem", r"imports evotorch"),
        (outside_faults, "report", "import matplotlib.pyplot as plt", r"only evohbde\.plots may"),
        (find_cycle, "run", "from evohbde.searchers import de", r"evohbde\.(run|searchers\.de)"),
    ],
)
def test_a_fault_is_found(check, module, source, fault):
    legal = {"__init__": "from evohbde.cli import app", "layout": "import torch", "cli": "import evohbde", "run": ""}
    legal |= {"searchers.__init__": "from .de import DE", "searchers.de": "from evohbde.run import run_until"}
    legal = {f"{PACKAGE}.{name}": text for name, text in legal.items()}
    assert not check(legal)
    assert re.search(fault, "\n".join(check({**legal, f"{PACKAGE}.{module}": source})))


def test_importing_has_no_effects():
    script = """
import random, sys
import evotorch, numpy, torch
def state(): return random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), \\
    torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()
before, loaded = state(), set(sys.modules)
import evohbde, evohbde.api
assert state() == before, "import evohbde changes a random state or a setting of torch"
heavy = {"matplotlib", "pymoo", "torchvision"} & (set(sys.modules) - loaded)
assert not heavy, f"import evohbde loads {sorted(heavy)}"
"""
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""


def test_files_stay_short():
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in paths}
    long = {name: length for name, length in lengths.items() if length >= MAX_LINES}
    assert not long, f"{MAX_LINES} lines or more; which second question wants its own file? {long}"


def tracked_text() -> Iterator[tuple[str, str]]:
    """Yield (path, text) of each file that git tracks and that is text."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    for name in filter(None, listing.stdout.split("\0")):
        path = ROOT / name
        content = path.read_bytes() if path.is_file() else b""
        if b"\0" not in content:
            yield name, content.decode(errors="replace")


def test_no_machine_paths_in_tracked_files():
    lines = ((name, i, line) for name, text in tracked_text() for i, line in enumerate(text.splitlines(), start=1))
    faults = [f"{name}:{i}: {line.strip()[:120]}" for name, i, line in lines if MACHINE_PATH.search(line)]
    assert not faults, "paths of one machine:\n" + "\n".join(faults)


@pytest.mark.parametrize("before", ["", " ", '"', "=", "file://", "cd "])
def test_a_machine_path_is_found(before):
    assert MACHINE_PATH.search(before + "/" + "work/data")


@pytest.mark.parametrize("before", ["https://example.org", "$HOME", "~", "${DIR}", "..", "**"])
def test_other_paths_are_fine(before):
    assert not MACHINE_PATH.search(before + "/" + "work/data")


def test_a_star_import_brings_the_public_names():
    names: dict[str, object] = {}
    exec("from evohbde import *", names)
    assert {"fine_tune", "NetworkProblem", "HistogramBlocking", "run_until"} <= set(names)
    assert not {"import_module", "OPTIONAL", "TYPE_CHECKING"} & set(names)
