"""What a family of base models answers, so that no other room has to know which one it works with.

A family is known by `model_type` of a directory's config.json; `bases.find_family` and `bases.family_of` find
it. What needs no weights is asked of the tokenizer, which worker processes have without a model.

Dimensions: B rows, S tokens of a row in this pass, K tokens that a query may see, V vocabulary.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from utils.common_utils import UserError

if TYPE_CHECKING:  # the tokenizers' half is used by processes that never load torch
    import torch

# The label of a token that is not to be learnt: the default `ignore_index` of torch's cross-entropy.
IGNORE_INDEX = -100
# What stands for a character that a tokenizer can't write.
UNKNOWN_CHARACTER = "\ufffd"
AUTO = "auto"  # as the one name of LoRA's modules: those that the family chooses
# Rows of logits that are held at a time, in the loss: enough for the product to be worth reading the head's
# weight, and with a small vocabulary no more numbers than fit into a CPU's cache.
MIN_CHUNK_ROWS = 128
CHUNK_LOGITS = 2**20


def chunk_rows(vocab_size: int) -> int:
    """Return how many rows of logits are held at a time."""
    return max(MIN_CHUNK_ROWS, CHUNK_LOGITS // vocab_size)


def softmax_rows(vocab_size: int, on_cuda: bool) -> int:
    """Return how many of them become a gradient at a time: on a CPU those that its cache holds in fp32."""
    return chunk_rows(vocab_size) if on_cuda else max(1, CHUNK_LOGITS // vocab_size)


# Rows have a multiple of so many tokens: few shapes for the kernels, and aligned masks for the attention.
ROW_MULTIPLE = 16


class CheckpointError(UserError):
    """A model directory that is missing, damaged or of no known family; the message is a Chinese sentence."""


class Sample(Protocol):
    """A training sequence: ids, and labels of equal length with `IGNORE_INDEX` where nothing is learnt."""

    @property
    def input_ids(self) -> list[int]: ...

    @property
    def labels(self) -> list[int]: ...


class Unit(NamedTuple):
    """The smallest part of a text that can be pointed at: what `typed[start:end]` has become, as a whole."""

    text: str
    start: int
    end: int


class BaseTokenizer(Protocol):
    """What a family's tokenizer answers.

    Attributes:
        vocab_file: the file that decides its pieces; equal files encode equally.
        pad_token_id, eos_token_id: of padding, and of what ends an answer.
        prompt_frame: what stands around a context and its answer, in words; an adapter records it.
    """

    vocab_file: str
    pad_token_id: int
    eos_token_id: int
    prompt_frame: str

    def __len__(self) -> int:
        """Return the number of ids."""

    def encode_plain(self, text: str) -> list[int]:
        """Return the ids of a user's text: no special ones are added, and none arise from what it says."""

    def prompt_ids(self, context: str) -> list[int]:
        """Return the ids of a context with all that stands around it, up to where the answer begins."""

    def answer_ids(self, text: str) -> list[int]:
        """Return the ids of an answer and of what ends it."""

    def encode_inside(self, text: str) -> list[int]:
        """Return the ids of a text in the middle of another: nothing is put before it."""

    def token_bytes(self, size: int) -> list[bytes | None]:
        """Return what each of `size` ids (V, padding of the vocabulary included) writes in UTF-8.

        None for those that no text becomes; one may write a part of a character.
        """

    def can_write(self, text: str) -> bool:
        """Tell whether a (normalised) text has tokens that say all of it."""

    def normalised_units(self, text: str) -> list[Unit]:
        """Split a text into what the tokenizer makes of each of its characters, or of several together.

        The units' texts, joined, are what the ids decode to; a character that is dropped is part of no unit.
        """


