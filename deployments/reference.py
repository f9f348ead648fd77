"""The README's table of settings, made from `config.py`: `python -m deployments.reference` prints it."""

import inspect
from collections.abc import Iterator

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from deployments.config import MIB, AppConfig


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


if __name__ == "__main__":
    print(table())
