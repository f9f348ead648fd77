import re
from ipaddress import IPv4Network, ip_address
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deployments.errors import MediaNotReachable
from deployments.fetcher.addresses import AddressPolicy, is_public
from deployments.fetcher.urls import UrlPolicy, is_literal

ANY = UrlPolicy(AddressPolicy())


@pytest.mark.parametrize(
    "url",
    [
        "http://127.1/",
        "http://0x7f.0.0.1/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://2130706433/",
        "http://127.0.0.1./",
        "http://①②⑦.0.0.1/",
        "http://127。0。0。1/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "http://[1.2.3.4]/",
        "http://8.8.8.8.1/",
        "http://08.8.8.8/",
        "http://a:b@media.example/",
        "http://@media.example/",
        "http://media.example:80@127.0.0.1/",
        "http://media.example\\@127.0.0.1/",
        "http://127.0.0.1\\@media.example/",
        "http://media.example/\\..\\x",
        "http://media.example/a b",
        "http://media.example/a\tb",
        "http://media.example/a\r\nHost: x",
        "http://media.example\x00.evil.example/",
        "http://media%2eexample/",
        "http://me*dia.example/",
        "http://-media.example/",
        "http://media..example/",
        "http:///path",
        "http:media.example",
        "http://",
        "http://media.example:0/",
        "http://media.example:99999/",
        "http://media.example:http/",
        "ftp://media.example/",
        "gopher://media.example/",
        "javascript:alert(1)",
        "//media.example/",
        "media.example/clip.mp4",
        "",
        "http://media.example/" + "x" * 9000,
        f"http://{'x' * 64}.example/",
        f"http://{'x.' * 130}example/",
    ],
)
def test_urls_that_could_be_read_in_two_ways_are_refused(url):
    with pytest.raises(MediaNotReachable) as refused:
        ANY.parse(url)
    assert len(refused.value.message) < 300


@pytest.mark.parametrize(
    ("url", "host", "raw_path_qs"),
    [
        ("http://media.example/clip.mp4", "media.example", "/clip.mp4"),
        ("HTTPS://Media.EXAMPLE.:8443/a%2fb?X-Sig=%2B%7e+#t=1", "media.example", "/a%2fb?X-Sig=%2B%7e+"),
        ("http://bücher.example/ä.png", "xn--bcher-kva.example", "/%C3%A4.png"),
        ("http://8.8.8.8/x", "8.8.8.8", "/x"),
        ("http://[2606:4700:0::1111]/x", "2606:4700::1111", "/x"),
        ("http://my_bucket.example/x", "my_bucket.example", "/x"),
        ("http://media.example?q=1", "media.example", "/?q=1"),
    ],
)
def test_host_is_normalised_and_path_and_query_stay_as_written(url, host, raw_path_qs):
    parsed = ANY.parse(url)
    assert (parsed.raw_host, parsed.raw_path_qs, parsed.raw_fragment) == (host, raw_path_qs, "")


URLS = st.one_of(
    st.text(max_size=40),
    st.builds("http://{}".format, st.text(max_size=40)),
    st.builds("http://{}".format, st.text("0123456789abcfx.:[]@/\\%?#-_ \u3002\uff10", max_size=25)),
    st.builds("https://{}/{}".format, st.ip_addresses(), st.text(max_size=5)),
    st.from_regex(re.compile(r"https?://[a-z0-9._@:\[\]\\%-]{1,30}(/[!-~]{0,20})?"), fullmatch=True),
)


@given(URLS)
@example("http://evil.example\\@127.0.0.1")
@example("http://127.0.0.1#@media.example/")
@example("http://127.0.0.1?@media.example/")
def test_what_passes_means_the_same_host_to_another_parser_and_parses_to_itself(text):
    try:
        url = ANY.parse(text)
    except MediaNotReachable:
        return
    assert urlsplit(str(url)).hostname == url.raw_host
    assert url.scheme in ("http", "https")
    assert url.raw_user is None
    assert ANY.parse(str(url)) == url
    if is_literal(url.raw_host):
        assert is_public(ip_address(url.raw_host))
    else:
        assert re.fullmatch(r"[a-z0-9._-]{1,253}", url.raw_host)


def test_allow_list_is_exact_names_and_suffixes_without_regard_to_case():
    policy = UrlPolicy(AddressPolicy(), ["media.example", ".cdn.example"])
    for url in ("http://MEDIA.example/", "http://media.example./", "https://a.cdn.example/", "http://a.b.CDN.example/"):
        policy.parse(url)
    for url in (
        "http://x.media.example/",
        "http://cdn.example/",
        "http://evilcdn.example/",
        "http://media.example.evil.example/",
        "http://8.8.8.8/",
    ):
        with pytest.raises(MediaNotReachable, match="does not fetch from"):
            policy.parse(url)


def test_an_allowed_domain_does_not_open_a_private_address():
    with pytest.raises(MediaNotReachable, match="without a public address"):
        UrlPolicy(AddressPolicy(), ["10.0.0.1"]).parse("http://10.0.0.1/")
    UrlPolicy(AddressPolicy([IPv4Network("10.0.0.0/8")]), ["10.0.0.1"]).parse("http://10.0.0.1/")


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/b", "http://media.example/b"),
        ("b?x=1", "http://media.example/a/b?x=1"),
        ("//other.example/b", "http://other.example/b"),
        ("https://other.example/b", "https://other.example/b"),
    ],
)
def test_redirects_are_followed_relative_to_where_they_come_from(location, target):
    assert str(ANY.follow(ANY.parse("http://media.example/a/x"), location)) == target


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "http://127.0.0.1/", "//169.254.169.254/", "http://a@b/", "data:,x", "/\\evil", "http://["],
)
def test_redirects_to_what_may_not_be_fetched_are_refused(location):
    url = ANY.parse("http://media.example/a")
    with pytest.raises(MediaNotReachable):
        ANY.follow(url, location)
