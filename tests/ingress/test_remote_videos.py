"""Large videos that stay with their host, as the ingress treats them: what has no digest is nobody else's."""

from deployments.types import Fetched, MediaItem, RemoteFile, VideoTask, WholeNeeded
from tests.support.fakes import VIDEO, FakeApplication

URL = "https://media.example/{}.mp4"
LABEL = "messages[0].content[0]"


class Application(FakeApplication):
    """Its host has large files only; of those that are `whole` nothing can be read in parts."""

    def __init__(self, *, whole: bool = False) -> None:
        super().__init__()
        self.whole = whole
        self.fetcher.answers["fetch"] = self._fetched
        self.decoder.answers["decode_remote"] = self._decoded

    def _fetched(self, item: MediaItem) -> tuple[Fetched, object]:
        assert item.url is not None
        if item.in_parts:
            remote = RemoteFile(item.url, '"1"', 5 * 10**9, 10**9)
            return Fetched(item.kind, "mp4", 1000, item.url, 0.001, remote=remote), "beginning"
        payload = None if "whole" in item.known else "bytes"
        return Fetched(item.kind, "mp4", 10**6, item.url, 0.001, "whole"), payload

    def _decoded(self, task: VideoTask, file: RemoteFile) -> tuple[object, object]:
        return (WholeNeeded("no index"), None) if self.whole else (VIDEO, f"frames of {file.url}")

    async def ask(self, name: str, **fields: object) -> dict[str, str]:
        part = {"type": "video_url", "video_url": {"url": URL.format(name)}}
        response = await self.chat([part], **fields)
        assert response.status_code == 200, response.text
        assert self.api.admission.media.held_bytes == 0
        use: dict[str, str] = response.json()["usage"]["sluice_cache"][LABEL]
        return use

    @property
    def steps(self) -> list[str]:
        calls = [*self.fetcher.calls, *self.decoder.calls]
        return [call.method for call in calls]


async def test_frames_of_remote_files_are_never_mixed_up_and_not_kept() -> None:
    app = Application()
    for name in ("a", "b", "a"):
        assert (await app.ask(name))["decode"] == "off"
        assert app.preprocessor.calls[-1].payloads == [f"frames of {URL.format(name)}"]
        assert app.preprocessor.calls[-1].args[1][0].digest == ""
    assert app.steps == ["fetch"] * 3 + ["decode_remote"] * 3
    assert app.metrics.values["sluice_cache_bytes", ("video_decode",)] == 0


async def test_ranges_are_asked_for_where_the_beginning_was_fetched() -> None:
    app = Application()
    await app.ask("a")
    [fetch], [decode] = app.fetcher.calls, app.decoder.calls
    assert fetch.key
    assert decode.key
    assert decode.args[1].key == fetch.key
    assert decode.args[1].client == fetch.args[0].client != ""


async def test_what_must_be_read_whole_is_found_again_by_its_content() -> None:
    app = Application(whole=True)
    assert (await app.ask("a"))["decode"] == "miss"
    assert app.steps == ["fetch", "fetch", "decode_remote", "decode"]
    for name in ("a", "b"):
        assert (await app.ask(name))["decode"] == "hit"
    assert [call.method for call in app.decoder.calls].count("decode") == 1


async def test_a_video_that_is_listened_to_is_fetched_whole() -> None:
    app = Application()
    app.decoder.answers["decode"] = lambda task, file: (VIDEO, "frames and sound")
    await app.ask("a", mm_processor_kwargs={"use_audio_in_video": True})
    assert app.steps == ["fetch", "decode"]
