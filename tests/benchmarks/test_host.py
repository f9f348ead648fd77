from urllib.request import urlopen

from benchmarks.kit.load.host import MediaHost


def test_files_of_all_sizes_are_served_whole():
    files = [b"small", b"large" * 1_000_000, b"small again"]
    with MediaHost() as host:
        urls = [host.add("image", data) for data in files]
        for url, data in zip(urls, files, strict=True):
            with urlopen(url, timeout=30) as response:
                assert response.read() == data
