"""What differs between model families, asked of the model itself: features, placeholders, positions, masks.

Almost everything is read from the signatures of the model's own functions; what signatures do not tell stands in
`known.FAMILIES`. `probe` (see `checks.py`) holds the result against the plain forward before a model is served.

Shape legend: T prompt tokens, N placeholders of one modality, D hidden size, A rotary axes.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from transformers.modeling_outputs import BaseModelOutputWithPooling

from deployments.errors import BadRequest, InternalError
from deployments.model.families.known import known
from deployments.model.multimodal.request_media import EncodedRows
from deployments.types import MediaKind

_MAIN_TENSORS = {
    MediaKind.IMAGE: ("pixel_values", "pixel_values_images"),
    MediaKind.VIDEO: ("pixel_values_videos",),
    MediaKind.AUDIO: ("input_features",),
}
"""By which tensor a modality is known to be in a request."""

_TOKEN_TYPE = {MediaKind.IMAGE: 1, MediaKind.VIDEO: 2, MediaKind.AUDIO: 3}
"""Values of `mm_token_type_ids`; 0 is text."""

_SEEN_BOTH_WAYS = (_TOKEN_TYPE[MediaKind.IMAGE], _TOKEN_TYPE[MediaKind.VIDEO])

_ROPE_NAMES = {"second_per_grids": "video_second_per_grid", "second_per_grid_ts": "second_per_grid_ts"}
"""Arguments of `get_rope_index` that processors call otherwise."""


@dataclass
class _GivenOutput(BaseModelOutputWithPooling):  # type: ignore[misc]
    """Encoder outputs that no tower made, as the forwards of families with deepstack take them."""

    deepstack_features: list[Any] | None = None


@dataclass(frozen=True, slots=True)
class Feature:
    """How one modality becomes rows in the prompt."""

    kind: MediaKind
    main_tensor: str
    argument_names: tuple[str, ...]
    """Of the feature function; processor tensors go in by these names."""
    token_id: int
    """The placeholder in the prompt."""


class Family:
    """One loaded model, seen as what the engine needs of it.

    Raises `InternalError` with the reason for families that can not be served.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.base = model.base_model
        self.name: str = model.config.model_type
        self._quirk = known(self.name).quirk
        if self._quirk.refused:
            raise InternalError(f"models of the family {self.name!r} are not served: {self._quirk.refused}")
        self.text_config = model.config.get_text_config(decoder=True)
        self.context_length = int(getattr(self.text_config, "max_position_embeddings", 2048))
        self.features = {kind: feature for kind in MediaKind if (feature := self._feature(kind))}
        self._rope_index = getattr(self.base, "get_rope_index", None)
        vision = getattr(model.config, "vision_config", None)
        deepstack = len(getattr(vision, "deepstack_visual_indexes", None) or ())
        self._row_bytes = int(self.text_config.hidden_size) * (1 + deepstack) * model.dtype.itemsize

    @property
    def vocab_size(self) -> int:
        """Of the model's head, which towers alone do not have."""
        return int(self.model.get_output_embeddings().out_features)

    @property
    def frames_apart(self) -> bool:
        """Whether the frames of a clip may be encoded one after the other."""
        return self._quirk.frames_apart

    @property
    def both_ways(self) -> str:
        """In which layers tokens of one picture see each other both ways: in none (empty), `all`, or `sliding` ones."""
        return self._quirk.both_ways

    @property
    def num_axes(self) -> int:
        """Of rotary positions: three where they are those of time, height and width."""
        return 1 if self._rope_index is None else 3

    def with_axes(self, positions: torch.Tensor) -> torch.Tensor:
        """Plain positions [R, Q] as the family's forward takes them: on equal axes where it has several."""
        return positions if self._rope_index is None else positions[None].expand(self.num_axes, -1, -1)

    def kinds_in(self, tensors: Mapping[str, Any]) -> list[MediaKind]:
        """Modalities present among a request's tensors. Raises `BadRequest` for those that the model does not take."""
        kinds = [
            kind
            for kind, names in _MAIN_TENSORS.items()
            if f"{kind}_embeds" in tensors or any(name in tensors for name in names)
        ]
        for kind in kinds:
            if kind not in self.features:
                raise BadRequest(f"the model takes no {kind} input")
        if self._quirk.video_token_is_image_token and {MediaKind.IMAGE, MediaKind.VIDEO} <= set(kinds):
            raise BadRequest(
                "the model takes pictures or videos, not both in one request: its prompts mark them by the same token"
            )
        return kinds

    def placeholders_T(self, token_ids_T: torch.Tensor, kind: MediaKind) -> torch.Tensor:
        """bool [T]: where the modality's rows go."""
        places_T: torch.Tensor = token_ids_T == self.features[kind].token_id
        return places_T

    def device_bytes(self, token_ids_T: torch.Tensor, tensors: Mapping[str, NDArray[Any]]) -> int:
        """Bytes that a request's media take on the device at most: the processor's tensors and their encoder outputs.

        Raises `BadRequest` as `kinds_in` does.
        """
        size: int = self.model.dtype.itemsize
        rows = sum(int(self.placeholders_T(token_ids_T, kind).sum()) for kind in self.kinds_in(tensors))
        ready = {name for name in tensors if name.endswith("_embeds") and tensors[name].itemsize == size}
        held = sum(
            int(array.size) * (size if array.dtype.kind in "fu" else 8)
            for name, array in tensors.items()
            if name not in ready  # they are the outputs
        )
        return int(held + rows * self._row_bytes)

    def given_rows(self, rows_ND: torch.Tensor, deepstack_LND: torch.Tensor | None) -> EncodedRows:
        """Encoder outputs that came as such, as `encode` gives them."""
        layers = () if deepstack_LND is None else tuple(deepstack_LND)
        return EncodedRows(rows_ND, layers, output_type=_GivenOutput)

    @torch.inference_mode()
    def encode(self, kind: MediaKind, tensors: Mapping[str, torch.Tensor]) -> list[EncodedRows]:
        """Encoder outputs: one for each item where the family tells them apart, else one for all.

        Tensors are the feature function's arguments, on the device, pixels normalised.
        """
        output = getattr(self.base, f"get_{kind}_features")(**tensors, return_dict=True)
        if kind is MediaKind.AUDIO:
            return [EncodedRows(self._audio_rows(output))]
        pooled = output.get("pooler_output")
        as_list = not isinstance(pooled, torch.Tensor)
        if not as_list and pooled.ndim == 2:
            pooled = pooled[None]
        rows = [_flat(piece) for piece in pooled]
        layers = [[_flat(piece) for piece in layer] for layer in output.get("deepstack_features") or ()]
        return [
            EncodedRows(rows_ND, tuple(layer[i] for layer in layers), as_list, type(output))
            for i, rows_ND in enumerate(rows)
        ]

    def positions(
        self, token_ids_T: torch.Tensor, tensors: Mapping[str, torch.Tensor], use_audio_in_video: bool
    ) -> torch.Tensor | None:
        """Rotary positions [A, T] of a prompt; None for 0, 1, 2, ... All of it happens on the host, grid by grid."""
        if self._rope_index is None or not any(name.endswith("grid_thw") for name in tensors):
            return None
        wanted = inspect.signature(self._rope_index).parameters
        given: dict[str, Any] = {
            name: tensors[source] for name in wanted if (source := _ROPE_NAMES.get(name, name)) in tensors
        }
        if "mm_token_type_ids" in wanted:
            given["mm_token_type_ids"] = self.token_types_T(token_ids_T, tensors)[None]
        if "use_audio_in_video" in wanted:
            given["use_audio_in_video"] = use_audio_in_video
        if "audio_seqlens" in wanted and "feature_attention_mask" in tensors:
            given["audio_seqlens"] = tensors["feature_attention_mask"].sum(1)
        given["attention_mask"] = torch.ones_like(token_ids_T)[None]
        given["input_ids"] = token_ids_T[None]
        positions: torch.Tensor = self._rope_index(**given)[0][:, 0]
        return positions

    def token_types_T(self, token_ids_T: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """int64 [T]: 0 text, 1 picture, 2 video, 3 sound; the processor's own where it made them."""
        for name in ("mm_token_type_ids", "token_type_ids"):
            if name in tensors:
                return tensors[name].reshape(-1).to(token_ids_T)
        types_T = torch.zeros_like(token_ids_T)
        for kind in self.kinds_in(tensors):
            types_T.masked_fill_(self.placeholders_T(token_ids_T, kind), _TOKEN_TYPE[kind])
        return types_T

    def blocks(self, types_T: torch.Tensor) -> list[tuple[int, int]]:
        """Spans of prompt tokens that must be prefilled at once."""
        if not self._quirk.both_ways:
            return []
        types = types_T.tolist()
        edges = [i for i in range(1, len(types)) if types[i] != types[i - 1]]
        spans = zip([0, *edges], [*edges, len(types)], strict=True)
        return [(first, stop) for first, stop in spans if types[first] in _SEEN_BOTH_WAYS]

    def _feature(self, kind: MediaKind) -> Feature | None:
        function = getattr(self.base, f"get_{kind}_features", None)
        token_id = self._token_id(kind)
        if function is None or token_id is None:
            return None
        names = tuple(inspect.signature(function).parameters)
        main = next((name for name in _MAIN_TENSORS[kind] if name in names), None)
        if main is None:
            return None
        return Feature(kind, main, names, token_id)

    def _token_id(self, kind: MediaKind) -> int | None:
        if kind is MediaKind.VIDEO and self._quirk.video_token_is_image_token:
            kind = MediaKind.IMAGE
        for name in (f"{kind}_token_id", f"{kind}_token_index"):
            value = getattr(self.model.config, name, None)
            if value is not None:
                return int(value)
        return None

    def _audio_rows(self, output: Any) -> torch.Tensor:
        pooled = output.get("pooler_output")
        if pooled is None:
            return _flat(output.last_hidden_state)
        mask = output.get("attention_mask")
        return _flat(pooled if mask is None else pooled[mask.bool()])


def _flat(rows: torch.Tensor) -> torch.Tensor:
    """[N, D] of rows with any leading axes."""
    return rows.reshape(-1, rows.shape[-1])
