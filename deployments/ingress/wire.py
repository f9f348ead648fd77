"""What comes over HTTP, whatever the API: exact JSON types, errors that name the field, and options for frames."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from deployments.errors import BadRequest, shown


class Wire(BaseModel):
    """Base of what comes over HTTP: exact JSON types, unknown keys refused, null equals absent."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, fields: object) -> object:
        if isinstance(fields, dict):
            return {name: value for name, value in fields.items() if value is not None}
        return fields


W = TypeVar("W", bound=Wire)


PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
SecondsFromStart = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveInt = Annotated[int, Field(ge=1)]


class FrameOptions(Wire):
    """Which frames of a video to look at; at the top level, and in a part for that video alone."""

    fps: PositiveFloat | None = None
    num_frames: PositiveInt | None = None
    max_frames: PositiveInt | None = None
    start_s: SecondsFromStart | None = None
    end_s: SecondsFromStart | None = None


NO_FRAME_OPTIONS = FrameOptions()


class SluiceOptions(Wire):
    """What no other server knows, under the key `sluice` of a body."""

    cache: bool = True
    """Whether what is kept of earlier requests may be used, and what is made for this one kept."""


def merged(*layers: FrameOptions) -> FrameOptions:
    """Later layers override earlier ones; `fps` and `num_frames` override each other."""
    fields: dict[str, Any] = {}
    for layer in layers:
        said = {name: value for name in FrameOptions.model_fields if (value := getattr(layer, name)) is not None}
        if "fps" in said or "num_frames" in said:
            fields.pop("fps", None)
            fields.pop("num_frames", None)
        fields |= said
    return FrameOptions(**fields)


def validated(model: type[W], fields: dict[str, Any], label: str) -> W:
    """`model` from `fields`. Raises `BadRequest` whose `param` is `label` and the path below it."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        param = _path(label, first["loc"])
        raise BadRequest(_said(first["type"], first["msg"], param), param=shown(param)) from error


def _path(label: str, loc: tuple[int | str, ...]) -> str:
    """`messages[0]` and ("image_url", "url") -> `messages[0].image_url.url`; names of union branches are left out."""
    path = label
    for step in loc:
        if isinstance(step, int):
            path += f"[{step}]"
        elif step not in ("str", "[key]") and "[" not in step:
            path += f".{step}" if path else step
    return path


def _said(kind: str, message: str, param: str) -> str:
    if kind == "extra_forbidden":
        return f"unknown field `{shown(param)}`"
    if kind == "missing":
        return f"`{shown(param)}` is missing"
    return f"`{shown(param)}`: {shown(message)}"
