"""The adapter directory: LoRA weights, and what has to agree when they are used again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bases import family_of
from bases.fsdp import split_like
from task.prompt import PROMPT_TEMPLATE
from utils.common_utils import UserError
from utils.directories import MANIFEST_FILE, find_damage

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

CONFIG_FILE, SCHEMA_FILE, META_FILE = "project_config.json", "schema.json", "adapter_meta.json"
LORA_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
# Fields of peft's config: what gives LoRA its shape; what is a note only, of no effect here.
_LORA_SHAPE = ("peft_type", "r", "lora_alpha", "lora_dropout", "target_modules")
_LORA_NOTES = ("base_model_name_or_path", "revision", "peft_version", "task_type", "inference_mode")
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class AdapterMeta:
    """What an adapter was trained for and on.

    Args:
        base_fingerprint: identifies the base model's weights (`model.base_fingerprint`).
        pre_model: where they were, for messages.
        max_source_seq_len, max_target_seq_len: lengths in tokens.
        prompt_template: wording of the prompt.
        metrics: of the evaluation that made it the best.
        versions: of the libraries that wrote it.
        half_right_score: the score below which a triplet is rather wrong than right, measured on dev when
            training ended; None if that is not known.
    """

    base_fingerprint: str
    pre_model: str
    max_source_seq_len: int
    max_target_seq_len: int
    prompt_template: str = PROMPT_TEMPLATE
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    half_right_score: float | None = None
    format_version: int = FORMAT_VERSION


def attach_lora(
    model: torch.nn.Module, *, rank: int, alpha: int, dropout: float, target_modules: list[str]
) -> PeftModel:
    """Freeze a base model and put trainable LoRA layers (fp32) beside its linear layers of these names.

    Raises:
        UserError: one of the names is none of a linear layer of the blocks.
    """
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(
        task_type="CAUSAL_LM", r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=target_modules
    )
    layers = family_of(model.config).shape(model.config).linear_shapes
    unknown = [
        name
        for name in target_modules
        if name.rpartition(".")[2] not in layers or not _has_layer(model, name)
    ]
    if unknown:
        raise UserError(
            f"lora_target_modules 里的 {'、'.join(unknown)} 不是模型各层的线性层，"
            f"可用的是 {'、'.join(layers)}。"
        )
    return get_peft_model(model, lora)


def _has_layer(model: torch.nn.Module, name: str) -> bool:
    return any(module == name or module.endswith(f".{name}") for module, _ in model.named_modules())


def load_adapter_weights(model: PeftModel, directory: Path) -> None:
    """Read an adapter's weights into the LoRA layers that a model already has.

    Raises:
        UserError: the file is damaged, holds numbers that are not finite, or its shapes are others.
    """
    from peft import set_peft_model_state_dict

    weights = _read_weights(directory)
    broken = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if broken:
        raise UserError(f"适配器 {directory} 的权重里有 NaN 或无穷大（例如 {broken[0]}），不能使用。")
    ours = {name: parameter for name, parameter in model.named_parameters() if "lora_" in name}
    named = {name.replace(f".{model.active_adapter}.", "."): parameter for name, parameter in ours.items()}
    weights = {name: split_like(tensor, named.get(name, tensor)) for name, tensor in weights.items()}
    try:
        result = set_peft_model_state_dict(model, weights)
    except RuntimeError as error:  # torch's, listing every shape that differs
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"适配器 {directory} 的权重形状与当前的 LoRA 参数不符：{reason}") from error
    wrong = [*(key for key in result.missing_keys if "lora_" in key), *result.unexpected_keys]
    if wrong:
        raise UserError(f"适配器 {directory} 的权重与当前的 LoRA 模块不符（例如 {wrong[0]}）。")


def _read_weights(directory: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(directory / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise UserError(f"适配器 {directory} 的 {WEIGHTS_FILE} 读不出来，文件缺失或已损坏。") from error


def write_adapter_files(
    model: PeftModel, directory: Path, meta: AdapterMeta, config: dict[str, Any], schema: dict[str, Any]
) -> None:
    """Write an adapter's files into an existing directory (without the base model's embedding)."""
    # Given by name, because `state_dict()` of a model that FSDP splits has only this process's share.
    weights = {name: parameter for name, parameter in model.named_parameters() if "lora_" in name}
    model.save_pretrained(str(directory), state_dict=weights, save_embedding_layers=False)
    (directory / "README.md").unlink(missing_ok=True)  # peft's model card, full of blanks to fill in
    contents = {CONFIG_FILE: config, SCHEMA_FILE: schema, META_FILE: dataclasses.asdict(meta)}
    for name, content in contents.items():
        text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
        (directory / name).write_text(text, encoding="utf-8")


def read_adapter_json(directory: Path, name: str) -> dict[str, Any]:
    """Read one of an adapter's JSON files.

    Raises:
        UserError: there is no such adapter, or the file is damaged.
    """
    if not (directory / LORA_FILE).is_file():
        raise UserError(
            f"找不到适配器 {directory}（缺 {LORA_FILE}），请先运行 python train.py，或用 --adapter 指定目录。"
        )
    try:
        content = json.loads((directory / name).read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("不是 JSON 对象")
        return content
    except FileNotFoundError as error:
        raise UserError(f"适配器 {directory} 缺少 {name}，它不是由本项目保存的，或没有拷贝完整。") from error
    except (OSError, ValueError) as error:
        raise UserError(f"适配器 {directory} 的 {name} 读不出来，文件可能已损坏：{error}") from error


def load_adapter_meta(directory: str | Path) -> AdapterMeta:
    """Read what an adapter was trained for.

    Raises:
        UserError: there is no adapter, its files are damaged, or another version wrote them.
    """
    values = read_adapter_json(Path(directory), META_FILE)
    if values.get("format_version") != FORMAT_VERSION:
        raise UserError(f"适配器 {directory} 的格式版本不是 {FORMAT_VERSION}，请用当前版本重新训练。")
    try:
        return AdapterMeta(**values)
    except TypeError as error:
        raise UserError(f"适配器 {directory} 的 {META_FILE} 字段不对，文件可能已损坏。") from error


def load_adapter(model: torch.nn.Module, directory: str | Path) -> PeftModel:
    """Attach a trained adapter to a base model.

    Of `adapter_config.json` only the shape of plain LoRA is used: it can name neither code nor another base.

    Args:
        model: as `bases.chatglm.load_base_model` returns it.
        directory: an adapter directory.

    Returns:
        The model with the adapter, in evaluation mode.

    Raises:
        UserError: the adapter belongs to another base model or to another prompt, is damaged, does not fit,
            or is no plain LoRA.
    """
    directory = Path(directory)
    meta = load_adapter_meta(directory)
    if meta.prompt_template != PROMPT_TEMPLATE:
        raise UserError(f"适配器 {directory} 是用另一种提示词模板训练的，与当前版本不一致，请重新训练。")
    if meta.base_fingerprint != model.base_fingerprint:
        raise UserError(
            f"适配器 {directory} 是在另一个基座模型（{meta.pre_model}）上训练的，与现在加载的权重不同，"
            "请用 --pre_model 指定当时的基座。"
        )
    if (directory / MANIFEST_FILE).exists() and (damage := find_damage(directory, (WEIGHTS_FILE,))):
        raise UserError(f"适配器 {directory} 已损坏（{damage}），请重新拷贝或重新训练。")
    shape = _read_lora_shape(directory)
    peft_model = attach_lora(model, dropout=0.0, **shape)
    load_adapter_weights(peft_model, directory)
    return peft_model.eval()


def _read_lora_shape(directory: Path) -> dict[str, Any]:
    """Read rank, alpha and target modules; whatever else peft's config can express has to be at its default.

    Raises:
        UserError: the config is no plain LoRA, or speaks of another rank than the weights have.
    """
    from peft import LoraConfig

    config = read_adapter_json(directory, LORA_FILE)
    shape = {
        "rank": config.get("r"),
        "alpha": config.get("lora_alpha"),
        "target_modules": config.get("target_modules"),
    }
    names = shape["target_modules"]
    sound = (
        config.get("peft_type") == "LORA"
        and type(shape["rank"]) is int
        and type(shape["alpha"]) in (int, float)
        and isinstance(names, list)
        and all(isinstance(name, str) for name in names)
    )
    if not sound:
        raise UserError(
            f"适配器 {directory} 的 {LORA_FILE} 不是 LoRA 的配置，或缺少 r、lora_alpha、target_modules。"
        )
    default = LoraConfig().to_dict()
    changed = [
        name
        for name, value in config.items()
        if name not in _LORA_SHAPE and name not in _LORA_NOTES and value and value != default.get(name)
    ]
    if changed:
        raise UserError(
            f"适配器 {directory} 的 {LORA_FILE} 用了本项目不支持的设置：{'、'.join(sorted(changed))}。"
        )
    ranks = {tensor.shape[0] for name, tensor in _read_weights(directory).items() if "lora_A" in name}
    if ranks != {shape["rank"]}:
        raise UserError(f"适配器 {directory} 的权重与 {LORA_FILE} 不符：r 写的是 {shape['rank']}。")
    return shape
