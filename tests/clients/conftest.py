"""Clients that applications use, driven against the session's application; `pip install 'sluice[clients]'` has them.

The demo model knows nothing of tools: calls that are required are valid by the grammar, and a call that it makes of
its own accord is spelt by a regular expression in the request.
"""

import pytest

from tests.support.application import RunningApp

PARAMETERS = {
    "type": "object",
    "properties": {"x": {"type": "integer", "enum": [1, 2, 3]}},
    "required": ["x"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "Looks at a place.", "parameters": PARAMETERS},
}
SPELT = {
    "structured_outputs": {"regex": r'I look\.\n<tool_call>\n\{"name": "look", "arguments": \{"x": 2\}\}\n</tool_call>'}
}
"""What makes the model call although nothing requires it."""


@pytest.fixture(scope="session")
def url(app: RunningApp) -> str:
    return f"{app.url}/v1"
