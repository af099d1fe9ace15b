"""What keeps the house small: the sizes of folders, files and functions, and that a module's name says which it is.

    python tools/gates.py           exit code 1 and one line for each thing that is too large
    python tools/gates.py --figures modules by folder, arrows between rooms, lines

`./dev check` runs it. Knows Python files by their text; refuses to know what they do.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("platform/lorafleet", "jobs/lorafleet_jobs", "serve/lorafleet_serve")
MOST_MODULES = 18
"""Python files in one folder, `__init__.py` aside."""
MOST_LINES = 300
MOST_FUNCTION_LINES = 60
SPECIAL = ("__init__.py", "__main__.py", "conftest.py")


def main(arguments: list[str]) -> int:
    """Prints what is too large, or the figures."""
    files = python_files()
    if arguments == ["--figures"]:
        sys.stdout.writelines(f"{line}\n" for line in figures(files))
        return 0
    complaints = [*too_full(files), *too_long(files), *same_names(files)]
    sys.stderr.writelines(f"{line}\n" for line in complaints)
    return 1 if complaints else 0


def python_files() -> list[Path]:
    """Python files that git tracks or would track, relative to the repository's root."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"]
    listed = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    return [Path(name) for name in sorted(listed) if (ROOT / name).exists()]


def too_full(files: list[Path]) -> Iterator[str]:
    """Folders with too many modules."""
    for folder, modules in by_folder(files).items():
        if len(modules) > MOST_MODULES:
            yield f"{folder}: {len(modules)} modules, {MOST_MODULES} are allowed; make rooms of what belongs together"


def too_long(files: list[Path]) -> Iterator[str]:
    """Files and functions with too many lines."""
    for file in files:
        text = (ROOT / file).read_text()
        if (lines := text.count("\n")) > MOST_LINES:
            yield f"{file}: {lines} lines, {MOST_LINES} are allowed; split it by responsibility"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MOST_FUNCTION_LINES:
                    allowed = f"{MOST_FUNCTION_LINES} are allowed"
                    yield f"{file}:{node.lineno}: {node.name} has {length} lines, {allowed}; split it by responsibility"


def same_names(files: list[Path]) -> Iterator[str]:
    """Modules of one package that have the same name, by which nobody can tell them apart."""
    for package in PACKAGES:
        modules: dict[str, list[Path]] = defaultdict(list)
        for file in files:
            if file.is_relative_to(package) and file.name not in SPECIAL:
                modules[file.name].append(file)
        for same in modules.values():
            if len(same) > 1:
                yield f"{' and '.join(map(str, same))} share a name; give each one that says what it does"


def by_folder(files: list[Path]) -> dict[Path, list[Path]]:
    """Modules by folder, `__init__.py` and its like left out."""
    folders: dict[Path, list[Path]] = defaultdict(list)
    for file in files:
        if file.name not in SPECIAL:
            folders[file.parent].append(file)
    return folders


def figures(files: list[Path]) -> Iterator[str]:
    """Sizes of the product: its folders, its lines, and the imports between the rooms of each package."""
    import grimp  # comes with import-linter

    product = [file for file in files if any(file.is_relative_to(package) for package in PACKAGES)]
    for folder, modules in by_folder(product).items():
        yield f"{len(modules):4d} modules  {folder}"
    for package in PACKAGES:
        sys.path.insert(0, str(ROOT / Path(package).parent))
        name = Path(package).name
        graph = grimp.build_graph(name)
        rooms = sorted(graph.find_children(name))
        for room in rooms:
            graph.squash_module(room)
        arrows = sum(len(graph.find_modules_directly_imported_by(room) & set(rooms)) for room in rooms)
        yield f"{len(rooms):4d} rooms and {arrows} arrows between them  {package}"
    lines = {package: sum(_lines(file) for file in product if file.is_relative_to(package)) for package in PACKAGES}
    for package, count in lines.items():
        yield f"{count:6d} lines  {package}"
    yield f"{sum(lines.values()):6d} lines in all"


def _lines(file: Path) -> int:
    return (ROOT / file).read_text().count("\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
