"""Identity of what the model will see of a media item: equal hashes mean equal tensors."""

import hashlib
import json

from deployments.types import MediaInput


def item_hash(item: MediaInput, shape: tuple[int, ...], size: dict[str, int] | None, hears_video: bool) -> str:
    """SHA-256, hexadecimal, over the kind, the file's own SHA-256 and all that decides which pixels are made of it.

    shape: of a video's frames, empty for files. size: the processor's size for this request.

    The file's digest was computed by the fetcher over the bytes, so that no client chooses it; it stands for them, so
    that frames need not be read again.
    """
    facts: dict[str, object] = {"kind": item.kind, "file": item.sha256, "container": item.container}
    facts |= {"shape": shape, "size": size}
    if item.video is not None:
        video = item.video
        facts |= {
            "indices": video.indices,
            "times": video.timestamps_s,
            "source": (video.source_height, video.source_width, video.rotation_deg, video.backend),
            "sound": hears_video,
        }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
