"""The core stands alone: what everything else is built on is built on nothing of it."""

import ast
from pathlib import Path

CORE = Path(__file__).parents[2] / "rlhive" / "core"


def test_core_imports_nothing_of_the_library_outside_core():
    for path in CORE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            outside = [n for n in names if f"{n}.".startswith("rlhive.") and not n.startswith("rlhive.core.")]
            assert not outside, f"{path.name}:{node.lineno}"
