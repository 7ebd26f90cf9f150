"""An optimiser step as Hugging Face's own tools take it, on the same weights and samples: padded batches.

It is what Trainer and TRL's SFTTrainer do by their defaults with PEFT: transformers' model as it comes, the
samples of a step in one batch, padded to the longest, every layer checkpointed, the model's own loss over
the logits of all positions.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from data_handle.data_preprocess import IGNORE_INDEX, Features
from glm_config import ProjectConfig
from utils.device import compute_dtype


class HuggingFacePath:
    """transformers and PEFT."""

    def __init__(self, config: ProjectConfig, target_modules: list[str]) -> None:
        self.device = torch.device(config.device or "cpu")
        self.dtype = compute_dtype(self.device, fp16=config.fp16, bf16=config.bf16)
        further: dict[str, Any] = {}
        if config.load_in_4bit:
            further["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=self.dtype,
            )
        base = AutoModelForCausalLM.from_pretrained(
            config.pre_model, dtype=self.dtype, device_map={"": self.device}, **further
        )
        base.activation_checkpointing_enable({"use_reentrant": False})
        lora = LoraConfig(
            task_type="CAUSAL_LM",
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules=target_modules,
        )
        self.model = get_peft_model(base, lora).train()
        trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trainable, lr=config.learning_rate)
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=self.dtype == torch.float16 and self.device.type == "cuda"
        )

    def step(self, samples: list[Features]) -> None:
        """Take an optimiser step, all samples in one padded batch."""
        shape = (len(samples), max(len(sample.input_ids) for sample in samples))
        input_ids = torch.zeros(shape, dtype=torch.int64)
        attention_mask, labels = torch.zeros_like(input_ids), torch.full(shape, IGNORE_INDEX)
        for row, sample in enumerate(samples):
            place = slice(0, len(sample.input_ids))
            input_ids[row, place] = torch.tensor(sample.input_ids)
            labels[row, place] = torch.tensor(sample.labels)
            attention_mask[row, place] = 1
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype.itemsize == 2):
            loss = self.model(**batch, use_cache=False).loss
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
