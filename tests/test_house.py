"""Imports run one way, from the commands down to the modules, and folders and files stay small."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# From the top down: a room imports only from itself and from rooms below it. CONTRIBUTING.md says
# what each is for. A name is a folder of fairseq_taskmoe/ or a module beside them.
ROOMS = (
    "api", "cli", "verbs", "tables", "benchmarks", "plan", "subnet", "conversion", "routing",
    "distillation", "serving", "evaluation", "engines", "register", "criterions", "tasks",
    "training", "checkpoint", "models", "data", "distributed", "metrics", "modules", "compat",
    "ground",
)
GROUND = (
    "devices", "errors", "files", "host", "names", "paths", "piece_model", "plotting", "read_files",
    "text_tables", "version",
)
MOST_FILES, MOST_LINES = 20, 250
CODE = ("fairseq_taskmoe", "preprocess")


def modules(package):
    """Return the modules of a package: dotted name -> file."""
    return {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for file in sorted((ROOT / package).rglob("*.py"))
    }


def imports(name, file, known):
    """Return the modules of a package that one of them imports, wherever in the file."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            source = ".".join([*above, *filter(None, [node.module])]) if node.level else node.module
            for alias in node.names:
                full = f"{source}.{alias.name}"
                found.add(full if full in known else source)
    return (found & set(known)) - {name}


def room(name):
    """Return the place of a module in ROOMS."""
    first = name.split(".")[1] if "." in name else "api"  # of which the package has the names
    return ROOMS.index("ground" if first in GROUND else first)


def test_every_module_has_a_room():
    for name in modules("fairseq_taskmoe"):
        room(name)


def test_imports_run_down():
    known = modules("fairseq_taskmoe")
    upward = [
        f"{name} imports {other}"
        for name, file in known.items()
        for other in imports(name, file, known)
        if room(other) < room(name) and other != "fairseq_taskmoe"
    ]
    assert upward == []


@pytest.mark.parametrize("package", CODE)
def test_no_import_leads_back(package):
    """No module imports itself by way of others, inside a room or across rooms."""
    known = modules(package)
    below = {name: imports(name, file, known) for name, file in known.items()}
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path[path.index(name):], name])
        if name in done:
            return
        path.append(name)
        for other in sorted(below[name]):
            visit(other)
        done.add(path.pop())

    for name in known:
        visit(name)


def test_an_import_that_runs_up_is_seen(tmp_path):
    known = {"p.modules.layer": tmp_path / "layer.py", "p.verbs.bench": tmp_path / "bench.py"}
    known["p.modules.layer"].write_text("def f():\n    from ..verbs import bench\n")
    assert imports("p.modules.layer", known["p.modules.layer"], known) == {"p.verbs.bench"}


@pytest.mark.parametrize("package", CODE)
def test_folders_stay_small(package):
    folders = [ROOT / package, *(path for path in (ROOT / package).rglob("*") if path.is_dir())]
    sizes = {str(folder.relative_to(ROOT)): len(list(folder.glob("*.py"))) for folder in folders}
    assert {name: size for name, size in sizes.items() if size > MOST_FILES} == {}


@pytest.mark.parametrize("package", CODE)
def test_files_stay_small(package):
    lines = {
        name: len(file.read_text(encoding="utf-8").splitlines())
        for name, file in modules(package).items()
    }
    assert {name: number for name, number in lines.items() if number > MOST_LINES} == {}


def test_contributing_names_every_room():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for name in ROOMS:
        assert name == "ground" or re.search(rf"`{name}(/|\.py)`", text), name
