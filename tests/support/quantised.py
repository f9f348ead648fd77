"""Tiny checkpoints with packed weights, as the libraries that users quantise with write them."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig, TorchAoConfig

_KEPT = ["lm_head", "visual"]
"""As usual the head and the tower are not quantised."""


def compressed_tensors(model: Any, folder: Path) -> None:
    """Integers of four bits in groups of sixteen, packed (W4A16)."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        QuantizationStatus,
        apply_quantization_config,
    )

    weights = QuantizationArgs(num_bits=4, group_size=16, strategy="group", symmetric=True)
    config = QuantizationConfig(
        config_groups={"group_0": QuantizationScheme(targets=["Linear"], weights=weights)},
        ignore=["lm_head", "re:.*visual.*"],
        format="pack-quantized",
        quantization_status=QuantizationStatus.FROZEN,
    )
    apply_quantization_config(model, config)
    for module in model.modules():
        if getattr(module, "quantization_scheme", None) is not None:
            groups = module.weight.data.unflatten(1, (-1, 16))
            module.weight_scale.data = (groups.abs().amax(-1) / 7).to(module.weight_scale.dtype)
    compressor = ModelCompressor.from_pretrained_model(model, quantization_format="pack-quantized")
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(str(folder))


def torchao_int8(model: Any, folder: Path) -> None:
    from torchao.quantization import Int8WeightOnlyConfig

    _quantised_as_loaded(model, folder, TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=_KEPT))


def bitsandbytes_nf4(model: Any, folder: Path) -> None:
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32, llm_int8_skip_modules=_KEPT
    )
    _quantised_as_loaded(model, folder, config)


def fp8_blocks(model: Any, folder: Path) -> None:
    """As the fp8 checkpoints of many families come: a scale for each block of a matrix."""
    model.to(torch.bfloat16).save_pretrained(folder)
    side = 16
    weights = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        weights[name] = weight
        if "language_model.layers" in name and name.endswith("proj.weight"):
            blocks = weight.float().unflatten(1, (-1, side)).unflatten(0, (-1, side))
            scale = blocks.abs().amax((1, 3)) / 448
            packed = (blocks / scale[:, None, :, None]).flatten(0, 1).flatten(1)
            weights[name] = packed.to(torch.float8_e4m3fn)
            weights[f"{name}_scale_inv"] = scale
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": [side, side],
        "modules_to_not_convert": _KEPT,
    }
    (folder / "config.json").write_text(json.dumps(config))


def _quantised_as_loaded(model: Any, folder: Path, config: Any) -> None:
    model.save_pretrained(folder / "plain")
    loaded = AutoModelForImageTextToText.from_pretrained(
        folder / "plain", quantization_config=config, dtype=torch.float32, device_map="cpu"
    )
    loaded.save_pretrained(folder)
