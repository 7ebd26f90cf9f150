"""ChatGLM's measures, compared with the model itself."""

from __future__ import annotations

import torch

from bases.chatglm import ChatGLMConfig, ChatGLMForConditionalGeneration
from bases.chatglm.anatomy import LINEAR_LAYERS, is_linear_layer, shape_of


def test_the_measures_are_the_model_s() -> None:
    for tied in (True, False):
        config = ChatGLMConfig(
            vocab_size=130_528, hidden_size=64, num_layers=3, num_attention_heads=4, inner_hidden_size=96,
            tie_word_embeddings=tied,
        )  # fmt: skip
        with torch.device("meta"):
            model = ChatGLMForConditionalGeneration(config)
        shape = shape_of(config)
        linear = {name: module for name, module in model.named_modules() if is_linear_layer(name)}
        assert len(linear) == 3 * len(LINEAR_LAYERS)
        for name, module in linear.items():
            wanted = shape.linear_shapes[name.rpartition(".")[2]]
            assert (module.in_features, module.out_features) == wanted
        assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
        assert shape.linear_parameters == sum(module.weight.numel() for module in linear.values())
        assert shape.tied is tied and not shape.quantized
