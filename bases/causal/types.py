"""Which models of transformers are of this family, by `model_type`. Nothing here loads torch."""

from __future__ import annotations

# Those that the tests run with random weights, whole, packed, cached. (gemma3 is the text half of a model
# that also sees.)
MODEL_TYPES = (
    *("qwen2", "qwen3", "llama", "mistral", "ministral", "gemma", "gemma3", "gemma3_text"),
    *("glm", "glm4", "internlm3", "phi3", "smollm3", "olmo2", "olmo3", "seed_oss", "exaone4"),
    *("hunyuan_v1_dense", "ernie4_5"),
)
# Their forward passes take a mask for each type of layer.
MASK_BY_LAYER = {"qwen2", "qwen3", "gemma3_text", "ministral", "smollm3", "olmo3", "exaone4"}
