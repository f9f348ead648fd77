"""A tiny random checkpoint on disk, complete enough to be served: a model of text alone whose tokens are bytes."""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.support.tiny_processors import TEMPLATE, byte_tokenizer


def save_text_model(folder: Path) -> None:
    """Its answers are noise, the same in each run."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE.replace("KINDS\n", "")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
