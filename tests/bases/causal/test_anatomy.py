"""The measures of causal models: those of the model itself, and of what autograd really keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft.helpers import disable_input_dtype_casting

from bases import find_family
from bases.adapter import attach_lora
from bases.causal.anatomy import shape_of
from bases.causal.configuration import read_config
from bases.causal.modeling import empty_model
from data_handle.data_preprocess import Features
from data_handle.packing import pack
from tests.helpers.causal_bases import config_of, make_base
from training.memory_plan import TrainingSettings, layer_bytes_per_token, lora_parameters

SETTINGS = TrainingSettings(
    lora_rank=4, lora_target_modules=("auto",), lora_dropout=0.0, load_in_4bit=False, half=True,
    on_cuda=False, samples_per_step=8, max_sample_tokens=384, max_target_tokens=128, eval_batch_size=8,
)  # fmt: skip
WIDE = {"hidden_size": 128, "intermediate_size": 320, "head_dim": 32, "num_hidden_layers": 4}


@pytest.mark.parametrize("model_type", ["qwen3", "llama", "gemma3_text", "glm4", "phi3", "mistral"])
def test_weights_are_counted(model_type: str) -> None:
    content = config_of(model_type).to_dict()
    config = read_config({name: value for name, value in content.items() if value is not None})
    model = empty_model(config)
    shape = shape_of(config)
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    names = {name.rpartition(".")[2] for name in shape.targets(["auto"])}
    assert names == set(shape.linear_shapes) and "lm_head" not in names
    lora = attach_lora(model, rank=4, alpha=8, dropout=0.0, target_modules=["auto"])
    assert lora_parameters(shape, 4, ["auto"]) == lora.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("model_type", ["qwen3", "gemma3_text", "glm4", "phi3"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("half", [True, False])
def test_the_predicted_activations_are_those_that_autograd_keeps(
    tmp_path: Path, model_type: str, half: bool, dropout: float
) -> None:
    further = {"layer_types": ["full_attention"] * 4} if model_type == "gemma3_text" else {}
    directory = make_base(tmp_path, model_type, **WIDE, **further)
    dtype = torch.bfloat16 if half else torch.float32
    base, _ = find_family(directory).load(directory, load_in_4bit=False, dtype=dtype, device="cpu")
    model = attach_lora(base, rank=4, alpha=8, dropout=dropout, target_modules=["auto"]).train()
    ids = torch.randint(3, 1500, (256,)).tolist()
    batch = pack([[Features(ids, [-100] * len(ids))]], len(ids), base.config)
    known = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage
        return tensor

    casts = disable_input_dtype_casting(model, active=half)  # as in training
    watching = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with casts, torch.autocast("cpu", torch.bfloat16, enabled=half), watching:
        loss = model(**batch).loss
    assert loss.requires_grad
    measured = sum(storage.nbytes() for storage in kept.values())
    shape = shape_of(base.config)
    settings = SETTINGS._replace(half=half, lora_dropout=dropout)
    predicted = 4 * len(ids) * layer_bytes_per_token(shape, settings)
    predicted += settings.value_bytes * len(ids) ** 2  # the mask, once for all layers
    assert measured == pytest.approx(predicted, rel=0.05)
