"""Names to addresses, once: the addresses that were checked here are the ones that the connector dials."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from aiohttp.abc import AbstractResolver, ResolveResult

from deployments.fetcher.addresses import AddressPolicy

Lookup = Callable[[str], Awaitable[list[str]]]
"""The addresses of a host name; raises `socket.gaierror`."""

LOOKUP_THREADS = 16


class SystemLookup:
    """The system's resolver on threads of its own: a name server that stalls holds up nothing but look-ups."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(LOOKUP_THREADS, thread_name_prefix="dns")

    async def __call__(self, host: str) -> list[str]:
        return await asyncio.get_running_loop().run_in_executor(self._pool, _addresses, host)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


class GuardedResolver(AbstractResolver):
    """What aiohttp's connector asks. Raises `MediaNotReachable` when one of a host's addresses may not be dialled."""

    def __init__(self, lookup: Lookup, policy: AddressPolicy) -> None:
        self._lookup = lookup
        self._policy = policy

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = await self._lookup(host)
        self._policy.check(host, addresses)
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST)
            for address in addresses
        ]

    async def close(self) -> None:
        return


def _addresses(host: str) -> list[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
