"""What a module computes, told by the statements of its forward: a name says nothing, and a version may change it.

Compared are syntax trees without signature, docstring, comments and layout.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable
from functools import lru_cache
from typing import Any

RMS_NORM = """
input_dtype = hidden_states.dtype
hidden_states = hidden_states.to(torch.float32)
variance = hidden_states.pow(2).mean(-1, keepdim=True)
hidden_states = hidden_states * torch.rsqrt(variance + self.variance_epsilon)
return self.weight * hidden_states.to(input_dtype)
"""
GATED_MLPS = (
    """
down_proj = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
return down_proj
""",
    """
return self.down_proj(self.act_fn(self.gate_proj(hidden_state)) * self.up_proj(hidden_state))
""",
)
MERGED_MLP = """
up_states = self.gate_up_proj(hidden_states)
gate, up_states = up_states.chunk(2, dim=-1)
up_states = up_states * self.activation_fn(gate)
return self.down_proj(up_states)
"""
ROTATE_HALF = """
x1 = x[..., : x.shape[-1] // 2]
x2 = x[..., x.shape[-1] // 2 :]
return torch.cat((-x2, x1), dim=-1)
"""
ROTARY = """
cos = cos.unsqueeze(unsqueeze_dim)
sin = sin.unsqueeze(unsqueeze_dim)
q_embed = (q * cos) + (rotate_half(q) * sin)
k_embed = (k * cos) + (rotate_half(k) * sin)
return q_embed, k_embed
"""
VISION_ROTARY = """
orig_q_dtype = q.dtype
orig_k_dtype = k.dtype
q, k = q.float(), k.float()
cos, sin = cos.unsqueeze(-2).float(), sin.unsqueeze(-2).float()
q_embed = (q * cos) + (rotate_half(q) * sin)
k_embed = (k * cos) + (rotate_half(k) * sin)
q_embed = q_embed.to(orig_q_dtype)
k_embed = k_embed.to(orig_k_dtype)
return q_embed, k_embed
"""
"""Of vision towers: in float32, and heads stand behind tokens."""
NORMED_HEADS = """
input_shape = hidden_states.shape[:-1]
hidden_shape = (*input_shape, -1, self.head_dim)
query_states = self.q_norm(self.q_proj(hidden_states).view(hidden_shape)).transpose(1, 2)
key_states = self.k_norm(self.k_proj(hidden_states).view(hidden_shape)).transpose(1, 2)
value_states = self.v_proj(hidden_states).view(hidden_shape).transpose(1, 2)
cos, sin = position_embeddings
query_states, key_states = apply_rotary_pos_emb(query_states, key_states, cos, sin)
"""
"""How an attention begins whose heads are normed, then turned."""
LAYER = """
residual = hidden_states
hidden_states = self.input_layernorm(hidden_states)
hidden_states, _ = self.self_attn(
    hidden_states=hidden_states,
    attention_mask=attention_mask,
    position_ids=position_ids,
    cache=cache,
    use_cache=use_cache,
    position_embeddings=position_embeddings,
    **kwargs,
)
hidden_states = residual + hidden_states
residual = hidden_states
hidden_states = self.post_attention_layernorm(hidden_states)
hidden_states = self.mlp(hidden_states)
hidden_states = residual + hidden_states
return hidden_states
"""


def computes(function: Callable[..., Any], *known: str) -> bool:
    """Whether a function's statements are one of the known ones."""
    mine = _of_function(inspect.unwrap(function))
    return bool(mine) and any(mine == _of_text(text) for text in known)


def begins(function: Callable[..., Any], known: str) -> bool:
    """Whether a function's first statements are the known ones."""
    wanted = _of_text(known)
    return _of_function(inspect.unwrap(function))[: len(wanted)] == wanted


@lru_cache(maxsize=512)
def calls_of(function: Callable[..., Any], names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Where a function calls modules of its own by these names, in order: the name, and with what."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    found.sort(key=lambda node: (node.lineno, node.col_offset))
    sources = [(ast.unparse(node.func), ", ".join(map(ast.unparse, [*node.args, *node.keywords]))) for node in found]
    return tuple((name.removeprefix("self."), given) for name, given in sources if name.removeprefix("self.") in names)


@lru_cache(maxsize=512)
def _of_function(function: Callable[..., Any]) -> tuple[str, ...]:
    """Empty where the source can not be read."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return ()
    body = getattr(tree.body[0], "body", [])
    if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    return tuple(ast.dump(statement) for statement in body)


@lru_cache(maxsize=64)
def _of_text(text: str) -> tuple[str, ...]:
    # Within a function: `return` stands there alone.
    tree = ast.parse("def known():\n" + textwrap.indent(text, "    "))
    function = tree.body[0]
    assert isinstance(function, ast.FunctionDef)
    return tuple(ast.dump(statement) for statement in function.body)
