"""A base model of two small layers with random weights, in the published layout."""

from __future__ import annotations

from pathlib import Path

import torch

from bases.chatglm import ChatGLMConfig, ChatGLMForConditionalGeneration, ChatGLMTokenizer


def make_random_base(root: Path, directory: Path) -> Path:
    """Write a small base with the embedded base's tokenizer.

    Args:
        root: the project's folder.
        directory: where to; it is made if it isn't there.

    Returns:
        The directory.
    """
    tokenizer = ChatGLMTokenizer.from_pretrained(root / "models" / "chatglm-tiny")
    config = ChatGLMConfig(
        vocab_size=(len(tokenizer) + 63) // 64 * 64,
        hidden_size=64,
        num_layers=2,
        num_attention_heads=4,
        inner_hidden_size=128,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        mask_token_id=tokenizer.mask_token_id,
        gmask_token_id=tokenizer.gmask_token_id,
    )
    torch.manual_seed(0)
    model = ChatGLMForConditionalGeneration(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:  # larger than the default, so that the layers matter beside the residual
            torch.nn.init.normal_(parameter, std=0.1)
    model.half().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
