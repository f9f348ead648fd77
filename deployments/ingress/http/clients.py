"""Who is asking: checks API keys, and gives each client a name for fair turns which tells no secret."""

import hashlib

from starlette.datastructures import Headers
from starlette.types import Scope

from deployments.config import IngressConfig
from deployments.errors import Unauthorized
from deployments.ingress.http.keys import ApiKeys

MAX_ADDRESS_CHARS = 64
ON_BEHALF_OF = "sluice.on_behalf_of"
"""Of a scope that this application made itself: the client that it stands for. No client can set it."""
EVERYBODY = "everybody"


class Clients:
    def __init__(self, config: IngressConfig) -> None:
        self.keys = ApiKeys(config)
        self._address_header = config.client_address_header
        self._trusted_hops = config.trusted_proxies

    def identify(self, scope: Scope) -> str:
        """A name for the client: of its key, else its address. Raises `Unauthorized`."""
        if ON_BEHALF_OF in scope:
            return str(scope[ON_BEHALF_OF])
        headers = Headers(scope=scope)
        if self.keys.needed:
            return f"key:{hashlib.sha256(self._checked_key(headers)).hexdigest()[:12]}"
        return f"address:{self._address(scope, headers)}"

    def owner(self, scope: Scope) -> str:
        """Whose what the client leaves here is: its key's; without keys it is everybody's. Raises `Unauthorized`."""
        if not self.keys.needed:
            return EVERYBODY
        return f"key:{hashlib.sha256(self._checked_key(Headers(scope=scope))).hexdigest()}"

    def _checked_key(self, headers: Headers) -> bytes:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if not scheme:  # as clients of Anthropic's API send it
            scheme, given = "bearer", headers.get("x-api-key", "")
        key = given.strip().encode()
        if scheme.lower() != "bearer" or not self.keys.know(key):
            raise Unauthorized("an API key of this server is needed: `Authorization: Bearer <key>`")
        return key

    def _address(self, scope: Scope, headers: Headers) -> str:
        if self._address_header and self._address_header in headers:
            hops = [hop.strip() for value in headers.getlist(self._address_header) for hop in value.split(",")]
            # Each proxy appends whom it sees: what stands before the trusted ones' words, anyone may have written.
            return hops[-min(self._trusted_hops, len(hops))][:MAX_ADDRESS_CHARS]
        peer = scope.get("client")
        return str(peer[0]) if peer else "unknown"
