"""Relays connect where the operator lets them, and nowhere else: whatever a URL looks like, and whatever names stand for."""

import asyncio

import pytest

from server.errors import ServiceError
from server.targets import Places, parse_pattern

pytestmark = pytest.mark.anyio

OWN = "rtmp://127.0.0.1:1935"
NAMES = {
    "localhost": ["127.0.0.1"],
    "a.example.com": ["93.184.216.34"],
    "b.example.com": ["10.1.2.3"],
    "both.example.com": ["93.184.216.34", "127.0.0.1"],
    "media.lan": ["10.1.2.3"],
    "elsewhere.lan": ["192.168.1.1"],
    "mapped.example.com": ["::ffff:127.0.0.1"],
    "nat.example.com": ["64:ff9b::7f00:1"],
}
PATTERNS = ["rtmp://media.lan:1936", "rtmps://*.example.com", "rtmp://10.0.0.0/8:1935", "rtmp://[fd00::/8]"]


class Names:
    """A name server that remembers what it was asked."""

    def __init__(self, names: dict[str, list[str]]) -> None:
        self.names, self.asked = names, list[str]()

    async def look_up(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        if host not in self.names and not _is_address(host):
            raise OSError("no such name")
        return self.names.get(host, [host])


def _is_address(host: str) -> bool:
    return set(host) <= set("0123456789abcdef.:") and (":" in host or host.count(".") == 3)


def places(*patterns: str, names: Names | None = None, server: str = OWN) -> Places:
    return Places(server, patterns, patterns, (names or Names(NAMES)).look_up)


async def code_of(found: Places, url: str) -> str:
    with pytest.raises(ServiceError) as caught:
        await found.find("target", url)
    return caught.value.code


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("rtmp://127.0.0.1/live/cam?key=1", "127.0.0.1"),
        ("RTMP://127.0.0.1:1935/live/cam", "127.0.0.1"),
        ("rtmp://media.lan:1936/app/instance/cam", "10.1.2.3"),
        ("rtmp://MEDIA.lan:1936/app/cam", "10.1.2.3"),
        ("rtmp://user:word@media.lan:1936/app/cam", "10.1.2.3"),
        ("rtmps://a.example.com/app/cam", "93.184.216.34"),
        ("rtmps://a.example.com:443/app/mp4:cam", "93.184.216.34"),
        ("rtmp://10.9.9.9/app/cam", "10.9.9.9"),
        ("rtmp://media.lan/app/cam", "10.1.2.3"),
        ("rtmp://[fd00::1]/app/cam", "fd00::1"),
        ("rtmp://[FD00:0::1]:1935/app/cam", "fd00::1"),
    ],
)
async def test_what_is_listed_is_allowed_at_the_address_that_was_checked(url: str, address: str) -> None:
    for side in ("source", "target"):
        endpoint = await places(*PATTERNS).find(side, url)
        assert (endpoint.url, endpoint.address) == (url, address)


@pytest.mark.parametrize(
    "url",
    [
        "rtmp://127.1/live/cam",
        "rtmp://0x7f000001/live/cam",
        "rtmp://0x7f.0.0.1/live/cam",
        "rtmp://2130706433/live/cam",
        "rtmp://0177.0.0.1/live/cam",
        "rtmp://127.0.0.2/live/cam",
        "rtmp://127.0.0.1:1936/live/cam",
        "rtmps://127.0.0.1:1935/live/cam",
        "rtmp://localhost/live/cam",
        "rtmp://[::1]/live/cam",
        "rtmp://[::ffff:127.0.0.1]/live/cam",
        "rtmp://[::ffff:7f00:1]/live/cam",
        "rtmp://0.0.0.0/live/cam",
        "rtmp://169.254.169.254/latest/meta-data",
        "rtmp://[fe80::1]/live/cam",
        "rtmp://224.0.0.1/live/cam",
        "rtmp://elsewhere.lan:1935/live/cam",
        "rtmps://b.example.com/live/cam",
        "rtmps://both.example.com/live/cam",
        "rtmps://mapped.example.com/live/cam",
        "rtmps://nat.example.com/live/cam",
        "rtmps://example.com/live/cam",
        "rtmps://evilexample.com/live/cam",
        "rtmp://media.lan:1937/live/cam",
        "rtmp://media.lan.evil.net:1936/live/cam",
        "file:///etc/passwd",
        "http://127.0.0.1/live/cam",
        "rtmpt://127.0.0.1/live/cam",
        "srt://127.0.0.1:1935",
        "concat:rtmp://127.0.0.1/live/cam",
    ],
)
async def test_all_else_is_denied(url: str) -> None:
    assert await code_of(places(*PATTERNS), url) == "target_denied"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/etc/passwd",
        "cam",
        "rtmp://127.0.0.1",
        "rtmp://127.0.0.1/",
        "rtmp://127.0.0.1/live/",
        "rtmp://127.0.0.1/live/../cam",
        "rtmp://127.0.0.1/live/%2e%2e/cam",
        "rtmp://127.0.0.1/live/%2E./cam",
        "rtmp://127.0.0.1/live//cam",
        "rtmp://127.0.0.1/live/cam live=1",
        "rtmp://127.0.0.1/live/cam\r\nX: y",
        "rtmp://127.0.0.1/live/cam%0d%0aX",
        "rtmp://127.0.0.1/live/cam?key=%0d%0a",
        "rtmp://127.0.0.1/live/cam?key=a b",
        "rtmp://127.0.0.1/live/$(id)",
        "rtmp://127.0.0.1/live/`id`",
        "rtmp://127.0.0.1/live/cam;id",
        "rtmp://127.0.0.1/live/cam|id",
        "rtmp://127.0.0.1/live/cam#x",
        "rtmp://127.0.0.1\\@evil.net/live/cam",
        "rtmp://127.0.0.1@evil.net@x/live/cam",
        "rtmp://127.0.0.1:0/live/cam",
        "rtmp://127.0.0.1:99999/live/cam",
        "rtmp://ümläut.example/live/cam",
        "rtmp://127.0.0.1/live/" + "a" * 3000,
    ],
)
async def test_what_is_no_url_of_a_stream_is_told(url: str) -> None:
    names = Names(NAMES)
    assert await code_of(places(*PATTERNS, names=names), url) == "invalid"
    assert names.asked == []


