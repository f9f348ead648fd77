"""One media item's way to the preprocessor: put what came in the body into shared memory, fetch, decode videos."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.config import AppConfig
from deployments.core.deadline import Deadline
from deployments.core.executor import StageExecutor
from deployments.core.priority import YIELD
from deployments.errors import SluiceError
from deployments.ingress.http.media_text import MediaText
from deployments.ingress.pipeline.content_keys import content_of, source_name
from deployments.ingress.pipeline.costs import decoded_bytes, picture_bytes, source_bytes
from deployments.ingress.pipeline.decoded_media import Decoded, DecodedMedia, joined_digest
from deployments.ingress.pipeline.items import ItemCacheUse, ItemTask, LoadedItem, Progress, SourceChanged
from deployments.ingress.pipeline.overlap import Coming
from deployments.ingress.pipeline.side_by_side import together
from deployments.ingress.request import ItemPlan, Source
from deployments.stage_calls import StageResult, TensorRef
from deployments.stages import MediaFetching, VideoDecoding
from deployments.types import CacheUse, DecodedVideo, Fetched, MediaInput, StageName, VideoTask, WholeNeeded

COPY_WORKERS = 2
_KEPT = (CacheUse.HIT, CacheUse.REVALIDATED)
"""The fetcher keeps what it brought: where it has changed, it need not be brought twice to be looked at once."""
_SHORT_TEXT = 65_536
"""Hashed in 50 microseconds, less than crossing to a thread takes."""


class ItemLoader:
    """Fetches and decodes items. One for an ingress replica."""

    def __init__(
        self,
        config: AppConfig,
        fetcher: MediaFetching,
        decoder: VideoDecoding,
        put: Callable[[NDArray[Any]], TensorRef],
        decoded: DecodedMedia,
    ) -> None:
        self._config = config
        self._fetcher = fetcher
        self._decoder = decoder
        self._put = put
        self._decoded = decoded
        self._copies = StageExecutor(StageName.INGRESS, COPY_WORKERS, yields=YIELD)

    async def load(self, task: ItemTask, progress: Progress) -> LoadedItem:
        """The item as the preprocessor takes it, and what it holds; nothing but its size of one that is only counted.

        Raises `SluiceError`s whose `param` is the item.
        """
        if not task.item.sources:
            return LoadedItem(_media_input(task.item, [], None), (), content_of([], []))
        try:
            if task.video is not None:
                return await self._load_video(task, task.video, progress)
            [source] = task.item.sources
            [name] = await self._names([source], progress)
            fetched = await self._fetch(source, None, name, progress, in_parts=False)
            self._note(task.item, [fetched.meta], progress)
            if fetched.meta.pixels:
                held_bytes = progress.lease.size_bytes - task.pixel_bytes
                progress.lease.resize(held_bytes + picture_bytes(fetched.meta.pixels, task.picture))
            media = _media_input(task.item, [fetched.meta], None)
            return LoadedItem(media, (fetched.own_payload,), content_of([name], [fetched.meta]))
        except SluiceError as error:
            error.param = error.param or task.item.label
            raise

    def forget(self, progress: Progress) -> bool:
        """Let go of what was reused for a request, since some of it is lost; False where nothing was."""
        for video, decoded in progress.reused:
            self._decoded.forget(decoded.files, video, progress.lease.client)
        found = bool(progress.reused)
        progress.reused.clear()
        return found

    def check_health(self) -> None:
        self._copies.check_health()

    def close(self) -> None:
        self._copies.close()

    async def _load_video(self, task: ItemTask, video: VideoTask, progress: Progress) -> LoadedItem:
        """Decoded, or found; nothing is fetched that need not be looked at."""
        sources = task.item.sources
        reuse = progress.reuse and self._decoded.keeps_any
        names = await self._names(sources, progress)
        expected = self._decoded.expected(names, video, progress.lease.client) if reuse else None
        if expected is not None:
            loaded = self._found(task, video, expected, expected.files, names, progress)
            return replace(loaded, confirm=partial(self._confirm, task, video, expected, names, progress))
        in_parts = _may_stay(task.item, video)
        fetched = await together(
            self._fetch(source, None, name, progress, in_parts=in_parts)
            for source, name in zip(sources, names, strict=True)
        )
        if fetched[0].meta.remote is not None:
            remote = await self._load_remote(task, video, fetched[0], names[0], progress)
            if remote is not None:
                return remote
            fetched = [await self._fetch_whole(sources[0], fetched[0].meta, names[0], progress)]
        return await self._load_fetched(task, video, fetched, names, progress, reuse=reuse)

    async def _confirm(
        self, task: ItemTask, video: VideoTask, expected: Decoded, names: list[str], progress: Progress
    ) -> None:
        """Hosts are asked while the prompt is made of what they sent last; see `LoadedItem.confirm`."""
        try:
            fetched = await together(
                self._fetch(source, file, name, progress, in_parts=_may_stay(task.item, video))
                for source, file, name in zip(task.item.sources, expected.files, names, strict=True)
            )
        except SluiceError as error:
            error.param = error.param or task.item.label
            raise
        metas = [result.meta for result in fetched]
        self._decoded.remember(names, metas)
        changed = False
        for name, known, result in zip(names, expected.files, fetched, strict=True):
            if result.meta.digest != known.digest:
                changed = True
                progress.changed[name] = result.meta.digest
                if result.payload is not None:
                    progress.brought[name] = result
        if changed:
            raise SourceChanged
        self._decoded.record(hits=1)
        self._note(task.item, metas, progress).decode = CacheUse.HIT

    async def _load_fetched(
        self,
        task: ItemTask,
        video: VideoTask,
        fetched: list[StageResult[Fetched]],
        names: list[str],
        progress: Progress,
        *,
        reuse: bool,
    ) -> LoadedItem:
        """Of whole files, which are let go. `names`: of their sources. `reuse`: whether it may be found, and kept."""
        client = progress.lease.client
        metas = [result.meta for result in fetched]
        content = content_of(names, metas)
        use = self._note(task.item, metas, progress)
        found = self._decoded.find(metas, video, client) if reuse else None
        if found is not None:
            use.decode = CacheUse.HIT
            self._decoded.record(hits=1)
            self._decoded.remember(names, metas)
            return self._found(task, video, found, metas, names, progress)
        refs = [result.own_payload for result in fetched]
        fetched.clear()
        decoded, payloads, coming = await self._decode(task, video, refs, content.key, progress)

        def keep() -> None:
            groups = payloads if coming is None else coming.groups
            self._decoded.keep(names, Decoded(tuple(metas), decoded, groups), video, client)

        use.decode = CacheUse.MISS if reuse else CacheUse.OFF
        progress.timings.note_cache(StageName.VIDEO_DECODE, use.decode)
        if reuse:
            self._decoded.record(misses=1)
            keep() if coming is None else progress.overlap.keep(keep)
        return LoadedItem(_media_input(task.item, metas, decoded), payloads, content, coming=coming)

    def _found(
        self,
        task: ItemTask,
        video: VideoTask,
        found: Decoded,
        files: Sequence[Fetched],
        names: list[str],
        progress: Progress,
    ) -> LoadedItem:
        """What an earlier request had decoded, for sources whose content is `files`."""
        progress.reused.append((video, found))
        progress.timings.note_cache(StageName.VIDEO_DECODE, CacheUse.HIT)
        progress.timings.note(StageName.VIDEO_DECODE, 0.0, worked_s=0.0)
        self._count_decoded(task, video, found.video, progress)
        media = replace(_media_input(task.item, files, found.video), payloads=len(found.payloads))
        return LoadedItem(media, found.payloads, content_of(names, files), is_kept=True)

    async def _load_remote(
        self, task: ItemTask, video: VideoTask, begun: StageResult[Fetched], key: str, progress: Progress
    ) -> LoadedItem | None:
        """Of a file that stays with its host; None when it must be read whole.

        Nothing is kept by it: only who has all bytes of a file can tell whether it is another one.
        """
        files = [begun.meta]
        assert begun.meta.remote is not None
        remote = replace(begun.meta.remote, client=progress.lease.client, key=key)
        content = content_of([key], files)
        limited = progress.deadline.capped(self._config.decoder.timeout_s, StageName.VIDEO_DECODE)
        answer = await self._decoder.decode_remote(limited, video, remote, begun.own_payload, key=content.key)
        progress.lease.outside_s = max(progress.lease.outside_s, answer.seconds)  # much of it is the host's
        if isinstance(answer.meta, WholeNeeded):
            return None
        self._note(task.item, files, progress).decode = CacheUse.OFF
        progress.timings.note_cache(StageName.VIDEO_DECODE, CacheUse.OFF)
        progress.timings.note(StageName.VIDEO_DECODE, answer.seconds, worked_s=answer.meta.decode_s)
        self._count_decoded(task, video, answer.meta, progress)
        return LoadedItem(_media_input(task.item, files, answer.meta), (answer.own_payload,), content)

    async def _fetch_whole(self, source: Source, begun: Fetched, key: str, progress: Progress) -> StageResult[Fetched]:
        """A file of which only the beginning was fetched."""
        progress.lease.resize(progress.lease.size_bytes - begun.size_bytes + source_bytes(source, self._config))
        return await self._fetch(source, None, key, progress, in_parts=False)

    async def _names(self, sources: Sequence[Source], progress: Progress) -> list[str]:
        """Of each `source_name`; long texts are hashed on a thread where they were not as they came."""
        limited = progress.deadline.capped(self._config.media.total_timeout_s, StageName.FETCH)
        known = progress.overlap.names
        for source in sources:
            if source.item.label in known:
                continue  # its text may be gone by now
            text = source.data if source.data is not None else source.item.url or ""
            in_thread = len(text) > _SHORT_TEXT and not isinstance(text, MediaText)
            name = await self._copies.run(limited, source_name, text) if in_thread else source_name(text)
            known[source.item.label] = name
        return [known[source.item.label] for source in sources]

    def _note(self, item: ItemPlan, files: list[Fetched], progress: Progress) -> ItemCacheUse:
        uses = {file.cache for file in files}
        use = next(use for use in (CacheUse.MISS, CacheUse.REVALIDATED, CacheUse.HIT, CacheUse.OFF) if use in uses)
        progress.cache[item.label] = noted = ItemCacheUse(use if progress.reuse else CacheUse.OFF)
        progress.timings.note_cache(StageName.FETCH, noted.fetch)
        return noted

    async def _fetch(
        self,
        source: Source,
        known: Fetched | None,
        key: str,
        progress: Progress,
        *,
        in_parts: bool,
    ) -> StageResult[Fetched]:
        """`known`: what the source's content was when what it is for was made; without a payload if it still is.
        `in_parts`: whether a large file may stay where it is."""
        assumed_bytes = source_bytes(source, self._config)
        if known is not None and source.data is not None:
            progress.lease.resize(progress.lease.size_bytes - assumed_bytes)
            progress.timings.note(StageName.FETCH, 0.0, worked_s=0.0)
            return StageResult(replace(known, fetch_s=0.0, cache=CacheUse.HIT), None, 0.0)
        if key in progress.brought:
            result = progress.brought.pop(key)
        elif progress.overlap.again and key in progress.overlap.files:
            result = progress.overlap.files[key]
        else:
            result = await self._fetch_anew(source, known, key, progress, in_parts=in_parts)
        progress.overlap.fetched(key, result)
        progress.timings.note(StageName.FETCH, result.seconds, worked_s=result.meta.fetch_s)
        size_bytes = 0 if result.payload is None else result.meta.size_bytes
        progress.lease.resize(progress.lease.size_bytes - assumed_bytes + size_bytes)
        return result

    async def _fetch_anew(
        self, source: Source, known: Fetched | None, key: str, progress: Progress, *, in_parts: bool
    ) -> StageResult[Fetched]:
        limited = progress.deadline.capped(self._config.media.total_timeout_s, StageName.FETCH)
        data_url = await self._shared(source, limited) if source.data is not None else None
        started = time.monotonic()
        try:
            digests = () if known is None else (known.digest,)
            item = replace(
                source.item,
                client=progress.lease.client,
                cache=progress.reuse,
                known=digests,
                confirmed=progress.changed.get(key, ""),
                in_parts=in_parts,
            )
            if known is not None and known.cache in _KEPT:
                return await self._fetcher.confirm(limited, item, key=key)
            return await self._fetcher.fetch(limited, item, data_url, key=key)
        finally:
            progress.lease.outside_s = max(progress.lease.outside_s, time.monotonic() - started)

    async def _shared(self, source: Source, deadline: Deadline) -> TensorRef:
        """A reference to the text of a `data:` URL, whose only other copy is let go."""
        text = source.take()
        assert text is not None
        return await self._copies.run(deadline, self._put, np.frombuffer(text, np.uint8))

    async def _decode(
        self, task: ItemTask, video: VideoTask, refs: list[TensorRef], key: str, progress: Progress
    ) -> tuple[DecodedVideo, tuple[TensorRef, ...], Coming | None]:
        limited = progress.deadline.capped(self._config.decoder.timeout_s, StageName.VIDEO_DECODE)
        if progress.overlap.is_allowed and video.patches is not None and not task.item.is_list:
            return await self._decode_early(limited, task, video, refs[0], key, progress)
        if task.item.is_list:
            result = await self._decoder.decode_pictures(limited, video, refs, key=key)
        else:
            result = await self._decoder.decode(limited, video, refs[0], key=key)
        progress.timings.note(StageName.VIDEO_DECODE, result.seconds, worked_s=result.meta.decode_s)
        self._count_decoded(task, video, result.meta, progress)
        return result.meta, (result.own_payload,), None

    async def _decode_early(
        self, limited: Deadline, task: ItemTask, video: VideoTask, ref: TensorRef, key: str, progress: Progress
    ) -> tuple[DecodedVideo, tuple[TensorRef, ...], Coming | None]:
        """A long clip in groups, of which nothing need be there yet; others as they are."""
        started = time.monotonic()
        begun = await self._decoder.decode_early(limited, video, ref, key=key)
        self._count_decoded(task, video, begun.meta, progress)
        meta, later = replace(begun.meta, later=()), begun.meta.later
        if later:
            others = [self._decoder.decode_group(limited, video, group, *begun.given) for group in later]
            return meta, (), await progress.overlap.begin(started, begun, others)
        payload = await begun.payload()
        progress.timings.note(StageName.VIDEO_DECODE, time.monotonic() - started, worked_s=meta.decode_s)
        return meta, (payload,), None

    @staticmethod
    def _count_decoded(task: ItemTask, video: VideoTask, decoded: DecodedVideo, progress: Progress) -> None:
        held_bytes = progress.lease.size_bytes - task.pixel_bytes
        progress.lease.resize(held_bytes + decoded_bytes(video, decoded))


def _may_stay(item: ItemPlan, video: VideoTask) -> bool:
    """Whether a large file may be read by ranges."""
    return video.audio_rate_hz is None and not item.is_list


def _media_input(item: ItemPlan, files: Sequence[Fetched], video: DecodedVideo | None) -> MediaInput:
    container, digest = (files[0].container, joined_digest(files)) if files else ("", "")
    return MediaInput(
        item.kind, item.label, container, video, declared=item.declared, embeds=item.embeds, digest=digest
    )
