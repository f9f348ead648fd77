"""What this server takes, for clients that would rather know before they upload: the body of `GET /v1/limits`."""

from typing import Any

from deployments.config import AppConfig
from deployments.types import MediaProfile


def limits_document(config: AppConfig, profile: MediaProfile) -> dict[str, Any]:
    """JSON; sizes in bytes, times in seconds. Of media, the limits of one item beside the number of items."""
    ingress, media, decoder, preprocessor = config.ingress, config.media, config.decoder, config.preprocessor
    sounds = [preprocessor.max_audio_s, *([] if profile.max_audio_s is None else [profile.max_audio_s])]
    return {
        "object": "limits",
        "model": config.model_name,
        "modalities": sorted(kind.value for kind in profile.modalities),
        "context_length": min(filter(None, (config.engine.max_context_tokens, profile.context_length))),
        "max_tokens": ingress.max_tokens,
        "default_max_tokens": ingress.default_max_tokens,
        "max_choices": ingress.max_choices,
        "request_timeout_s": ingress.request_timeout_s,
        "max_body_bytes": ingress.max_body_bytes,
        "image": {
            "max_items": ingress.max_images,
            "max_bytes": media.max_image_bytes,
            "max_pixels": preprocessor.max_image_pixels,
        },
        "video": {
            "max_items": ingress.max_videos,
            "max_bytes": media.max_video_bytes,
            "max_duration_s": decoder.max_duration_s,
            "max_frames": decoder.max_frames,
            "max_list_frames": ingress.max_list_frames,
        },
        "audio": {"max_items": ingress.max_audios, "max_bytes": media.max_audio_bytes, "max_duration_s": min(sounds)},
    }