async def test_a_refusal_shows_no_secret() -> None:
    for url in ("rtmp://u:hidden@evil.net/live/cam?key=hidden", "rtmp://u:hidden/@evil.net/live/c d?key=hidden"):
        with pytest.raises(ServiceError) as caught:
            await places(*PATTERNS).find("target", url)
        assert "hidden" not in caught.value.message
        assert "target" in caught.value.message


async def test_names_that_nobody_listed_are_not_even_looked_up() -> None:
    names = Names(NAMES)
    found = places("rtmps://*.example.com", "rtmp://media.lan", names=names)
    assert await code_of(found, "rtmp://canary.evil.net/live/cam") == "target_denied"
    assert names.asked == []


async def test_a_name_that_rebinds_is_denied_from_then_on() -> None:
    names = Names({"a.example.com": ["93.184.216.34"]})
    found = places("rtmps://*.example.com", names=names)
    assert (await found.find("target", "rtmps://a.example.com/live/cam")).address == "93.184.216.34"
    names.names["a.example.com"] = ["127.0.0.1"]
    assert await code_of(found, "rtmps://a.example.com/live/cam") == "target_denied"


async def test_a_name_without_an_address_and_a_slow_look_up_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.targets.LOOK_UP_SECONDS", 0.05)
    assert await code_of(places("rtmp://*"), "rtmp://no-such.name/live/cam") == "unresolved"

    async def slow(host: str, port: int) -> list[str]:
        await asyncio.sleep(60)
        return []

    assert await code_of(Places(OWN, [], ["rtmp://*"], slow), "rtmp://a.example.com/live/cam") == "unresolved"


async def test_the_own_server_may_have_a_private_name() -> None:
    found = places(server="rtmp://media.lan:1936")
    assert (await found.find("source", "rtmp://media.lan:1936/live/cam")).address == "10.1.2.3"
    assert await code_of(found, "rtmp://127.0.0.1:1935/live/cam") == "target_denied"


async def test_the_machine_s_own_resolver_is_asked() -> None:
    found = Places(OWN, [], ["rtmp://localhost"])
    assert (await found.find("target", "rtmp://localhost/live/cam")).address in ("127.0.0.1", "::1")


async def test_sources_and_targets_have_lists_of_their_own() -> None:
    found = Places(OWN, ["rtmp://10.0.0.0/8"], [], Names(NAMES).look_up)
    assert (await found.find("source", "rtmp://10.0.0.1/live/cam")).address == "10.0.0.1"
    assert await code_of(found, "rtmp://10.0.0.1/live/cam") == "target_denied"


@pytest.mark.parametrize(
    "pattern",
    [
        *("", "media.lan", "http://media.lan", "rtmp://", "rtmp://a*.lan", "rtmp://*lan", "rtmp://a.*", "rtmp://10.0.0.1/8"),
        *("rtmp://10.0.0.0/33", "rtmp://media.lan:0", "rtmp://media.lan:99999", "rtmp://media.lan/app", "rtmp://u@media.lan"),
        *("rtmp://127.1", "rtmp://media.lan/8"),
    ],
)
async def test_what_is_no_pattern_is_told(pattern: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_pattern(pattern)


def test_what_is_shown_has_no_key_and_no_password() -> None:
    places = Places("rtmp://own.lan", [], [])
    assert places.shown("source", "rtmp://user:word@Media.lan:1936/app/cam?key=x&token=y") == "rtmp://media.lan:1936/app/cam"
    assert places.shown("source", "rtmps://[fd00::1]:443/app/cam") == "rtmps://[fd00::1]/app/cam"
    assert places.shown("target", "rtmp://own.lan/upscaled/cam?token=y") == "rtmp://own.lan/upscaled/cam"
    assert places.shown("target", "rtmps://live.example.com/live2/abcd-efgh?x=y") == "rtmps://live.example.com/live2/…"
