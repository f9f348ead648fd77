"""The chart's templates filled in, as far as they use Helm's language; for where Helm itself is not installed.

Knows `{{ value }}`, pipelines of the few functions that the chart uses, and `{{- with }} … {{- end }}` on lines of
their own. Anything else is an error: a template that needs more needs Helm's own renderer here.
"""

import re
from collections.abc import Callable
from typing import Any

import yaml

from tests.k8s.manifests import K8S, Tree

CHART = K8S / "helm"
_ACTION = re.compile(r"\{\{(-?) (.+?) \}\}")
_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|\(|\)|\||[^\s()|"]+')

FUNCTIONS: dict[str, Callable[..., str]] = {
    "default": lambda fallback, value: value or fallback,
    "indent": lambda spaces, text: "\n".join(" " * int(spaces) + line for line in str(text).splitlines()),
    "replace": lambda old, new, text: str(text).replace(old, new),
    "toYaml": lambda value: yaml.safe_dump(value, sort_keys=False).rstrip("\n"),
}


def values(**changes: Any) -> Tree:
    """`values.yaml`, with whole sections or values of them replaced."""
    found: Tree = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    for name, change in changes.items():
        found[name] = {**found[name], **change} if isinstance(change, dict) else change
    return found


def rendered(values: Tree) -> list[Tree]:
    """Every object that the chart makes of `values`."""
    texts = [_filled(path.read_text(encoding="utf-8"), values) for path in sorted(CHART.glob("templates/*.yaml"))]
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


def _filled(text: str, values: Tree) -> str:
    lines: list[str] = []
    dots: list[Any] = []
    for line in text.splitlines():
        action = _ACTION.fullmatch(line)
        if action and action[2].startswith("with "):
            dots.append(_value(action[2].removeprefix("with "), values, None))
        elif action and action[2] == "end":
            dots.pop()
        elif all(dots):
            dot = dots[-1] if dots else None
            lines.append(_ACTION.sub(lambda match, dot=dot: str(_value(match[2], values, dot)), line))  # type: ignore[misc]
    assert not dots, "a `with` without its `end`"
    return "\n".join(lines)


def _value(expression: str, values: Tree, dot: Any) -> Any:
    words = _WORD.findall(expression)
    value = _pipeline(words, values, dot)
    assert not words, f"{expression!r} goes on with {words}"
    return value


def _pipeline(words: list[str], values: Tree, dot: Any) -> Any:
    """Reads `words` up to the closing bracket or the end."""
    stages: list[list[Any]] = [[]]
    while words and (word := words.pop(0)) != ")":
        if word == "|":
            stages.append([])
        else:
            stages[-1].append(_pipeline(words, values, dot) if word == "(" else _atom(word, values, dot))
    value = _call(stages[0])
    for stage in stages[1:]:
        value = _call([*stage, value])
    return value


def _call(stage: list[Any]) -> Any:
    head, *arguments = stage
    return head(*arguments) if callable(head) else head


def _atom(word: str, values: Tree, dot: Any) -> Any:
    if word.startswith('"'):
        return word[1:-1]
    if word.isdigit() or word == ".":
        return dot if word == "." else word
    if word == ".Files.Get":
        return lambda name: (CHART / name).read_text(encoding="utf-8")
    if word.startswith(".Values."):
        found: Any = values
        for name in word.removeprefix(".Values.").split("."):
            found = found[name]
        return found
    return FUNCTIONS[word]
