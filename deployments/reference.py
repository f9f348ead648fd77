"""The README's table of settings, made from `config.py`.

`python -m deployments.reference` prints it; with the path of a file as argument it is written there, between the marks.
"""

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from deployments.config import MIB, AppConfig

BEGIN, END = "<!-- settings -->\n", "\n<!-- /settings -->"


def rows(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """(key, default, meaning) of each setting below `model`, sections in the order in which they are declared."""
    sections: list[tuple[str, type[BaseModel]]] = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            sections.append((name, field.annotation))
        else:
            yield f"{prefix}{name}", _default(name, field), " ".join((field.description or "").split())
    for name, section in sections:
        yield f"**{prefix}{name}**", "", inspect.getdoc(section) or ""
        yield from rows(section, f"{prefix}{name}.")


def _default(name: str, field: FieldInfo) -> str:
    value = field.default
    if value is None:
        return "none"
    if "bytes" in name and value and value % MIB == 0:
        return f"{value // MIB} MiB"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "empty"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def table() -> str:
    """Markdown: key, default, meaning."""
    lines = ["| key below `args:` | default | meaning |", "|---|---|---|"]
    for key, default, meaning in rows(AppConfig):
        name = key if key.startswith("**") else f"`{key}`"
        lines.append(f"| {name} | {f'`{default}`' if default else ''} | {meaning} |")
    return "\n".join(lines)


def shown_in(document: str) -> str:
    """What stands between the marks in a Markdown document. Raises `ValueError` when there are none."""
    _, begin, rest = document.partition(BEGIN)
    table_there, end, _ = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"no {BEGIN.strip()} … {END.strip()} in the document")
    return table_there


def main(paths: list[str]) -> None:
    if not paths:
        print(table())
    for path in map(Path, paths):
        document = path.read_text(encoding="utf-8")
        old, new = f"{BEGIN}{shown_in(document)}{END}", f"{BEGIN}{table()}{END}"
        path.write_text(document.replace(old, new), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
