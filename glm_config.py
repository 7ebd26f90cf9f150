"""ProjectConfig: every knob of the project, with its default, its meaning and what it may be set to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from utils.command_line import closest_name
from utils.common_utils import UserError, find_bundled
from utils.knobs import Rule, show_value

EVAL_ROWS = 8  # sentences answered together on a CPU, and what a card should have memory for
MAX_POSITIONS = 2048  # of the published model (config.json, max_sequence_length)


class ProjectConfig(object):
    """The knobs, as plain attributes: edit the values below, or set one on the command line of train.py."""

    def __init__(self) -> None:
        # 模型配置
        self.pre_model = "THUDM/chatglm-6b"  # 预训练模型：本地目录，或本机缓存中的模型名
        self.load_in_4bit = True  # 以 4-bit NF4 加载（QLoRA）；关闭后按半精度加载
        self.load_in_8bit = False  # 以 8-bit 整数加载：比 4-bit 准，大一倍；不能与 load_in_4bit 同开
        self.device: str | None = None  # 运行设备：cuda、cuda:1 或 cpu；none（在本文件里写 None）为自动选择

        # 数据配置
        self.train_path = "data/mixed_train_dataset.jsonl"  # 训练集，JSONL 格式
        self.dev_path = "data/mixed_dev_dataset.jsonl"  # 验证集，JSONL 格式；留空为从训练集分出
        self.dev_ratio = 0.1  # 没有验证集时从训练集分出的比例（自己的训练集不会用内置的验证集）
        self.strict_data = False  # 遇到坏行就停止；关闭时跳过坏行并报告行数
        self.dataloader_num_workers = 0  # 数据加载的工作进程数，0 为在主进程中加载
        self.token_cache_dir = "output/token_cache"  # 分词结果的缓存目录，留空为不缓存

        # 关系写进提示词 - 用来抽取没有训练过的关系
        self.schema_prompt = False  # 提示词写明要抽哪些关系，模型只答这些；抽取时可以换成没训练过的
        self.relations_per_prompt = 8  # 一条提示词至多写几种关系，多的分成几条（要开 schema_prompt）
        self.negative_ratio = 4.0  # 句子里有一种关系，就另问几种它没有的，易混的优先（要开 schema_prompt）
        self.schema_path: str | None = None  # 关系的说明：schema 文件，可带 description（要开 schema_prompt）

        # 训练配置 - 20GB显存优化
        self.batch_size = 1  # 批次大小
        self.gradient_accumulation_steps = 8  # 梯度累积步数，等效批次 = 批次大小 × 累积步数
        self.epochs = 3  # 训练轮数
        self.max_steps = 0  # 参数更新多少步后停止，0 为不限制
        self.learning_rate = 2e-4  # 学习率的峰值
        self.warmup_ratio = 0.05  # 预热步数占总步数的比例，之后按余弦下降
        self.weight_decay = 0.0  # 权重衰减
        self.label_smoothing = 0.0  # 标签平滑：每个目标 token 的概率有多少均分给整个词表，0 为不用
        self.max_grad_norm = 1.0  # 梯度裁剪的范数上限，0 为不裁剪
        self.max_nonfinite_steps = 20  # 连续多少步梯度不是有限数就停止（单独的一步会跳过）
        self.seed = 42  # 随机种子

        # 序列长度配置 - 显存优化
        self.max_source_seq_len = 256  # 输入序列长度（token 数，含 [gMASK] <sop>）
        self.max_target_seq_len = 128  # 输出序列长度（token 数，含 <eop>）

        # LoRA配置
        self.lora_rank = 8  # LoRA 的秩（rank）
        self.lora_alpha = 32  # LoRA 的 alpha，缩放系数 = alpha / rank
        self.lora_dropout = 0.05  # LoRA 层的 dropout
        self.lora_target_modules = [
            "auto"
        ]  # 加 LoRA 的模块名；auto：ChatGLM-6B 是 query_key_value，其他模型是全部线性层

        # 显存优化
        self.fp16 = True  # FP16 混合精度训练（在 CPU 上自动改用 BF16 或 FP32）
        self.bf16 = False  # BF16 混合精度训练，不能与 fp16 同时开启
        self.gradient_checkpointing: bool | str = "auto"  # 梯度检查点，auto：显存不够才用
        self.vram_budget_gb = 20.0  # 显存（CPU 上为内存）预算，单位 GB，实际取它与空闲显存中较小的

        # 评估配置
        self.eval_steps = 100  # 每多少步评估一次（每轮结束时总会评估），0 为只在每轮结束时评估
        self.eval_batch_size: int | str = "auto"  # 评估与生成时的批次大小，auto：GPU 上按显存计划，CPU 上是 8
        self.eval_samples = 200  # 训练中每次评估用多少条验证数据生成三元组（结束时用全部）
        self.best_metric = "triplet_f1"  # 挑选最佳模型的指标：triplet_f1 或 dev_loss
        self.early_stopping_patience = 0  # 连续多少次评估没有变好就提前停止，0 为不提前停止

        # 日志与保存
        self.save_dir = "output/chatglm-6b-triplet-qlora"  # 输出目录
        self.overwrite_output_dir = False  # 输出目录里已有训练结果时，清掉重来
        self.resume_from_checkpoint: str | None = None  # 从哪个检查点继续：目录或 auto（最新的，没有就从头）
        self.init_adapter: str | None = None  # 以哪个适配器的权重为起点，用新数据开始一次新的训练
        self.save_freq = 100  # 每多少步保存一个检查点（结束、中断和出错时总会保存），0 为不定期保存
        self.save_total_limit = 3  # 最多保留几个检查点
        self.logging_steps = 10  # 每多少步输出一行日志
        self.tensorboard = True  # 写 TensorBoard 训练曲线

    @property
    def eval_rows(self) -> int | None:
        """The number that eval_batch_size says; None for auto."""
        return None if isinstance(self.eval_batch_size, str) else self.eval_batch_size

    @staticmethod
    def rules() -> Mapping[str, Rule]:
        """What each knob may be set to, by name."""
        return _RULES

    def to_dict(self) -> dict[str, Any]:
        """All knobs as plain JSON values, in the order of the class."""
        return {name: list(value) if isinstance(value, list) else value for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ProjectConfig:
        """Build a config from saved knobs; those not mentioned keep their defaults.

        Raises:
            UserError: an unknown name, or a value that `validate` refuses.
        """
        config = cls()
        vars(config).update(values)
        config.validate()
        return config

    def find_bundled_files(self) -> None:
        """Let paths of what comes with the project mean that, from any folder; see `find_bundled`."""
        for name in ("pre_model", "train_path", "dev_path", "schema_path"):
            path = getattr(self, name, None)
            if isinstance(path, str):
                setattr(self, name, find_bundled(path))

    def problems(self) -> list[str]:
        """Every problem of the knobs and their combinations, one Chinese line each, naming its knob."""
        return _problems(vars(self))

    def validate(self) -> None:
        """Check every knob and their combinations.

        Raises:
            UserError: all problems at once, one line each, every line naming its knob.
        """
        problems = self.problems()
        if len(problems) == 1:
            raise UserError(f"配置有误：{problems[0]}")
        if problems:
            raise UserError(
                f"配置有 {len(problems)} 处错误：\n" + "\n".join(f"  - {line}" for line in problems)
            )


# 每个参数的类型与取值范围；默认值和说明只写在上面的类里
_RULES = {
    "pre_model": Rule(str),
    "load_in_4bit": Rule(bool),
    "load_in_8bit": Rule(bool),
    "device": Rule(str, optional=True, pattern=r"cpu|cuda(:\d+)?", example="cuda、cuda:0 或 cpu"),
    "train_path": Rule(str),
    "dev_path": Rule(str, pattern=r"(?s)(.*\S.*)?", example="文件名（字符串），或留空"),
    "dev_ratio": Rule(float, above=0, below=1),
    "strict_data": Rule(bool),
    "dataloader_num_workers": Rule(int, at_least=0, at_most=256),
    "token_cache_dir": Rule(str, pattern=r"(?s)(.*\S.*)?", example="目录名（字符串），或留空"),
    "schema_prompt": Rule(bool),
    "relations_per_prompt": Rule(int, at_least=1, at_most=1000),
    "negative_ratio": Rule(float, at_least=0, at_most=100),
    "schema_path": Rule(str, optional=True),
    "batch_size": Rule(int, at_least=1),
    "gradient_accumulation_steps": Rule(int, at_least=1),
    "epochs": Rule(int, at_least=1),
    "max_steps": Rule(int, at_least=-1),
    "learning_rate": Rule(float, above=0, at_most=1),
    "warmup_ratio": Rule(float, at_least=0, below=1),
    "weight_decay": Rule(float, at_least=0, at_most=1),
    "label_smoothing": Rule(float, at_least=0, below=1),
    "max_grad_norm": Rule(float, at_least=0),
    "max_nonfinite_steps": Rule(int, at_least=1),
    "seed": Rule(int, at_least=0, below=2**32),
    "max_source_seq_len": Rule(int, at_least=3, at_most=MAX_POSITIONS),
    "max_target_seq_len": Rule(int, at_least=2, at_most=MAX_POSITIONS),
    "lora_rank": Rule(int, at_least=1),
    "lora_alpha": Rule(int, at_least=1),
    "lora_dropout": Rule(float, at_least=0, below=1),
    "lora_target_modules": Rule(list),
    "fp16": Rule(bool),
    "bf16": Rule(bool),
    "gradient_checkpointing": Rule(bool, word="auto"),
    "vram_budget_gb": Rule(float, above=0, at_most=1_000_000),
    "eval_steps": Rule(int, at_least=0),
    "eval_batch_size": Rule(int, at_least=1, word="auto"),
    "eval_samples": Rule(int, at_least=0),
    "best_metric": Rule(str, pattern="triplet_f1|dev_loss", example="triplet_f1 或 dev_loss"),
    "early_stopping_patience": Rule(int, at_least=0),
    "save_dir": Rule(str),
    "overwrite_output_dir": Rule(bool),
    "resume_from_checkpoint": Rule(str, optional=True),
    "init_adapter": Rule(str, optional=True),
    "save_freq": Rule(int, at_least=0),
    "save_total_limit": Rule(int, at_least=1),
    "logging_steps": Rule(int, at_least=1),
    "tensorboard": Rule(bool),
}


def _problems(values: Mapping[str, Any]) -> list[str]:
    """Every problem of a set of knobs, one Chinese line each."""
    problems = []
    for name in values:
        if name not in _RULES:
            hint = closest_name(name, _RULES)
            problems.append(
                f"没有名为 {name[:60]} 的参数" + (f"，是不是想写 {hint}？" if hint else "，请删去它。")
            )
    sound = dict(values)
    for name, rule in _RULES.items():
        if name not in values:
            problems.append(f"缺少参数 {name}，请在 glm_config.py 中补上 self.{name} = …。")
        elif not rule.accepts(values[name]):
            problems.append(f"{name} 应当是{rule.describe()}，现在是 {show_value(values[name])}。")
        else:
            continue
        sound.pop(name, None)
    return problems + _impossible_combinations(sound)


def _impossible_combinations(sound: Mapping[str, Any]) -> list[str]:
    """Problems between knobs that are each sound by themselves (others are left out of `sound`)."""
    problems = []
    if sound.get("fp16") and sound.get("bf16"):
        problems.append("fp16 与 bf16 不能同时开启，请关闭其中一个（如 --fp16 false）。")
    if sound.get("load_in_4bit") and sound.get("load_in_8bit"):
        problems.append(
            "load_in_4bit 与 load_in_8bit 不能同时开启，请关闭其中一个（如 --load_in_4bit false）。"
        )
    lengths = sound.get("max_source_seq_len", 0), sound.get("max_target_seq_len", 0)
    if sum(lengths) > MAX_POSITIONS:
        problems.append(
            f"max_source_seq_len 与 max_target_seq_len 之和是 {lengths[0]} + {lengths[1]} = {sum(lengths)}，"
            f"超过了模型的 {MAX_POSITIONS} 个位置，请调小。"
        )
    if sound.get("best_metric") == "triplet_f1" and sound.get("eval_samples") == 0:
        problems.append(
            "best_metric 是 triplet_f1 时 eval_samples 不能为 0，否则没有 F1 可比；或改用 dev_loss。"
        )
    if sound.get("schema_path") and sound.get("schema_prompt") is False:
        problems.append("schema_path 只有开了 schema_prompt 才用得上，请加上 --schema_prompt，或去掉它。")
    if sound.get("resume_from_checkpoint") and sound.get("overwrite_output_dir"):
        problems.append(
            "resume_from_checkpoint 与 overwrite_output_dir 矛盾：清空目录后就没有检查点可以继续。"
        )
    if sound.get("resume_from_checkpoint") and sound.get("init_adapter"):
        problems.append(
            "resume_from_checkpoint 与 init_adapter 只能给一个：前者接着做没做完的训练，"
            "后者以一个适配器的权重为起点开始新的训练。"
        )
    return problems
