"""Compiles the kernels for cards that are not here, as `test_kernels_ahead.py` asks: one JSON line a kernel.

    TRITON_INTERPRET=0 python -m tests.model.compile_kernels 80 90

In a process of its own: where tests run kernels in Triton's interpreter, nothing can be compiled.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from deployments.model.kernels import decode, pointwise

_ALIGNED = [["tt.divisibility", 16]]
_BF16, _FLOAT, _INT = "*bf16", "fp32", "i32"


def kernels() -> Iterator[tuple[str, Any, dict[str, str], dict[str, Any], dict[str, int]]]:
    """Name, kernel, types by argument where they are not 32-bit integers, constants, launch options."""
    data = dict.fromkeys(("query", "keys", "values"), _BF16)
    for dim, groups, page in ((128, 4, 256), (80, 7, 16), (256, 8, 256)):
        padded = triton.next_power_of_2(dim)
        options = decode.launch_options(padded)
        shape = {"PART": decode.PART, "G": groups, "D": dim, "DP": padded}
        sizes = {**shape, "PAGE": page, "BLOCK": options.pop("BLOCK"), "CAPPED": False, "GP": 16}
        parts = {"lengths": "*i32", "part_out": "*fp32", "part_lse": "*fp32"}
        types = {**data, **parts, "tables": "*i32", "scale": _FLOAT, "softcap": _FLOAT}
        name = f"head of {dim}, {groups} a key, pages of {page}"
        yield f"attend_parts, {name}", decode.attend_parts, types, sizes, options
        yield (
            f"merge_parts, {name}",
            decode.merge_parts,
            {**parts, "out": _BF16},
            {**shape, "TILE": 16},
            {"num_warps": 2},
        )
    norm = dict.fromkeys(("x", "residual", "weight", "out", "total"), _BF16) | {"eps": _FLOAT}
    for width, adds in ((4096, True), (4096, False), (128, False)):
        padded = triton.next_power_of_2(width)
        rows = max(1, min(16, 2048 // padded))
        sizes = {"D": width, "DP": padded, "ROWS": rows, "ADDS": adds}
        warps = {"num_warps": max(1, min(8, rows * padded // 512))}
        yield f"rms_norm_rows, {width} wide, adds {adds}", pointwise.rms_norm_rows, norm, sizes, warps
    heads = ("query", "keys", "query_weight", "key_weight", "query_out", "keys_out", "cos", "sin")
    turned = dict.fromkeys(heads, _BF16) | {"query_eps": _FLOAT, "key_eps": _FLOAT}
    for norms in (True, False):
        sizes = {"D": 128, "HALF": 64, "HEADS": 8, "NORMS": norms, "ROUNDS": norms}
        yield f"rotate_heads, norms {norms}", pointwise.rotate_heads, turned, sizes, {"num_warps": 2}
    gate = {"both": _BF16, "out": _BF16}
    yield "silu_gate", pointwise.silu_gate, gate, {"BLOCK": 1024}, {"num_warps": 4}
    stored = dict.fromkeys(("new_keys", "new_values", "keys", "values"), _BF16) | {"places": "*i64"}
    sizes = {"D": 128, "DV": 128, "BLOCK": 1024}
    yield "store_tokens", pointwise.store_tokens, stored, sizes, {"num_warps": 4}


def compiled(kernel: Any, types: dict[str, str], sizes: dict[str, Any], options: dict[str, int], card: int) -> Any:
    names = kernel.arg_names
    signature = {name: "constexpr" if name in sizes else types.get(name, _INT) for name in names}
    constants = {(names.index(name),): value for name, value in sizes.items()}
    # As the launcher finds it: pointers and strides are multiples of 16.
    whole = [
        name for name, kind in signature.items() if kind.startswith("*") or name.endswith(("_token", "_head", "_row"))
    ]
    source = ASTSource(kernel, signature, constants, {(names.index(name),): _ALIGNED for name in whole})
    return triton.compile(source, target=GPUTarget("cuda", card, 32), options=options)


def usage(cubin: bytes) -> dict[str, int]:
    """Registers, stack and local memory, and loads and stores of what did not fit into registers."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        texts = [
            subprocess.run([tool, what, file.name], capture_output=True, text=True, check=True).stdout
            for what in ("-res-usage", "-sass")
        ]
    found = {name.lower(): int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", texts[0])}
    return found | {"spills": len(re.findall(r"\b(?:STL|LDL)\b", texts[1]))}


def main() -> None:
    for card in [int(argument) for argument in sys.argv[1:]]:
        for name, kernel, types, sizes, options in kernels():
            kernel_of_card = compiled(kernel, types, sizes, options, card)
            line = {"card": card, "kernel": name, "shared": kernel_of_card.metadata.shared}
            print(json.dumps(line | usage(kernel_of_card.asm["cubin"])), flush=True)


if __name__ == "__main__":
    main()
