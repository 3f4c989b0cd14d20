"""Where relays may connect to: URLs are parsed strictly, compared with the operator's lists, and looked up once.

What is connected to is the address that was checked here (`Endpoint.address`), so a name that points elsewhere a moment later
changes nothing. Nothing here connects to anything.
"""

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Literal
from urllib.parse import unquote

from server.errors import ServiceError
from server.streams.relay_protocol import Endpoint

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Side = Literal["source", "target"]
LookUp = Callable[[str, int], Awaitable[list[str]]]
"""Host and port -> the IP addresses that it stands for. Raises OSError."""

PORTS = {"rtmp": 1935, "rtmps": 443}
"""The schemes there are, and the ports that they mean."""

URL_BYTES = 2048
FORM = "rtmp://HOST:PORT/APPLICATION/NAME"
LOOK_UP_SECONDS = 5.0
LOOK_UPS = 4  # at once

_URL = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?:(?P<user>[\w.~!*+,=:%-]*)@)?"
    r"(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(?P<port>\d{1,5}))?"
    r"(?P<path>(?:/[\w.~:@%+=,-]+)+)(?:\?(?P<query>[\w.~:@%+=,!$&'()*;/?-]*))?",
    re.ASCII | re.IGNORECASE,
)
_PATTERN = re.compile(
    r"(?P<scheme>rtmps?)://(?P<host>\[[0-9a-f:.]+(?:/\d{1,3})?\]|[a-z0-9.*_-]+(?:/\d{1,2})?)(?::(?P<port>\d{1,5}))?"
)
_NUMBER = re.compile(r"(?:.*\.)?(?:\d+|0x[0-9a-f]*)\.?")
"""Hosts that look-ups take for an IPv4 address, in all the forms that there ever were: 127.1, 0x7f000001, 2130706433."""

_TUNNELS = tuple(map(ip_network, ("64:ff9b::/96", "2002::/16", "2001::/32")))
"""IPv6 networks whose addresses stand for IPv4 ones."""


