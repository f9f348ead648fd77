"""A media URL, parsed once and normalised once: what is checked here is the very object that is dialled.

Knows what a URL may look like and which hosts the operator lists; does not resolve names.
"""

import re
from collections.abc import Sequence
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from yarl import URL

from deployments.errors import MAX_SHOWN_CHARS, MediaNotReachable, shown
from deployments.fetcher.addresses import AddressPolicy

MAX_URL_CHARS = 8192

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_ENDS_IN_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")


class UrlPolicy:
    """Which `http(s)` URLs may be fetched, as far as the URL itself tells."""

    def __init__(self, addresses: AddressPolicy, allowed_domains: Sequence[str] = ()) -> None:
        """`allowed_domains`: lower-case host names, or suffixes with a leading dot; empty allows any."""
        self._addresses = addresses
        self._hosts = frozenset(domain for domain in allowed_domains if not domain.startswith("."))
        self._suffixes = tuple(domain for domain in allowed_domains if domain.startswith("."))

    def parse(self, text: str) -> URL:
        """`text` as a URL whose `raw_host` is a plain lower-case name or a canonical address that may be dialled.

        Raises `MediaNotReachable` naming what is not allowed. A fragment is dropped; path and query stay as written.
        """
        url = _split(text)
        host = _plain_host(url)
        if is_literal(host):
            self._addresses.check(host, [host])
        if (self._hosts or self._suffixes) and host not in self._hosts and not host.endswith(self._suffixes or ("\0",)):
            raise MediaNotReachable(
                f"names a host that this server does not fetch from: {host} (see the setting media.allowed_domains)"
            )
        return url.with_host(host)

    def follow(self, url: URL, location: str) -> URL:
        """Where a redirect from `url` leads, checked as `parse` checks; a relative one stays on its host."""
        _refuse_odd_characters(location)
        try:
            target = url.join(URL(location, encoded=location.isascii()))
        except ValueError as error:
            raise MediaNotReachable("is redirected to a malformed URL") from error
        return self.parse(str(target))


def is_literal(host: str) -> bool:
    """Whether a host is an address already, so that nothing has to be resolved."""
    return ":" in host or _ENDS_IN_NUMBER.fullmatch(host) is not None


def describe(url: URL) -> str:
    """A URL for messages and metadata: its query may hold a signature, so it is left out."""
    text = str(url.with_query(None))
    return text if len(text) <= MAX_SHOWN_CHARS else shown(text)  # parsed URLs are printable


def _refuse_odd_characters(text: str) -> None:
    if len(text) > MAX_URL_CHARS:
        raise MediaNotReachable(f"has a URL of {len(text)} characters; {MAX_URL_CHARS} are allowed")
    if "\\" in text or " " in text or not text.isprintable():
        raise MediaNotReachable("has a URL with a space, a backslash or a control character, which must be escaped")


def _split(text: str) -> URL:
    _refuse_odd_characters(text)
    try:
        url = URL(text, encoded=text.isascii()).with_fragment(None)
        port = url.explicit_port
    except (ValueError, UnicodeError) as error:
        raise MediaNotReachable("has a malformed URL") from error
    if url.scheme not in ("http", "https"):
        raise MediaNotReachable(f"has a URL of the scheme {shown(url.scheme, 20)!r}; allowed are http, https, data")
    if url.raw_user is not None or url.raw_password is not None or "@" in url.raw_authority:
        raise MediaNotReachable("has a URL with a user name or password, which is not allowed")
    if port == 0:
        raise MediaNotReachable("has a URL with the port 0")
    return url


def _plain_host(url: URL) -> str:
    """The host in its one canonical form; odd ones, which two parsers may read differently, are refused."""
    host = (url.raw_host or "").lower().removesuffix(".")
    try:
        if ":" in host:
            return str(IPv6Address(host)) if "%" not in host else _refuse_host(host)
        if _ENDS_IN_NUMBER.fullmatch(host):
            return str(IPv4Address(host))
    except AddressValueError:
        return _refuse_host(host)
    if len(host) > 253 or _HOST_NAME.fullmatch(host) is None:
        return _refuse_host(host)
    return host


def _refuse_host(host: str) -> str:
    raise MediaNotReachable(f"has a URL whose host is not a plain name or address: {shown(host, 80)!r}")
