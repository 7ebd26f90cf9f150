"""ChatGLM-6B's tokenizer: the published SentencePiece model, with its own whitespace and special tokens.

Source: the behaviour of `tokenization_chatglm.py` of THUDM/chatglm-6b under transformers 4.30, recorded in
tests/fixtures and checked by tests/test_parity_tokenizer.py.
"""

from __future__ import annotations

import re
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import sentencepiece
from transformers import PreTrainedTokenizer

from bases.chatglm import text as pieces
from bases.interface import Unit
from utils.directories import real_path

from .tokenizer_file import check_tokenizer_file, with_control_pieces

_IMAGE_PIECE = re.compile(r"<image_(\d+)>")
# Pieces that steer the model; text of a user never becomes one of them, being control pieces.
CONTROL_PIECES = (
    *("[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>"),
    *("<s>", "</s>", "<pad>"),
)


class ChatGLMTokenizer(PreTrainedTokenizer):
    """SentencePiece with pieces for newline, tab and runs of blanks; `[gMASK] <sop>` ends every context.

    Args:
        vocab_file: path of the SentencePiece model, `ice_text.model`.
        do_lower_case, remove_space: lower the text, fold its whitespace; False as published.
        bos_token, eos_token, mask_token, pad_token, unk_token: transformers' special tokens.
        end_token, gmask_token: ChatGLM's further ones; like the published code, decoding does not skip them.
        padding_side: "left", as the model needs.
        num_image_tokens: ids below the text pieces that older releases reserved for images (20,000).
    """

    vocab_files_names: ClassVar = {"vocab_file": "ice_text.model"}
    model_input_names: ClassVar = ["input_ids", "attention_mask"]
    prompt_frame = "{context}[gMASK]<sop>{answer}<eop>"

    def __init__(
        self,
        vocab_file: str,
        do_lower_case: bool = False,
        remove_space: bool = False,
        bos_token: str = "<sop>",
        eos_token: str = "<eop>",
        end_token: str = "</s>",
        mask_token: str = "[MASK]",
        gmask_token: str = "[gMASK]",
        padding_side: str = "left",
        pad_token: str = "<pad>",
        unk_token: str = "<unk>",
        num_image_tokens: int = 20000,
        **kwargs: Any,
    ) -> None:
        self.vocab_file = vocab_file
        self.do_lower_case = do_lower_case
        self.remove_space = remove_space
        self.num_image_tokens = num_image_tokens
        # transformers calls get_vocab() from its constructor, so the pieces must be there before.
        read = with_control_pieces if num_image_tokens else check_tokenizer_file
        self.sp_model = sentencepiece.SentencePieceProcessor(model_proto=read(Path(vocab_file)))
        for piece in CONTROL_PIECES:
            if not self.sp_model.is_control(self.sp_model.piece_to_id(piece)):
                raise ValueError(
                    f"分词模型 {vocab_file} 里没有控制符 {piece}，它不是 ChatGLM（v1）的分词模型。"
                )
        # transformers would make special tokens of these two, which decoding may skip, and moves them here.
        specific = kwargs.pop("model_specific_special_tokens", {})
        self._end_piece = specific.get("end_token", end_token)
        self._gmask_piece = specific.get("gmask_token", gmask_token)
        kwargs.pop("auto_map", None)
        kwargs.setdefault("clean_up_tokenization_spaces", True)  # the default when the model was published
        super().__init__(
            bos_token=bos_token,
            eos_token=eos_token,
            mask_token=mask_token,
            pad_token=pad_token,
            unk_token=unk_token,
            padding_side=padding_side,
            do_lower_case=do_lower_case,
            remove_space=remove_space,
            num_image_tokens=num_image_tokens,
            **kwargs,
        )
        self.init_kwargs.update(end_token=self._end_piece, gmask_token=self._gmask_piece)
        self._special_split = re.compile("|".join(f"({re.escape(t)})" for t in self.all_special_tokens))

    @property
    def vocab_size(self) -> int:
        """Number of ids: those of older releases' images, and one for each piece."""
        return self.num_image_tokens + self.sp_model.get_piece_size()

    @property
    def gmask_token(self) -> str:
        return self._gmask_piece

    @property
    def end_token(self) -> str:
        return self._end_piece

    @property
    def gmask_token_id(self) -> int:
        return self._convert_token_to_id(self.gmask_token)

    @property
    def end_token_id(self) -> int:
        return self._convert_token_to_id(self.end_token)

    def get_vocab(self) -> dict[str, int]:
        """Return every piece with its id."""
        vocab = {self._convert_id_to_token(index): index for index in range(self.vocab_size)}
        return vocab | self._added_tokens_encoder

    def encode_plain(self, text: str) -> list[int]:
        """Encode text of a user: no special tokens are added, and none can arise from what the text says.

        A special token spelled out in the text is encoded as the characters it is written with, because
        SentencePiece never makes a control piece of text (the constructor checks that they are such). Lone
        surrogates, which have no UTF-8, become question marks.
        """
        return [index + self.num_image_tokens for index in self.sp_model.encode(self._preprocess(text))]

    # ---- what a family's tokenizer answers, see `bases.interface.BaseTokenizer`

    def prompt_ids(self, context: str) -> list[int]:
        """Return the ids of a context and of what ends it, `[gMASK] <sop>`."""
        return [*self.encode_plain(context), self.gmask_token_id, self.bos_token_id]

    def answer_ids(self, text: str) -> list[int]:
        """Return the ids of an answer and of what ends it, `<eop>`."""
        return [*self.encode_plain(text), self.eos_token_id]

    def encode_inside(self, text: str) -> list[int]:
        """Return the ids of a text in the middle of another: no blank is put before it."""
        # A newline never joins what follows, and takes the blank before it along.
        return self.encode_plain("\n" + text)[self._newline_length :]

    @cached_property
    def _newline_length(self) -> int:
        return len(self.encode_plain("\n"))

    def token_bytes(self, size: int) -> list[bytes | None]:
        """Return what each of `size` ids writes; None for those that no text becomes."""
        model, images = self.sp_model, self.num_image_tokens
        written = [pieces.piece_bytes(model, index, self._has_byte_pieces) for index in range(len(model))]
        return [*[None] * images, *written, *[None] * (size - images - len(model))]

    def can_write(self, text: str) -> bool:
        """Tell whether a (normalised) text has tokens that say all of it."""
        return self._has_byte_pieces or self.sp_model.unk_id() not in self.sp_model.encode(text)

    @cached_property
    def _has_byte_pieces(self) -> bool:
        return pieces.has_byte_pieces(self.sp_model)

    def normalised_units(self, text: str) -> list[Unit]:
        """Split a text into what becomes of each of its characters, or of several together."""
        return pieces.normalised_units(self.sp_model, text)

    # ---- transformers' side

    def _preprocess(self, text: str) -> str:
        """Write newlines, tabs and runs of blanks as the pieces that stand for them."""
        text = pieces.encodable(text)
        if self.remove_space:
            text = " ".join(text.strip().split())
        if self.do_lower_case:
            text = text.lower()
        return pieces.write_white_space(text)

    def tokenize(self, text: str, **kwargs: Any) -> list[str]:
        """Split text into pieces; special tokens in it stay whole and lose the blanks beside them."""
        tokens: list[str] = []
        parts = [part for part in self._special_split.split(text) if part]
        specials = set(self.all_special_tokens)
        for i, part in enumerate(parts):
            if part in specials:
                tokens.append(part)
                continue
            if i + 1 < len(parts):
                part = part.rstrip()
            if i > 0:
                part = part.lstrip()
            if part:
                tokens += self._tokenize(part)
        return tokens

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return self.sp_model.encode(self._preprocess(text), out_type=str)

    def _convert_token_to_id(self, token: str) -> int:
        image = _IMAGE_PIECE.fullmatch(token)
        if image and self.num_image_tokens:
            return int(image.group(1))
        return self.sp_model.piece_to_id(token) + self.num_image_tokens

    def _convert_id_to_token(self, index: int) -> str:
        if index < self.num_image_tokens:
            return f"<image_{index}>"
        if index >= self.vocab_size:  # the model's vocabulary is padded beyond the pieces
            return ""
        return self.sp_model.id_to_piece(index - self.num_image_tokens)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join pieces to text, with newlines, tabs and blanks put back."""
        return pieces.read_white_space(self.sp_model.decode_pieces(tokens))

    def _decode(self, token_ids: int | list[int], skip_special_tokens: bool = False, **kwargs: Any) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else list(token_ids)
        ids = [index for index in ids if index != self.pad_token_id]
        return super()._decode(ids, skip_special_tokens=skip_special_tokens, **kwargs) if ids else ""

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Return `context [gMASK] <sop>`, or `context [gMASK] <sop> answer <eop>` for a pair."""
        ids = [*token_ids_0, self.gmask_token_id, self.bos_token_id]
        return ids if token_ids_1 is None else [*ids, *token_ids_1, self.eos_token_id]

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        """Copy the SentencePiece model into a directory; returns its path there."""
        name = (f"{filename_prefix}-" if filename_prefix else "") + self.vocab_files_names["vocab_file"]
        target = Path(save_directory) / name
        if real_path(target) != real_path(self.vocab_file):
            shutil.copyfile(self.vocab_file, target)
        return (str(target),)
