"""A checkpoint's weights on a device: all of them, or one part's. Knows no Ray."""

from typing import Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    CompressedTensorsConfig,
)

from deployments.config import AppConfig
from deployments.core.checkpoint import resolve_model
from deployments.core.model_config import indivisible
from deployments.errors import InternalError
from deployments.model.families.known import known
from deployments.model.families.parts import Part, having
from deployments.model.parallel.ranks import Ranks
from deployments.model.parallel.shards import shard


def start_device(config: AppConfig) -> torch.device:
    """Where this process computes, set up."""
    if config.engine.threads is not None:
        torch.set_num_threads(config.engine.threads)
    return pick_device(config.device)


def served_part(config: AppConfig) -> Part:
    """What a model replica and its further ranks hold."""
    return Part.WHOLE if config.encoder is None else Part.LANGUAGE


def pick_device(wanted: str) -> torch.device:
    """`auto`: a GPU where this process sees one."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(wanted)


def load_model(config: AppConfig, device: torch.device, ranks: Ranks | None = None, part: Part = Part.WHOLE) -> Any:
    """The checkpoint's weights on `device`, in evaluation mode; transformers shows a progress bar.

    With `ranks` this rank's part of them: the whole is read into the host's memory, and cut before it is moved. Of
    another `part` nothing is read. Raises `InternalError` with the reason for what can't be loaded.
    """
    path = resolve_model(config)
    if config.dtype == "auto":
        dtype: Any = torch.float32 if device.type == "cpu" else "auto"
    else:
        dtype = getattr(torch, config.dtype)
    kind = AutoConfig.from_pretrained(path, **config.hub_options())
    loader = _loader(kind)
    if part is not Part.WHOLE:
        loader = having(part, getattr(loader, "_model_mapping", {}).get(type(kind), loader))
    if getattr(kind, "quantization_config", None) is None:
        model = loader.from_pretrained(path, dtype=dtype, **config.hub_options())
        if ranks is not None:
            shard(model, ranks)
        return model.to(device).eval()
    if ranks is not None:
        raise InternalError(f"{indivisible(kind.to_dict(), ranks.size)}")
    return _quantised(loader, path, kind, dtype=dtype, device=device, **config.hub_options())


def _quantised(loader: Any, path: Any, kind: Any, *, device: torch.device, **options: Any) -> Any:
    """Where weights stay packed they are brought to the device as they are read: they can't be moved afterwards.
    transformers wants `accelerate` for that.

    Raises `InternalError` naming the package that the format needs and this installation lacks.
    """
    found = kind.quantization_config
    method = found.get("quant_method") if isinstance(found, dict) else getattr(found, "quant_method", None)
    unpacked = method == "compressed-tensors"
    if not unpacked and device.type != "cpu":
        options["device_map"] = {"": device}
    try:
        if unpacked:  # else it happens at the first pass, and each pass rounds anew what is rounded
            options["quantization_config"] = CompressedTensorsConfig(dequantize=True)
        model = loader.from_pretrained(path, **options)
    except (ImportError, RuntimeError, ValueError) as error:
        why = " ".join(str(error).split())
        raise InternalError(f"the checkpoint is quantised ({method}) and can not be loaded here: {why}") from error
    return (model.to(device) if unpacked else model).eval()


def _loader(kind: Any) -> Any:
    """What loads a checkpoint of this configuration: a class of transformers, or one that finds it."""
    if (part := known(kind.model_type).part) is not None:
        return getattr(transformers, part)
    for loader in (AutoModelForMultimodalLM, AutoModelForImageTextToText, AutoModelForCausalLM):
        if type(kind) in loader._model_mapping:
            return loader
    raise InternalError(f"models of the family {kind.model_type!r} are not served: transformers has no decoder for it")
