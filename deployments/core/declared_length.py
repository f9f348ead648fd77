"""What a request's head says of its body's length, judged before any of the body is read."""

_MAX_DIGITS = 20
"""More of them are no length of anything; converting them would take time."""


def declares_more(declared: str, max_bytes: int) -> bool:
    """Whether a `Content-Length` is a number, and one above `max_bytes`."""
    return declared.isdecimal() and (len(declared) > _MAX_DIGITS or int(declared) > max_bytes)
