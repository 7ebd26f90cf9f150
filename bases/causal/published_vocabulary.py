"""The vocabulary files of ChatGLM2, ChatGLM3 and GLM-4-9B, rewritten as what a tokenizer.json would say.

ChatGLM2 and ChatGLM3 have a SentencePiece model (BPE with bytes to fall back to), GLM-4-9B one of tiktoken
(a rank for each string of bytes). Both become byte pairs in order of their merging. Sources:
`tokenization_chatglm.py` of THUDM/chatglm3-6b and of THUDM/glm-4-9b, and the two formats.
"""

from __future__ import annotations

import base64
import binascii
from itertools import pairwise
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor

from bases.chatglm.tokenizer_file import check_tokenizer_file
from utils.small_json import read_small_file

from .tokenizer_file import BLANK, MAX_FILE_BYTES, MAX_TOKENS, byte_alphabet

VOCABULARY_FILE = "tokenizer.model"
_GLM2_TOKENS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
_ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
_GLM4_TOKENS = (
    *("<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", *_ROLES),
    *("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"),
)
_GLM4_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
_MAX_TOKEN_BYTES = 256
_PROBE = "①ﬁＡ　ｶﾞe\u0301㈱"  # what normalisation would change


def read_vocabulary(path: Path) -> tuple[dict[str, Any], str]:
    """Read a `tokenizer.model` of either kind.

    Returns:
        What tokenizer.json would hold, and the name of the chat format.

    Raises:
        OSError: it can't be read.
        ValueError: it is neither, or damaged; the message is in Chinese.
    """
    content = read_small_file(path, MAX_FILE_BYTES)
    if len(content.split(b"\n", 1)[0].split()) == 2:
        return _of_ranks(content), "glm4"
    check_tokenizer_file(path)
    return _of_pieces(SentencePieceProcessor(model_file=str(path))), _generation(path.parent)


def _generation(model_dir: Path) -> str:
    """Tell ChatGLM3 from ChatGLM2, whose files are alike, by what the code beside them mentions."""
    try:
        code = read_small_file(model_dir / "tokenization_chatglm.py", 2**20)
    except (OSError, ValueError):
        return "chatglm3"
    return "chatglm3" if _ROLES[-1].encode() in code else "chatglm2"


def _added(first: int, names: tuple[str, ...]) -> list[dict[str, Any]]:
    return [
        {
            "id": first + number,
            "content": name,
            "special": True,
            "normalized": False,
            **dict.fromkeys(("single_word", "lstrip", "rstrip"), False),
        }
        for number, name in enumerate(names)
    ]


def _leading(tokens: list[dict[str, Any]], names: tuple[str, ...]) -> dict[str, Any]:
    """Return a post-processor that puts tokens in front."""
    ids = {token["content"]: token["id"] for token in tokens}
    front = [{"SpecialToken": {"id": name, "type_id": 0}} for name in names]
    return {
        "type": "TemplateProcessing",
        "single": [*front, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in names},
    }


# ---- tiktoken


def _of_ranks(content: bytes) -> dict[str, Any]:
    ranks: dict[bytes, int] = {}
    try:
        for line in content.splitlines():
            if line:
                text, rank = line.split()
                ranks[base64.b64decode(text, validate=True)] = int(rank)
    except (ValueError, binascii.Error) as error:
        raise ValueError("既不是 SentencePiece 模型，也不是 tiktoken 的词表") from error
    if sorted(ranks.values()) != list(range(len(ranks))) or len(ranks) > MAX_TOKENS:
        raise ValueError("tiktoken 词表的编号应当从 0 起连续")
    if not all(0 < len(text) <= _MAX_TOKEN_BYTES for text in ranks):
        raise ValueError(f"tiktoken 词表里有空的或长于 {_MAX_TOKEN_BYTES} 字节的词元")
    letters = {byte: letter for letter, byte in byte_alphabet().items()}

    def spell(text: bytes) -> str:
        return "".join(letters[byte] for byte in text)

    merges = []
    for token, place in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1 and len(parts := _merge(token, ranks, place)) == 2:
            merges.append([spell(part) for part in parts])
    added = _added(len(ranks), _GLM4_TOKENS)
    split = {"type": "Split", "pattern": {"Regex": _GLM4_SPLIT}, "behavior": "Isolated", "invert": False}
    bytes_step = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytes_step]},
        "post_processor": _leading(added, ("[gMASK]", "<sop>")),
        "decoder": bytes_step,
        "model": {
            "type": "BPE",
            "vocab": {spell(text): rank for text, rank in ranks.items()},
            "merges": merges,
            "ignore_merges": False,
            "byte_fallback": False,
            "fuse_unk": False,
        },
    }


def _merge(text: bytes, ranks: dict[bytes, int], below: int) -> list[bytes]:
    """Join bytes as byte-pair encoding does, with pairs of a lower rank only."""
    parts = [text[index : index + 1] for index in range(len(text))]
    while len(parts) > 1:
        rank, place = min(
            (ranks.get(left + right, MAX_TOKENS), place)
            for place, (left, right) in enumerate(pairwise(parts))
        )
        if rank >= below:
            break
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts


# ---- SentencePiece


def _of_pieces(model: SentencePieceProcessor) -> dict[str, Any]:
    if model.normalize(_PROBE).lstrip(BLANK) != _PROBE.replace(" ", BLANK):
        raise ValueError("它的 SentencePiece 模型带有规范化表，本项目还不支持这样的")
    if model.normalize("a  b ").lstrip(BLANK) != "a▁▁b▁":
        raise ValueError("它的 SentencePiece 模型会合并空格，本项目还不支持这样的")
    size = model.get_piece_size()
    pieces = [model.id_to_piece(index) for index in range(size)]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    found = []
    for index, piece in enumerate(pieces):
        if model.is_byte(index) or model.is_control(index) or model.is_unknown(index):
            continue
        for cut in range(1, len(piece)):
            left, right = vocab.get(piece[:cut]), vocab.get(piece[cut:])
            if left is not None and right is not None:
                found.append((-model.get_score(index), left, right))
    found.sort()
    control = [index for index in range(size) if model.is_control(index) or model.is_unknown(index)]
    added = [_added(index, (pieces[index],))[0] for index in control]
    added += _added(size, (*_GLM2_TOKENS, *_ROLES))
    prefix = [{"type": "Prepend", "prepend": BLANK}] if model.normalize("a").startswith(BLANK) else []
    blanks = {"type": "Replace", "pattern": {"String": " "}, "content": BLANK}
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [*prefix, blanks]},
        "pre_tokenizer": None,
        "post_processor": _leading(added, ("[gMASK]", "sop")),
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "vocab": vocab,
            "merges": [[pieces[left], pieces[right]] for _, left, right in found],
            "unk_token": pieces[model.unk_id()],
            "byte_fallback": True,
            "fuse_unk": True,
            "ignore_merges": False,
        },
    }