@dataclass(frozen=True)
class Place:
    """A URL in parts."""

    scheme: str
    host: str  # in lower case; of IPv6 without brackets
    port: int
    path: str
    url: str  # as it was given

    @property
    def server(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port

    @property
    def shown(self) -> str:
        """The URL without its query and whoever's name and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"


@dataclass(frozen=True)
class Pattern:
    """What an operator allows."""

    scheme: str
    host: str | Network  # a name, *.a name, *, or addresses
    port: int

    def may_allow(self, place: Place) -> bool:
        """Whether it is worth looking up: other names are none of a name server's business."""
        if (place.scheme, place.port) != (self.scheme, self.port):
            return False
        if not isinstance(self.host, str):
            return True
        return self.host in ("*", place.host) or (self.host.startswith("*.") and place.host.endswith(self.host[1:]))

    def allows(self, place: Place, address: Address) -> bool:
        """Whether this place may be connected to at this address. Only who names a private address or its host gets there."""
        if not isinstance(self.host, str):
            return self.may_allow(place) and address in self.host
        return self.may_allow(place) and (self.host == place.host or _public(address))


def parse_pattern(text: str) -> Pattern:
    """Raises: ValueError: it is none."""
    found = _PATTERN.fullmatch(text.lower().removesuffix("/"))
    host = found["host"] if found else ""
    inner = host.strip("[]")
    if not found or "*" in host.removeprefix("*") or (host.startswith("*") and host[1:2] not in ("", ".")):
        raise ValueError(
            f"{text!r} is no place for relays; write rtmp:// or rtmps://, then a name, *.name or addresses such as 10.0.0.0/8, "
            "then :PORT unless it is the usual one"
        )
    numeric = "/" in inner or ":" in inner or bool(_NUMBER.fullmatch(inner))
    return Pattern(found["scheme"], ip_network(inner) if numeric else inner, _port(found["port"], found["scheme"]))


def parse_place(side: Side, url: str) -> Place:
    """Takes a URL apart. Raises: ServiceError: invalid, or target_denied for a scheme that is not relayed."""
    if len(url) > URL_BYTES:
        raise ServiceError("invalid", f"{side} has {len(url)} characters; a URL has {URL_BYTES} at most")
    if (scheme := re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", url)) and scheme[1].lower() not in PORTS:
        raise ServiceError("target_denied", f"{side} is a URL with {scheme[1][:20]}:, relays take {', '.join(PORTS)}")
    found = _URL.fullmatch(url)
    if not found or any(part in ("", ".", "..") for part in unquote(found["path"])[1:].split("/")) or _odd(unquote(url)):
        raise ServiceError("invalid", f"{side} is {_hinted(url)!r}, no URL that can be relayed; write {FORM}")
    kind = found["scheme"].lower()
    try:
        port = _port(found["port"], kind)
    except ValueError as error:
        raise ServiceError("invalid", f"{side}: {error}") from None
    return Place(kind, _normal(side, found["host"].lower()), port, found["path"], url)


def same_place(one: str, other: str) -> bool:
    """Whether two URLs that were checked name one stream, whatever keys they carry."""
    return parse_place("target", one).shown == parse_place("target", other).shown


class Places:
    """What relays may connect to."""

    def __init__(self, server: str, sources: Iterable[str], targets: Iterable[str], look_up: LookUp | None = None) -> None:
        """Args:
        server: URL of the service's own RTMP server, without a path; always allowed, as it is written.
        sources: patterns of what is played.
        targets: patterns of what is published to.
        look_up: finds addresses.
        """
        own = parse_place("source", f"{server.rstrip('/')}/live/name")
        self._own = own.server
        self._patterns = {"source": list(map(parse_pattern, sources)), "target": list(map(parse_pattern, targets))}
        self._look_up = look_up or _Resolver().look_up

    def is_own(self, place: Place) -> bool:
        """Whether it is the service's own RTMP server."""
        return place.server == self._own

    def shown(self, side: Side, url: str) -> str:
        """A URL that was checked, without what is secret in it: other people's servers take the name of a stream as its key."""
        place = parse_place(side, url)
        return place.shown if side == "source" or self.is_own(place) else f"{place.shown.rpartition('/')[0]}/…"

    async def find(self, side: Side, url: str) -> Endpoint:
        """The URL with an address that may be connected to.

        Raises:
            ServiceError: target_denied; invalid: it is no URL; unresolved: the host has no address just now.
        """
        place = parse_place(side, url)
        patterns = [pattern for pattern in self._patterns[side] if pattern.may_allow(place)]
        if not (patterns or self.is_own(place)):
            raise _denied(side, place)
        addresses = await self._addresses(side, place)
        for address in addresses:
            if not (self.is_own(place) or any(pattern.allows(place, address) for pattern in patterns)):
                raise _denied(side, place)
        return Endpoint(url=url, address=str(addresses[0]))

    async def _addresses(self, side: Side, place: Place) -> list[Address]:
        try:
            async with asyncio.timeout(LOOK_UP_SECONDS):
                found = await self._look_up(place.host, place.port)
        except (OSError, UnicodeError):  # a TimeoutError is an OSError
            found = []
        if not found:
            raise ServiceError("unresolved", f"{place.host[:80]}, the host of {side}, has no address; check its name")
        return [_plain(ip_address(address.partition("%")[0])) for address in found]


class _Resolver:
    """Asks the machine's own resolver, in few threads of its own: slow name servers hold up nobody else."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(LOOK_UPS, "look-up")

    async def look_up(self, host: str, port: int) -> list[str]:
        """See LookUp."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        return [str(address[0]) for *_, address in found]


def _denied(side: Side, place: Place) -> ServiceError:
    setting = f"FOURFOLD_RELAY_{side.upper()}S"
    server = f"{place.scheme}://{place.host[:80]}:{place.port}"
    return ServiceError(
        "target_denied", f"{side} is at {server}, where relays may not connect to; {setting} lists where they may"
    )


def _normal(side: Side, host: str) -> str:
    """A host as it is compared: addresses in their one full form.

    Raises:
        ServiceError: target_denied: an address in another form.
    """
    inner = host.strip("[]")
    try:
        return str(ip_address(inner))
    except ValueError:
        if host != inner or _NUMBER.fullmatch(inner):
            raise ServiceError(
                "target_denied", f"{side} has the host {inner[:80]}; write addresses as 192.0.2.1 or [2001:db8::1]"
            ) from None
    return inner.rstrip(".")


def _plain(address: Address) -> Address:
    """The IPv4 address that an IPv6 one merely spells."""
    return getattr(address, "ipv4_mapped", None) or address


def _public(address: Address) -> bool:
    """Whether it is an address of the Internet, and of one machine."""
    tunnelled = any(address in network for network in _TUNNELS if network.version == address.version)
    return address.is_global and not address.is_multicast and not tunnelled


def _hinted(url: str) -> str:
    """The beginning of what is no URL, without what may be secret in it."""
    plain = url.partition("?")[0]
    return f"…{plain[plain.rindex('@') :]}"[:80] if "@" in plain else plain[:80]


def _odd(text: str) -> bool:
    """Whether there is something in it that no header, and outside of the query no shell, should ever see."""
    return any(not " " < char < "\x7f" for char in text) or any(char in "\\`\"'<>|;$&()" for char in text.partition("?")[0])


def _port(text: str | None, scheme: str) -> int:
    port = int(text) if text else PORTS[scheme]
    if not 0 < port < 65536:
        raise ValueError(f"{text} is no TCP port")
    return port