class ModelShape(NamedTuple):
    """What of a model decides how much memory it takes: sizes, and how its weights are stored.

    Attributes:
        num_layers, hidden_size, vocab_size: of the model.
        inner_hidden_size: width between the two sides of an MLP.
        linear_shapes: (in, out) of each linear layer of a block, by the last part of its module name.
        other_parameters: weights in norms and biases, of all blocks and behind them.
        kept_activations: numbers that a block's backward pass keeps of a token, in the type of activations.
        cast_activations: further ones where activations are in half precision.
        kept_fp32: bytes that are kept in fp32 in any case.
        key_value_size: numbers that a block's cache keeps of a token, keys and values together.
        logit_rows: positions whose logits are held at a time, in the loss.
        default_targets: the linear layers that LoRA stands beside unless told otherwise; all if empty.
        input_groups: a number for each linear layer; those with one number have one input. 0: an input that a
            block keeps in any case. Each has its own if empty.
        tied: embedding and head are one matrix.
        quantized: the linear layers are 4-bit on the disk already.
    """

    num_layers: int
    hidden_size: int
    inner_hidden_size: int
    vocab_size: int
    linear_shapes: Mapping[str, tuple[int, int]]
    other_parameters: int
    kept_activations: int
    cast_activations: int
    kept_fp32: int
    key_value_size: int
    logit_rows: int
    default_targets: tuple[str, ...] = ()
    input_groups: Mapping[str, int] = MappingProxyType({})
    tied: bool = True
    quantized: bool = False

    def targets(self, names: Sequence[str]) -> list[str]:
        """Return the modules that LoRA stands beside, for what the user wants: names of them, or `AUTO`."""
        if list(names) != [AUTO]:
            return list(names)
        return list(self.default_targets or self.linear_shapes)

    @property
    def linear_parameters(self) -> int:
        """Weights of all blocks' linear layers, biases aside."""
        return self.num_layers * sum(rows * columns for rows, columns in self.linear_shapes.values())

    @property
    def embedding_parameters(self) -> int:
        """Weights of embedding and head, counted once if tied."""
        return (1 if self.tied else 2) * self.vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        """All weights."""
        return self.linear_parameters + self.embedding_parameters + self.other_parameters


