"""Names to addresses, once: the addresses that were checked here are the ones that the connector dials.

Look-ups are asynchronous: a name server that stays silent holds no thread. What it does hold, a place among the
look-ups under way, is bounded by client and by domain, so that nobody's silent names stand in the way of others'.
"""

import socket
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

import aiodns
from aiohttp.abc import AbstractResolver, ResolveResult

from deployments.core.deadline import Deadline
from deployments.core.shared_budget import SharedBudget
from deployments.errors import StageTimeout
from deployments.fetcher.addresses import AddressPolicy, not_public
from deployments.fetcher.flights import Flights
from deployments.fetcher.transient import TransientError
from deployments.types import StageName

Lookup = Callable[[str], Awaitable[list[str]]]
"""The addresses of a host name; raises `socket.gaierror`."""

MAX_LOOKUPS = 256
"""Under way at once."""
SHARE = 0.125
"""Of them, for one client or one domain."""
VALID_S = 10.0
MAX_KNOWN = 4096
_TRIES = 2
_UNKNOWN = frozenset({aiodns.error.ARES_ENOTFOUND, aiodns.error.ARES_ENODATA, aiodns.error.ARES_EBADNAME})


class SystemLookup:
    """The system's name servers and hosts file, asked by c-ares."""

    def __init__(self, timeout_s: float, name_servers: Sequence[str] = ()) -> None:
        """`name_servers`: asked in place of the system's, as `address` or `address:port`."""
        servers = list(name_servers) or None
        self._resolver = aiodns.DNSResolver(servers, timeout=timeout_s / (_TRIES + 1), tries=_TRIES)

    async def __call__(self, host: str) -> list[str]:
        try:
            found = await self._resolver.getaddrinfo(host, family=socket.AF_UNSPEC, type=socket.SOCK_STREAM)
        except aiodns.error.DNSError as error:
            code = socket.EAI_NONAME if error.args[0] in _UNKNOWN else socket.EAI_AGAIN
            raise socket.gaierror(code, str(error)) from error
        return list(dict.fromkeys(node.addr[0].decode() for node in found.nodes))

    async def close(self) -> None:
        await self._resolver.close()


class NameResolver:
    """Checked addresses by host name, kept for `VALID_S`. Made and used on one event loop."""

    def __init__(
        self,
        lookup: Lookup,
        policy: AddressPolicy,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`timeout_s`: of one look-up, waiting for its turn not included."""
        self._lookup = lookup
        self._policy = policy
        self._timeout_s = timeout_s
        self._clock = clock
        self._places = SharedBudget(MAX_LOOKUPS, share=SHARE)
        self._flights: Flights[list[str]] = Flights()
        self._known: OrderedDict[str, tuple[float, list[str]]] = OrderedDict()

    async def resolve(self, host: str, client: str = "") -> list[str]:
        """Addresses of `host`, all of which may be dialled.

        Raises `MediaNotReachable`, in the same words where a host has no address and where it has one that may not be
        dialled, and `TransientError`.
        """
        known = self._fresh(host)
        if known is not None:
            return known
        with self._places.open(f"client {client}", f"domain {_domain(host)}") as place:
            await place.grow(1)
            known = self._fresh(host)
            if known is not None:
                return known
            try:
                return await self._flights.join(
                    host, lambda: self._ask(host), Deadline(self._timeout_s, StageName.FETCH)
                )
            except StageTimeout:
                raise TransientError(f"could not be fetched: looking up {host} took too long") from None

    async def close(self) -> None:
        await self._flights.close()

    def _fresh(self, host: str) -> list[str] | None:
        until, addresses = self._known.get(host, (0.0, []))
        return addresses if self._clock() < until else None

    async def _ask(self, host: str) -> list[str]:
        try:
            addresses = await self._lookup(host)
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:
                raise TransientError(f"could not be fetched: the name server has no answer for {host}") from error
            raise not_public(host) from error
        except UnicodeError as error:
            raise not_public(host) from error
        if not addresses:
            raise not_public(host)
        self._policy.check(host, addresses)
        self._known[host] = self._clock() + VALID_S, addresses
        self._known.move_to_end(host)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return addresses


class CheckedAddresses(AbstractResolver):
    """What aiohttp's connector asks: it dials nothing but what a `NameResolver` has checked."""

    def __init__(self, names: NameResolver) -> None:
        self._names = names

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST)
            for address in await self._names.resolve(host)
        ]

    async def close(self) -> None:
        return


def _domain(host: str) -> str:
    """The last two labels: close enough to who runs the name server."""
    return ".".join(host.split(".")[-2:])
