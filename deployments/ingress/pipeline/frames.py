"""Which frames of a video are wanted: the request says, else the server, else the model family; within limits."""

from deployments.config import DecoderConfig
from deployments.errors import BadRequest
from deployments.ingress.request import ItemPlan
from deployments.ingress.wire import FrameOptions, merged
from deployments.types import FrameSampling, MediaProfile


def frame_sampling(
    item: ItemPlan, request: FrameOptions, config: DecoderConfig, profile: MediaProfile
) -> FrameSampling:
    """Raises `BadRequest` naming the item when options contradict each other or a limit of the server."""
    asked = merged(request, item.frames)
    _check(asked, item.label, config.max_frames)
    ceiling = min(config.max_frames, asked.max_frames or config.max_frames)
    if item.is_list:
        return _list_sampling(item, asked, ceiling)
    family = profile.sampling
    if asked.max_frames is None and asked.num_frames is None:
        ceiling = min(ceiling, family.max_frames)
    num_frames, fps = _first_said(asked, config, family)
    if num_frames is not None:
        return FrameSampling(min(num_frames, ceiling), None, ceiling, 1, asked.start_s, asked.end_s)
    return FrameSampling(None, fps, ceiling, min(family.min_frames, ceiling), asked.start_s, asked.end_s)


def _first_said(*layers: FrameOptions | DecoderConfig | FrameSampling) -> tuple[int | None, float | None]:
    """`num_frames` and `fps` of the first layer that says either."""
    return next(
        (layer.num_frames, layer.fps) for layer in layers if layer.num_frames is not None or layer.fps is not None
    )


def _list_sampling(item: ItemPlan, asked: FrameOptions, ceiling: int) -> FrameSampling:
    """All pictures of a list, or `num_frames` of them. An `fps` of the part is the rate at which they were taken."""
    if asked.start_s is not None or asked.end_s is not None:
        raise BadRequest(f"{item.label}: a list of pictures has no start or end", param=item.label)
    if item.frames.fps is not None:
        return FrameSampling(None, item.frames.fps, ceiling)
    return FrameSampling(min(asked.num_frames or len(item.sources), ceiling), None, ceiling)


def _check(asked: FrameOptions, label: str, max_frames: int) -> None:
    if asked.fps is not None and asked.num_frames is not None:
        raise BadRequest(f"{label}: give `fps` or `num_frames`, not both", param=label)
    for name in ("num_frames", "max_frames"):
        value = getattr(asked, name)
        if value is not None and value > max_frames:
            raise BadRequest(f"{label}: `{name}` is {value}; at most {max_frames} are allowed", param=name)
    if asked.start_s is not None and asked.end_s is not None and asked.start_s >= asked.end_s:
        raise BadRequest(f"{label}: `start_s` must be smaller than `end_s`", param=label)
