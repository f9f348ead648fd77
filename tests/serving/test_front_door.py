"""What the proxy is given, without Ray."""

from starlette.types import Message, Receive, Scope, Send

from deployments.serving.front_door import OpenAIErrors


async def test_headers_that_are_no_text_do_not_reach_the_proxy() -> None:
    """It decodes its own ones as UTF-8, and would answer 500 in plain text where they are not."""
    seen: list[tuple[bytes, bytes]] = []

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend(scope["headers"])

    async def nothing(message: Message | None = None) -> Message:
        raise AssertionError

    headers = [(b"x-request-id", b"\xe9"), (b"x-\xff", b"a"), (b"x-name", "é".encode()), (b"host", b"a")]
    await OpenAIErrors(proxy)({"type": "http", "path": "/v1/models", "headers": headers}, nothing, nothing)
    assert seen == headers[2:]
