"""Clients that applications use, driven against the session's application; `pip install 'sluice[clients]'` has them.

The demo model knows nothing of tools: calls that are required are valid by the grammar, and a call that it makes of
its own accord is spelt by a regular expression in the request. `SLUICE_URL` names a server to drive in place of the
session's own, such as one in another environment than the clients'.
"""

import os

import pytest

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
def url(request: pytest.FixtureRequest) -> str:
    """The API's root."""
    server = os.environ.get("SLUICE_URL") or request.getfixturevalue("app").url
    return f"{server}/v1"
