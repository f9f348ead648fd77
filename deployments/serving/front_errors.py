"""What the fronts before the ingress say by themselves: Serve's proxy, its reader of heads, HAProxy."""

import json


def error_body(message: str, kind: str, code: str) -> bytes:
    """In OpenAI's shape, as JSON; the ingress says the same of its own errors."""
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()
