"""Is there a checkpoint where `model` points to? Asked of files alone, before torch and transformers are imported.

`config.json`, the tokenizer's files and the headers of the weights tell whether the model can be had, whether it is
whole, and how large it is. What only the loaded model can tell, its own checks tell later.
"""

import contextlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from deployments.config import AppConfig
from deployments.core.checkpoint import resolve_model
from deployments.startup.settings import WrongSetting

_HUB_TIMEOUT_S = 10.0
_WEIGHTS = ("*.safetensors", "*.bin")
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
_LARGEST_HEADER_BYTES = 100 * 2**20


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What the files of a checkpoint say."""

    config: dict[str, Any]
    parameters: int | None
    """Of all weights; None where the files do not tell without being loaded."""
    stored_bytes: int | None
    """Of all weights as they are on disk."""


def read_model_files(config: AppConfig) -> ModelFiles:
    """Look at `config.model`, in a folder or on the hub. Raises `WrongSetting` where there is nothing to serve."""
    place = resolve_model(config)
    if not _is_folder(place):
        return ModelFiles(_config_from_hub(config), None, None)
    folder = Path(place)
    if not folder.is_dir():
        raise WrongSetting(f"args.model: there is no folder {place!r}")
    model_config = _json(folder / "config.json")
    if model_config is None or "model_type" not in model_config:
        raise WrongSetting(f"args.model: {place!r} is no checkpoint: it has no config.json that names a model_type")
    weights = [path for pattern in _WEIGHTS for path in folder.glob(pattern)]
    if not weights:
        raise WrongSetting(f"args.model: {place!r} is no checkpoint: it has no weights (*.safetensors, *.bin)")
    if not any((folder / name).exists() for name in _TOKENIZERS):
        raise WrongSetting(f"args.model: {place!r} is no checkpoint: it has no tokenizer")
    safe = [path for path in weights if path.suffix == ".safetensors"]
    parameters = sum(_parameters(path) for path in safe) if safe else None
    return ModelFiles(model_config, parameters, sum(path.stat().st_size for path in safe or weights))


def _is_folder(place: str) -> bool:
    """Hub ids are `name` or `owner/name`; all else is a path, and so is what exists."""
    return Path(place).exists() or place.startswith((".", "/", "~")) or place.count("/") > 1


def _config_from_hub(config: AppConfig) -> dict[str, Any]:
    from huggingface_hub import constants, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = config.model
    try:
        cached = try_to_load_from_cache(name, "config.json", revision=config.revision)
        path = cached if isinstance(cached, str) else None
        if path is None:
            if not constants.HF_HUB_OFFLINE:
                _reach(hf_hub_url(name, "config.json", revision=config.revision))
            path = hf_hub_download(name, "config.json", revision=config.revision, etag_timeout=_HUB_TIMEOUT_S)
    except HFValidationError:
        raise WrongSetting(f"args.model: {name!r} is neither a folder nor the id of a model on the hub") from None
    except GatedRepoError:
        raise WrongSetting(f"args.model: {name!r} is gated: accept its terms on the hub and set HF_TOKEN") from None
    except RepositoryNotFoundError:
        raise WrongSetting(f"args.model: there is no {name!r} on the hub, and no such folder here") from None
    except RevisionNotFoundError:
        raise WrongSetting(f"args.revision: {name!r} has no revision {config.revision!r}") from None
    except (LocalEntryNotFoundError, URLError, TimeoutError):
        raise WrongSetting(
            f"args.model: {name!r} is not in the local cache, and the hub can't be reached: download it first, or give"
            " the path of a folder"
        ) from None
    except EntryNotFoundError:
        raise WrongSetting(f"args.model: {name!r} has no config.json: it is no checkpoint of transformers") from None
    except (HfHubHTTPError, OSError) as error:
        raise WrongSetting(f"args.model: the hub did not give {name!r}: {type(error).__name__}") from None
    return _json(Path(path)) or {}


def _reach(url: str) -> None:
    """Raise `URLError` or `TimeoutError` where nobody answers: the hub's own client would try for half a minute."""
    with contextlib.suppress(HTTPError), urlopen(Request(url, method="HEAD"), timeout=_HUB_TIMEOUT_S):
        return


def _json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _parameters(path: Path) -> int:
    """Sum of all tensors' elements, from the header of one safetensors file. Raises `WrongSetting` for a broken one."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, _LARGEST_HEADER_BYTES)))
        end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
        if path.stat().st_size < 8 + length + end:
            raise WrongSetting(f"args.model: {str(path)!r} is cut short: download it again")
        return sum(_elements(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    except (OSError, struct.error, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, WrongSetting):
            raise
        raise WrongSetting(f"args.model: {str(path)!r} holds no weights that can be read") from None


def _elements(shape: list[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