class StoredWeights(Protocol):
    """A directory's weights, one tensor at a time, by the names that they were published under."""

    @property
    def notes(self) -> Mapping[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Type and shape of each tensor, in the order that `read` yields them.

        (What the files hold as whole numbers with scales counts as half precision.)
        """

    def parts(self, name: str) -> list[tuple[str, int, int]]:
        """Return which parameters of the model a tensor holds: the name, and the rows from and up to."""

    def read(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield name and tensor, memory-mapped where the format allows it."""

    def fingerprint(self) -> str:
        """Return what `base_fingerprint` of the loaded model would be."""


class Family(ABC):
    """A family of base models.

    Attributes:
        model_type: as config.json has it.
        takes_flat_passes: in decoding, the model takes the tokens of all rows one after the other ([1, T],
            positions likewise, `logits_to_keep` their indices), so that what is no token costs nothing: its
            attention asks the cache to `spread` the queries to [B, N, S, D] and to `collect` what comes of
            them. The mask is that of `next_inputs` either way.
    """

    model_type: str
    takes_flat_passes: bool = False

    @abstractmethod
    def check_directory(self, model_dir: Path) -> None:
        """Make sure, without reading weights, that `load` will take a directory: its files are there, whole,
        go together, and hold the tensors that they should, by name, type and shape.

        Raises:
            CheckpointError: a file is missing or not what it should be; the message names it and the remedy.
        """

    @abstractmethod
    def load_config(self, model_dir: Path) -> Any:
        """Read a directory's config.

        Raises:
            CheckpointError: it is missing, damaged, or asks for what the family does not do.
        """

    @abstractmethod
    def load_tokenizer(self, model_dir: Path) -> BaseTokenizer:
        """Read a directory's tokenizer.

        Raises:
            CheckpointError: it is missing or damaged.
        """

    @abstractmethod
    def tokenizer_file(self, model_dir: Path) -> Path:
        """Return the file of a directory that decides how text becomes ids."""

    @abstractmethod
    def weight_files(self, model_dir: Path) -> list[Path]:
        """Return the files of a directory that hold its weights.

        Raises:
            CheckpointError: there are none, or one is missing.
        """

    def stored_weights(self, model_dir: Path) -> StoredWeights:
        """Return a directory's weights in half precision or more, to be read without building a model.

        Raises:
            CheckpointError: see `check_directory`; or they are 4-bit with no way back.
        """
        raise CheckpointError(f"{model_dir} 的模型类型还不能这样读取。")

    @abstractmethod
    def load(
        self,
        pre_model: str | os.PathLike[str],
        *,
        load_in_4bit: bool = True,
        load_in_8bit: bool = False,
        quant_storage: torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> tuple[Any, BaseTokenizer]:
        """Read what every command starts from: a model with its head, in evaluation mode, and its tokenizer.

        Args:
            pre_model: a directory of this family, or a hub name whose files are in the local cache.
            load_in_4bit: NF4 with double quantisation for the blocks' linear layers.
            load_in_8bit: 8-bit whole numbers for them instead; not with `load_in_4bit`.
            quant_storage: the type that their packed bytes are declared as (FSDP splits floating ones only);
                torch.uint8 when None.
            dtype: of everything else, and of products; what suits the device when None.
            device: where the model shall live; CUDA where there is one, else the CPU, when None.

        Returns:
            The model, whose `base_fingerprint` identifies its weights, and the tokenizer. The model takes
            what `pack` and `next_inputs` give, `logits_to_keep` as a [B, S] bool mask or as indices [T] of
            its B * S places (waiting for nothing), and a `cache` with `update(key, value, layer)`.

        Raises:
            CheckpointError: the directory is missing, damaged, or of another family; or the tokenizer's
                special ids are not those of the config.
        """

    @abstractmethod
    def shape(self, config: Any) -> ModelShape:
        """Return the sizes that a config of this family stands for."""

    @abstractmethod
    def checkpoint_layers(self, model: Any, every: int) -> None:
        """Let every n-th layer keep only its input in training, and compute itself again going back."""

    @abstractmethod
    def pack(self, rows: Sequence[Sequence[Sample]], row_length: int, config: Any) -> dict[str, torch.Tensor]:
        """Lay several samples out in each row, kept apart, with padding on the right.

        Args:
            rows: the samples of each row; each begins with an unlabelled token, because the label of its
                first would be predicted by the sample before.
            row_length: tokens of a row, S; no fewer than any row's samples have together.
            config: of the model.

        Returns:
            Inputs of the model: `input_ids` and `labels` [B, S] int64, and whatever else makes each sample's
            loss what it is alone: positions from 0 for each, and a mask ([B, 1, S, S] bool, True where a
            query sees a key) that ends at its borders.
        """

    def pack_on(
        self, device: torch.device, rows: Sequence[Sequence[Sample]], row_length: int, config: Any
    ) -> dict[str, torch.Tensor]:
        """Do as `pack`, with the result on a device. (A family may make the mask there.)"""
        return {name: tensor.to(device) for name, tensor in self.pack(rows, row_length, config).items()}

    @abstractmethod
    def next_inputs(
        self, slots: torch.Tensor, prompt_lengths: torch.Tensor, keys: int, config: Any
    ) -> dict[str, torch.Tensor]:
        """Lay out a decoding pass over sequences of unequal length, each with its own place in the cache.

        Nothing here may wait for a device: the host goes on while it computes.

        Args:
            slots: [B, S] int64, the index of each token in its sequence; S is the length of the longest row,
                and what is behind a row's end is padding.
            prompt_lengths: [B] int64, tokens of each prompt, where `slots` are.
            keys: places of the cache that are attended to, K; more than the largest slot of a token.
            config: of the model.

        Returns:
            Inputs of the model beside the ids, where `slots` are: a mask [B, 1, S, K] bool, and positions.
        """
