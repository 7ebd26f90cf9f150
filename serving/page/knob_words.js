// What the knobs of a training are, in English; in Chinese the service says it, from glm_config.py.

export const SECTIONS = {
  "模型配置": "Model",
  "数据配置": "Data",
  "关系写进提示词 - 用来抽取没有训练过的关系": "Predicates in the prompt, to extract ones that were not trained",
  "训练配置 - 20GB显存优化": "Training, made for 20 GB of GPU memory",
  "序列长度配置 - 显存优化": "Lengths of sequences",
  "LoRA配置": "LoRA",
  "显存优化": "Memory",
  "评估配置": "Evaluation",
  "日志与保存": "Log and checkpoints",
};

export const KNOBS = {
  pre_model: "the base model: a local folder, or the name of a model in this machine's cache",
  load_in_4bit: "load in 4-bit NF4 (QLoRA); half precision when off",
  load_in_8bit: "load in 8-bit integers: closer than 4-bit, twice the size; not together with load_in_4bit",
  device: "cuda, cuda:1 or cpu; empty: chosen by itself",
  train_path: "the training set, JSONL",
  dev_path: "the dev set, JSONL; none: a part of the training set",
  dev_ratio: "the part of the training set that is dev where there is no dev set (the bundled one is not used for data of your own)",
  strict_data: "end at a bad line; else it is left out and counted",
  dataloader_num_workers: "processes that load data; 0: the main one does",
  schema_prompt: "the prompt names the predicates that are wanted and the answer keeps to them: others than those trained can be asked for later",
  relations_per_prompt: "predicates of a prompt at most, more are split over several (with schema_prompt)",
  negative_ratio: "for each predicate of a sentence, so many are asked for that it does not have, likely mistakes first (with schema_prompt)",
  schema_path: "what the predicates mean: a schema file, with descriptions perhaps (with schema_prompt)",
  batch_size: "samples of a pass",
  gradient_accumulation_steps: "passes of a step: samples of a step = batch size × passes",
  epochs: "times through the training set",
  max_steps: "updates after which it ends; 0: no limit",
  learning_rate: "the highest learning rate",
  warmup_ratio: "the part of all steps that warm up; then a cosine goes down",
  weight_decay: "weight decay",
  label_smoothing: "label smoothing: the share of each target token that is spread evenly over the vocabulary; 0: none",
  max_grad_norm: "the norm at which gradients are clipped; 0: never",
  max_nonfinite_steps: "steps in a row without finite gradients after which it ends (a single one is left out)",
  seed: "of all random numbers",
  max_source_seq_len: "tokens of a prompt at most, [gMASK] <sop> included",
  max_target_seq_len: "tokens of an answer at most, <eop> included",
  lora_rank: "the rank of LoRA",
  lora_alpha: "the alpha of LoRA: what it adds is scaled by alpha / rank",
  lora_dropout: "the dropout of LoRA",
  lora_target_modules: "modules with LoRA; auto: query_key_value for ChatGLM-6B, all linear layers for other models",
  fp16: "mixed precision in FP16 (on a CPU BF16 or FP32 instead)",
  bf16: "mixed precision in BF16; not together with fp16",
  gradient_checkpointing: "compute activations twice to save memory; auto: only where it is short",
  vram_budget_gb: "GB of GPU memory (on a CPU: of memory) that may be used; less if less is free",
  eval_steps: "steps between evaluations; 0: only at the end of each epoch",
  eval_batch_size: "samples that are evaluated together; auto: by the memory plan on a GPU, 8 on a CPU",
  eval_samples: "dev samples that are answered in each evaluation (all of them at the end)",
  best_metric: "by what the best model is chosen: triplet_f1 or dev_loss",
  early_stopping_patience: "evaluations without a better one after which it ends; 0: never",
  init_adapter: "the adapter whose weights a new training on new data begins with",
  save_freq: "steps between checkpoints (at the end, at a stop and at a failure there is always one); 0: none between",
  save_total_limit: "checkpoints that are kept",
  logging_steps: "steps between lines of the log",
  tensorboard: "write curves for TensorBoard",
};

// The bounds of a number, in short.
export function rangeOf({kind, at_least: least, above, at_most: most, below}) {
  const bounds = [least !== undefined && `≥ ${least}`, above !== undefined && `> ${above}`, most !== undefined && `≤ ${most}`, below !== undefined && `< ${below}`];
  return `${kind === "int" ? "integer" : "number"} ${bounds.filter(Boolean).join(", ")}`.trim();
}
