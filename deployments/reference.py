"""The parts of the documents that are made from the code: the table of settings, and the map of the modules.

`python -m deployments.reference FILE ...` writes them anew between their marks; a test holds them to the code.
"""

import ast
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from deployments.config import MIB, AppConfig
from deployments.startup.settings import section_of

HERE = Path(__file__).parent


def rows(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """(key, default, meaning) of each setting below `model`, sections in the order in which they are declared."""
    sections: list[tuple[str, type[BaseModel]]] = []
    for name, field in model.model_fields.items():
        if (section := section_of(field.annotation)) is not None:
            sections.append((name, section))
        else:
            yield f"{prefix}{name}", _default(name, field), " ".join((field.description or "").split())
    for name, section in sections:
        yield f"**{prefix}{name}**", "", " ".join((inspect.getdoc(section) or "").split())
        yield from rows(section, f"{prefix}{name}.")


def _default(name: str, field: FieldInfo) -> str:
    value = field.default
    if value is None:
        return "none"
    if "bytes" in name and value and value % MIB == 0:
        return f"{value // MIB} MiB"
    if isinstance(value, tuple | dict):
        return ", ".join(map(str, value)) or "empty"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def settings() -> str:
    """Markdown: key, default, meaning."""
    lines = ["| key below `args:` | default | meaning |", "|---|---|---|"]
    for key, default, meaning in rows(AppConfig):
        name = key if key.startswith("**") else f"`{key}`"
        lines.append(f"| {name} | {f'`{default}`' if default else ''} | {meaning} |")
    return "\n".join(lines)


def modules(root: Path = HERE) -> str:
    """Markdown: each folder with a table of its modules and the first sentence of their docstrings."""
    lines: list[str] = []
    folders = [root, *sorted(path.parent for path in root.rglob("__init__.py") if path.parent != root)]
    for folder in folders:
        files = [path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]
        if files:
            lines += [f"**`{folder.relative_to(root.parent)}/`**", "", "| module | |", "|---|---|"]
            lines += [f"| [`{file.stem}`]({file.relative_to(root)}) | {_sentence(file)} |" for file in files]
            lines.append("")
    return "\n".join(lines).rstrip()


def _sentence(file: Path) -> str:
    """The first sentence of a module's docstring, on one line."""
    text = " ".join((ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split())
    end = next((at for at in range(len(text)) if text[at] in ".:" and text[at + 1 : at + 2] in ("", " ")), len(text))
    return text[:end].replace("|", "\\|")


PARTS: dict[str, Callable[[], str]] = {"settings": settings, "modules": modules}


def marks(part: str) -> tuple[str, str]:
    return f"<!-- {part} -->\n", f"\n<!-- /{part} -->"


def shown_in(document: str, part: str) -> str:
    """What stands between a part's marks in a Markdown document. Raises `ValueError` when there are none."""
    begins, ends = marks(part)
    _, begin, rest = document.partition(begins)
    shown, end, _ = rest.partition(ends)
    if not (begin and end):
        raise ValueError(f"no {begins.strip()} … {ends.strip()} in the document")
    return shown


def renewed(document: str) -> str:
    """The document with each part that it has marks for as the code is now. Raises `ValueError` when it has none."""
    there = [part for part in PARTS if marks(part)[0] in document]
    if not there:
        raise ValueError(f"no marks of any of {', '.join(PARTS)} in the document")
    for part in there:
        begins, ends = marks(part)
        document = document.replace(f"{begins}{shown_in(document, part)}{ends}", f"{begins}{PARTS[part]()}{ends}")
    return document


def main(paths: list[str]) -> None:
    if not paths:
        print(settings())
    for path in map(Path, paths):
        path.write_text(renewed(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
