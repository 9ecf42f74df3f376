"""The house: data flows one way, so an import goes down the floors or stays on its own, never up."""

import ast

import pytest

from tests.helpers import ROOT

# The longest name that a module's begins with decides. What is not here is not part of the program.
FLOORS = {
    "runp": 8,
    "src.trainer": 7,
    "src.evaluator": 6,
    "src.step": 5,
    "src.models": 4,
    "src.checkpoints": 4,
    "src.reports": 4,
    "src.layers": 3,
    "src.data_provider": 3,
    # Names, help and paths of classes, which the flags are made from; the classes are imported when they are built.
    "src.models.model_factory": 1,
    "src.data_provider.datasets_factory": 1,
    "src.runtime": 2,
    "src.utils": 2,
    "src": 2,  # the package itself prepares the process
    "src.config": 1,
    "src.flag_values": 1,
    "src.checkpoint_files": 1,
    "src.one_line_parser": 1,
    "src.errors": 0,
}


def sources():
    """The name and path of each module of the program."""
    for path in sorted([ROOT / "runp.py", *(ROOT / "src").rglob("*.py")]):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def floor_of(module):
    known = [name for name in FLOORS if module == name or (name != "src" and module.startswith(f"{name}."))]
    return FLOORS[max(known, key=len)] if known else None


def imports_of(source, modules):
    """(line, module) of each import of the program, also of those inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            # `from src.runtime import ranks` is an import of the module src.runtime.ranks
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules else names[0] for name in inside]
        else:
            continue
        yield from ((node.lineno, name) for name in names if floor_of(name) is not None)


def upward_imports(module, source, modules):
    own = floor_of(module)
    return [
        f"{module}, line {line}: imports {name} (floor {floor_of(name)}, this is floor {own})"
        for line, name in imports_of(source, modules)
        if floor_of(name) > own
    ]


def test_every_module_has_a_floor():
    assert [name for name, _ in sources() if floor_of(name) is None] == []


def test_no_import_goes_up():
    modules = {name for name, _ in sources()}
    found = [line for name, path in sources() for line in upward_imports(name, path.read_text("utf-8"), modules)]
    assert found == []


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("src.config", "from src.runtime import ranks", "src.config, line 1: imports src.runtime.ranks (floor 2, "),
        ("src.utils.tf_weights", "import os\nfrom src.layers.rnn_cell import EideticLSTMCell", "2: imports src.layers"),
        ("src.layers.recall", "def late():\n    import src.models.forecaster", "line 2: imports src.models.forecaster"),
        ("src.errors", "from src.config import Config", "imports src.config (floor 1, this is floor 0)"),
        ("src.step", "from src import trainer", "imports src.trainer (floor 7, this is floor 5)"),
    ],
)
def test_an_import_that_goes_up_is_named(module, source, expected):
    (found,) = upward_imports(module, source, {name for name, _ in sources()})
    assert expected in found


def test_relative_imports_are_not_used():
    """The floors are read from whole names."""
    for name, path in sources():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{name}, line {node.lineno}"


def test_no_test_file_imports_another():
    for path in sorted((ROOT / "tests").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [f"{node.module}.{alias.name}" for alias in node.names] if names else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any(name.startswith("tests.test_") for name in names), f"{path.name}, line {node.lineno}"
