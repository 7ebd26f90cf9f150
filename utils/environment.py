"""What training needs of a machine: installed packages, memory, disk; and whether it has them."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

# Above this many parameters a run on the CPU is more likely a missing driver than a wish.
CPU_PARAMETER_LIMIT = 1_000_000_000
NF4_BYTES = 0.516  # per weight: 4 bits, and the doubly quantised scale of each block of 64
LORA_BYTES = 16  # per adapter weight in fp32: itself, its gradient, Adam's two moments
# Values per token, layer and hidden unit that the backward pass keeps: in half precision and without
# checkpointing about 1 GB per 384 tokens of a 28 x 4096 model.
ACTIVATION_VALUES = 13
LOGITS_BYTES = 10  # per labelled position and piece: logits, their fp32 copy, the gradient
RUNTIME_BYTES = 1_000_000_000  # CUDA context and kernels; on the CPU the libraries themselves


class Requirement(NamedTuple):
    """A package as requirements.txt wants it and as it is installed (None: it isn't)."""

    name: str
    wanted: str
    installed: str | None
    satisfied: bool


class ModelShape(NamedTuple):
    """The sizes of a ChatGLM that decide how much memory it takes."""

    num_layers: int
    hidden_size: int
    inner_hidden_size: int
    vocab_size: int

    @property
    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """(in, out) of each linear layer of a block."""
        hidden, inner = self.hidden_size, self.inner_hidden_size
        return {
            "query_key_value": (hidden, 3 * hidden),
            "dense": (hidden, hidden),
            "dense_h_to_4h": (hidden, inner),
            "dense_4h_to_h": (inner, hidden),
        }

    @property
    def linear_parameters(self) -> int:
        """Weights of all blocks' linear layers."""
        return self.num_layers * sum(rows * columns for rows, columns in self.linear_shapes.values())

    @property
    def parameters(self) -> int:
        """All weights but for norms and biases, the tied embedding counted once."""
        return self.linear_parameters + self.vocab_size * self.hidden_size


def lora_parameters(shape: ModelShape, rank: int, target_modules: Iterable[str]) -> int:
    """Count the weights that LoRA adds to a ChatGLM."""
    names = {module.rpartition(".")[2] for module in target_modules}
    sizes = (sum(size) for name, size in shape.linear_shapes.items() if name in names)
    return shape.num_layers * rank * sum(sizes)


def estimate_training_memory(
    shape: ModelShape,
    *,
    lora_weights: int,
    load_in_4bit: bool,
    value_bytes: int,
    gradient_checkpointing: bool,
    batch_size: int,
    eval_batch_size: int,
    source_len: int,
    target_len: int,
) -> dict[str, int]:
    """Estimate the peak memory of training on one device.

    Args:
        shape: of the base model.
        lora_weights: see `lora_parameters`.
        load_in_4bit: NF4 for the blocks' linear layers.
        value_bytes: bytes of one other weight or activation: 2 in half precision, else 4.
        gradient_checkpointing: keep one tensor per layer and recompute the rest.
        batch_size, eval_batch_size: sequences of a training pass, and of a batch of generation.
        source_len, target_len: length limits in tokens.

    Returns:
        Bytes by Chinese name of the part, to be added up.
    """
    tokens = batch_size * (source_len + target_len)
    width = value_bytes * shape.hidden_size  # bytes of one token's hidden state
    kept_per_layer = ACTIVATION_VALUES * width * tokens
    if gradient_checkpointing:
        activations = width * tokens * shape.num_layers + 2 * kept_per_layer
    else:
        activations = kept_per_layer * shape.num_layers
    logits = LOGITS_BYTES * batch_size * target_len * shape.vocab_size
    largest_layer = value_bytes * max(rows * columns for rows, columns in shape.linear_shapes.values())
    # Keys and values of every layer, while answers are generated.
    generation = 2 * width * shape.num_layers * eval_batch_size * (source_len + target_len)
    linear_bytes = NF4_BYTES if load_in_4bit else value_bytes
    return {
        "权重": int(linear_bytes * shape.linear_parameters) + width * shape.vocab_size,
        "LoRA 与优化器": LORA_BYTES * lora_weights,
        "激活或生成缓存": max(activations + logits + 2 * largest_layer, generation),
        "运行库": RUNTIME_BYTES,
    }


def estimate_output_bytes(lora_weights: int, save_total_limit: int) -> int:
    """Estimate what a run writes: checkpoints with optimiser state, one more while rotating, best, logs."""
    checkpoint = (LORA_BYTES - 4) * lora_weights  # all but the gradients
    return checkpoint * (save_total_limit + 1) + 4 * lora_weights + 50_000_000


def read_requirements(path: str | Path) -> list[Requirement]:
    """Compare a requirements file with what is installed; lines for other platforms are left out.

    Raises:
        ImportError: the package `packaging` itself is missing.
    """
    from packaging.requirements import Requirement as Parsed

    requirements = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if not text or text.startswith("-"):
            continue
        parsed = Parsed(text)
        if parsed.marker and not parsed.marker.evaluate():
            continue
        try:
            installed = metadata.version(parsed.name)
        except metadata.PackageNotFoundError:
            installed = None
        satisfied = installed is not None and parsed.specifier.contains(installed, prereleases=True)
        requirements.append(Requirement(parsed.name, str(parsed.specifier), installed, satisfied))
    return requirements


def nearest_directory(path: str | Path) -> Path:
    """The path itself or its nearest ancestor that exists (which may be no directory)."""
    path = Path(path).absolute()
    return next(candidate for candidate in (path, *path.parents) if candidate.exists())


def is_writable_directory(path: str | Path) -> bool:
    """Tell whether files can be made in a directory, by making one that vanishes at once."""
    try:
        with tempfile.TemporaryFile(dir=path):
            return True
    except OSError:
        return False


def is_whole_weight_file(path: Path) -> bool:
    """Tell whether a weight file has its end: the length its header gives, or a zip archive's directory.

    (Pickles of torch < 1.6 tell no length; they are taken to be whole.)
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt"):
                return True
        except SafetensorError:
            return False
    with path.open("rb") as file:
        is_old_pickle = file.read(1) == b"\x80"
    return is_old_pickle or zipfile.is_zipfile(path)
