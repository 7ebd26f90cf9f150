"""Make the embedded base's SentencePiece model: characters of the corpus, JSON scaffolding, specials.

    python -m tiny_base.train_tokenizer

Chinese is split into single characters, so that a name has the same pieces wherever it stands and can be
copied piece by piece; only what surrounds values (quotes with commas and braces, key names, the prompt's
fixed words) is joined. The special pieces follow the text pieces in the published order, bytes come last.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as model_pb2

from tiny_base.corpus.__main__ import DEV_FILE
from tiny_base.corpus.heldout import HeldOut
from tiny_base.corpus.tasks import TaskWriter
from tiny_base.corpus.words import characters
from utils.command_line import ChineseArgumentParser
from utils.common_utils import log, run_main

MODEL_DIR = Path(__file__).resolve().parents[1] / "models" / "chatglm-tiny"
NUM_SAMPLES, NUM_CHARACTERS = 40_000, 5_700
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6  # types of pieces in SentencePiece
# Joined pieces; "▁" is a blank. None of them can be a part of a Chinese name.
SCAFFOLDING = (
    *(
        "▁Instruction:",
        "Input:",
        "Answer:",
        "你现在是一个很厉害的阅读理解器",
        "严格按照人类指令进行回答",
        "[Round▁0]",
    ),
    *(
        "predicate",
        "object_type",
        "subject_type",
        "object",
        "subject",
        "relation",
        "head",
        "tail",
        "json",
        "JSON",
        "Json",
    ),
    *(
        "```",
        '{"',
        '[{"',
        '":▁"',
        '",▁"',
        '"},▁{"',
        '"}]',
        '"}',
        '["',
        '"]',
        "Text",
        "Date",
        "Number",
        "▁|▁",
        "|▁",
    ),
)
SPECIALS = ("[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>")
BLANKS = ("<|tab|>", *(f"<|blank_{length}|>" for length in range(2, 81)))


def corpus_text(num_samples: int) -> Iterator[str]:
    """Yield the text of samples, and the dictionary's frequent characters once more."""
    writer = TaskWriter("tokenizer", HeldOut.from_file(DEV_FILE))
    for _ in range(num_samples):
        sample = writer.sample()
        yield from f"{sample.before}\n{sample.target}\n{sample.after}".splitlines()
    yield from characters(5_000)
    yield "".join(chr(code) for code in range(0x20, 0x7F))


def count_characters(num_samples: int) -> model_pb2.ModelProto:
    """Let SentencePiece normalise the corpus as the published model does, and count its characters."""
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=corpus_text(num_samples),
        model_writer=buffer,
        model_type="char",
        vocab_size=NUM_CHARACTERS,
        character_coverage=1.0,
        normalization_rule_name="nmt_nfkc",
        hard_vocab_limit=False,
        pad_id=3,
        minloglevel=2,
    )
    proto = model_pb2.ModelProto()
    proto.ParseFromString(buffer.getvalue())
    return proto


def build(num_samples: int = NUM_SAMPLES) -> model_pb2.ModelProto:
    """Assemble the model: ids 0 to 5 as published, joined pieces, characters, specials, blanks, bytes."""
    proto = count_characters(num_samples)
    counted = {piece.piece: piece.score for piece in proto.pieces if piece.type == NORMAL}
    del proto.pieces[:]

    def add(piece: str, kind: int, score: float = 0.0) -> None:
        proto.pieces.add(piece=piece, type=kind, score=score)

    add("<unk>", UNKNOWN)
    for piece in ("<s>", "</s>", "<pad>"):
        add(piece, CONTROL)
    add("<n>", USER_DEFINED)
    add("▁", NORMAL, counted.pop("▁"))
    for piece in SCAFFOLDING:
        add(piece, NORMAL, -2.0)  # always better than its characters one by one
    for piece, score in counted.items():
        add(piece, NORMAL, score)
    for piece in SPECIALS:
        add(piece, CONTROL)
    for piece in BLANKS:
        add(piece, USER_DEFINED)
    for byte in range(256):
        add(f"<0x{byte:02X}>", BYTE)
    proto.trainer_spec.model_type = model_pb2.TrainerSpec.UNIGRAM
    proto.trainer_spec.byte_fallback = True
    proto.trainer_spec.vocab_size = len(proto.pieces)
    proto.trainer_spec.model_prefix = "ice_text"
    return proto


def main() -> None:
    """Write ice_text.model and tokenizer_config.json."""
    parser = ChineseArgumentParser(description="用生成的语料制作自带小模型的分词器")
    parser.add_argument("--output", type=Path, default=MODEL_DIR, help="输出目录")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    proto = build()
    (args.output / "ice_text.model").write_bytes(proto.SerializeToString())
    config = {
        "name_or_path": "models/chatglm-tiny",
        "bos_token": "<sop>",
        "eos_token": "<eop>",
        "end_token": "</s>",
        "gmask_token": "[gMASK]",
        "mask_token": "[MASK]",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "remove_space": False,
        "do_lower_case": False,
        "tokenizer_class": "ChatGLMTokenizer",
        "num_image_tokens": 0,
    }
    (args.output / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    log(f"{len(proto.pieces)} 个词元，已写入 {args.output}")


if __name__ == "__main__":
    run_main(main)
