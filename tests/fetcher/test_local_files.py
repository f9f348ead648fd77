import os
import threading

import pytest

from deployments.core.deadline import Deadline
from deployments.errors import BadMedia, MediaNotReachable, TooLarge
from deployments.types import MediaItem, MediaKind
from tests.fetcher.conftest import fetching
from tests.support.media_files import make_picture

PICTURE = make_picture()


@pytest.fixture
def root(tmp_path):
    (tmp_path / "outside.jpg").write_bytes(PICTURE)
    folder = tmp_path / "media"
    (folder / "below").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(PICTURE)
    (folder / "below" / "two words #1 100%.jpg").write_bytes(PICTURE)
    return folder


async def fetch(root, url, **settings):
    item = MediaItem(MediaKind.IMAGE, "messages[0].content[0]", url)
    async with fetching(local_root=root, **settings) as fetcher:
        return await fetcher.fetch(item, Deadline(60.0, "request"))


async def refused(root, url):
    with pytest.raises(MediaNotReachable, match=r"^messages\[0\]\.content\[0\] names no file below") as error:
        await fetch(root, url)
    return error.value


async def test_files_are_refused_unless_a_root_is_configured(root):
    with pytest.raises(MediaNotReachable, match="does not allow"):
        await fetch(None, f"file://{root}/a.jpg")


@pytest.mark.parametrize(
    "path",
    [
        "/a.jpg",
        "/below/two%20words%20%231%20100%25.jpg",
        "/below/two words %231 100%25.jpg",
        "/below/../a.jpg",
        "//a.jpg",
        "/%61.jpg",
    ],
)
async def test_files_below_the_root_are_read(root, path):
    for prefix in ("file://", "FILE://", "file://localhost"):
        fetched, data = await fetch(root, f"{prefix}{root}{path}")
        assert data.tobytes() == PICTURE
        assert fetched.size_bytes == len(PICTURE)


@pytest.mark.parametrize(
    "path",
    [
        "/../outside.jpg",
        "/%2e%2e/outside.jpg",
        "/below/../../outside.jpg",
        "/..%2foutside.jpg",
        "/a.jpg/../../outside.jpg",
    ],
)
async def test_dots_do_not_lead_out_of_the_root(root, path):
    await refused(root, f"file://{root}{path}")


async def test_symlinks_are_followed_inside_and_refused_out_of_the_root(root):
    (root / "inside.jpg").symlink_to(root / "a.jpg")
    (root / "out.jpg").symlink_to(root.parent / "outside.jpg")
    (root / "up").symlink_to(root.parent)
    (root / "loop").symlink_to(root / "loop")
    _, data = await fetch(root, f"file://{root}/inside.jpg")
    assert data.tobytes() == PICTURE
    for path in ("/out.jpg", "/up/outside.jpg", "/loop"):
        await refused(root, f"file://{root}{path}")


async def test_a_root_that_is_itself_a_symlink_works(root, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(root)
    for name in (root, link):
        _, data = await fetch(link, f"file://{name}/a.jpg")
        assert data.tobytes() == PICTURE


async def test_only_plain_files_are_opened_and_a_fifo_does_not_wait_for_its_writer(root):
    os.mkfifo(root / "fifo")
    (root / "device").symlink_to("/dev/zero")
    for path in ("", "/below", "/fifo", "/device", "/missing.jpg", "/a.jpg/x", "/a%00.jpg", "/" + "x" * 300):
        await refused(root, f"file://{root}{path}")


async def test_a_missing_file_and_one_outside_look_alike(root):
    missing = await refused(root, f"file://{root}/missing")
    outside = await refused(root, f"file://{root.parent}/outside.jpg")
    assert missing.message.split(":", 1)[0] == outside.message.split(":", 1)[0]
    assert missing.status == outside.status == 400


@pytest.mark.parametrize(
    "url", ["file://host.example{}/a.jpg", "file:a.jpg", "file://{}/a.jpg?x=1", "file://{}/a.jpg#x"]
)
async def test_other_hosts_relative_paths_and_queries_are_refused(root, url):
    await refused(root, url.format(root))


async def test_the_size_is_checked_before_the_file_is_read(root):
    with open(root / "huge.jpg", "wb") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(TooLarge):
        await fetch(root, f"file://{root}/huge.jpg")


async def test_an_empty_file_is_the_clients_fault(root):
    (root / "empty").touch()
    with pytest.raises(BadMedia, match="it is empty"):
        await fetch(root, f"file://{root}/empty")


async def test_a_path_that_is_swapped_for_a_symlink_while_it_is_opened_does_not_lead_out(root):
    """Two files change places as fast as they can: what is read is never the one outside."""
    (root.parent / "outside.jpg").write_bytes(b"secret")
    target, spare = root / "flip", root / "spare"
    target.write_bytes(PICTURE)
    spare.symlink_to(root.parent / "outside.jpg")
    stop = threading.Event()

    def flip():
        swap = root / "swap"
        while not stop.is_set():
            os.rename(target, swap)
            os.rename(spare, target)
            os.rename(swap, spare)

    flipping = threading.Thread(target=flip)
    flipping.start()
    try:
        for _ in range(200):
            try:
                _, data = await fetch(root, f"file://{target}")
                assert data.tobytes() == PICTURE
            except MediaNotReachable:
                continue
    finally:
        stop.set()
        flipping.join()
