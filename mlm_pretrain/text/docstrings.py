"""Documentation strings out of Python source files, with `ast`: nothing is imported, nothing is run.

Needs the standard library alone, because `installed_docs.py` also runs this file as a program, several at a time:
a JSON list of paths on stdin gives one JSON line per path on stdout, in the same order.
"""

from __future__ import annotations

import ast
import gc
import inspect
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def read_docstrings(path: str) -> list[tuple[str, str]]:
    """The documentation strings of one source file, in the order of the file.

    Returns:
        (qualified name within the module, text) pairs; the module's own name is "". Text is cleaned as by
        `inspect.cleandoc`. Empty where the file can't be read or parsed.
    """
    try:
        source = Path(path).read_bytes()
    except OSError:
        return []
    # Parsing is all the cost. Docstrings worth reading have triple quotes, and a file without any is skipped.
    if b'"""' not in source and b"'''" not in source:
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about invalid escapes in other people's sources
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    return list(_walk(tree, ""))


def _walk(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """Go through statements only: docstrings don't stand inside expressions, and those are most of a tree."""
    if isinstance(node, _DOCUMENTED):
        text = _docstring(node)
        if text is not None:
            yield name, text
    for field in ("body", "handlers", "orelse", "finalbody"):
        children = getattr(node, field, None)
        for child in children if isinstance(children, list) else ():
            own = getattr(child, "name", None) if isinstance(child, _DOCUMENTED) else None
            yield from _walk(child, f"{name}.{own}".lstrip(".") if own else name)


def _docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str | None:
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return inspect.cleandoc(first.value.value)
    return None


def main() -> None:
    gc.disable()  # syntax trees have no cycles, and looking for some costs a fifth of the time
    for path in json.load(sys.stdin):
        sys.stdout.write(json.dumps(read_docstrings(path)) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
