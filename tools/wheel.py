"""Import every module of the installed package, and fail if one of them imports a package that the wheel does not ask for."""
import ast
import importlib
import importlib.metadata
import pkgutil
import re
import sys
from pathlib import Path

from packaging.requirements import Requirement

import hf_finetune

KERNEL = {"IPython"}  # imported only where a kernel runs, which brings it


def asked_for(name: str, extras: frozenset[str], found: set[tuple[str, str]]) -> None:
    "Add a distribution and what it requires, with some of its extras."
    for extra in extras | {""}:
        if (name, extra) in found: continue
        found.add((name, extra))
        try: requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError: continue  # of another system
        for requirement in map(Requirement, requires):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                asked_for(canonical(requirement.name), frozenset(requirement.extras), found)


def canonical(name: str) -> str: return re.sub(r"[-_.]+", "-", name).lower()


def main() -> int:
    modules = [importlib.import_module(f"hf_finetune.{module.name}") for module in pkgutil.iter_modules(hf_finetune.__path__)]
    found: set[tuple[str, str]] = set()
    extras = frozenset(importlib.metadata.metadata("hf-finetune").get_all("Provides-Extra") or ()) - {"dev", "docs"}
    asked_for("hf-finetune", extras, found)
    asked = {name for name, _ in found}
    direct = {name.partition(".")[0] for module in modules for name in imports(module)}
    owners = importlib.metadata.packages_distributions()
    missing = sorted(name for name in direct - KERNEL if name in owners and not {canonical(owner) for owner in owners[name]} & asked)
    print(f"hf_finetune {hf_finetune.__version__}: {len(modules)} modules import from {hf_finetune.__path__[0]}")
    if missing: print(f"imported, and not among what the wheel asks for: {', '.join(missing)}")
    return 1 if missing else 0


def imports(module: object) -> set[str]:
    "The packages whose names stand in the import statements of a module, those inside functions too."
    nodes = list(ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module}


if __name__ == "__main__": sys.exit(main())
