"""ChatGLM's pieces as text: white space that has pieces of its own, bytes of a piece, the normalised text.

The published tokenizer writes newlines, tabs and runs of blanks as pieces before SentencePiece sees the text,
and SentencePiece normalises (NFKC) what is left. Whoever points at characters of a sentence, or asks what a
token writes, needs the way back: it is here, once.
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import Any

from bases.interface import UNKNOWN_CHARACTER, Unit

MAX_BLANK_LENGTH = 80
_PIECES = {"\n": "<n>", "\t": "<|tab|>"}
_WHITE_SPACE = re.compile(f"\n|\t| {{2,{MAX_BLANK_LENGTH}}}")
_CHARACTERS = {piece: character for character, piece in _PIECES.items()}
_BLANK_PIECE = re.compile(r"<\|blank_([1-9][0-9]?)\|>")


def _piece_of(white_space: str) -> str:
    return _PIECES.get(white_space) or f"<|blank_{len(white_space)}|>"


def write_white_space(text: str) -> str:
    """Write newlines, tabs and runs of blanks as the pieces that stand for them."""
    return _WHITE_SPACE.sub(lambda match: _piece_of(match[0]), text)


def read_white_space(text: str) -> str:
    """Put newlines, tabs and runs of blanks back where their pieces stand in a text."""
    for piece, character in _CHARACTERS.items():
        text = text.replace(piece, character)
    return _BLANK_PIECE.sub(lambda match: _written_by(match[0]), text)


def _written_by(piece: str) -> str:
    """Return the white space that a piece stands for; the piece itself if it stands for none."""
    if len(piece) > 1 and (blank := _BLANK_PIECE.fullmatch(piece)):
        length = int(blank[1])
        return " " * length if 2 <= length <= MAX_BLANK_LENGTH else piece
    return _CHARACTERS.get(piece, piece)


def encodable(text: str) -> str:
    """Return a text with lone surrogates, which have no UTF-8, as question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def has_byte_pieces(sp_model: Any) -> bool:
    """Tell whether every character can be written, if need be byte by byte."""
    return any(sp_model.is_byte(index) for index in range(len(sp_model)))


def piece_bytes(sp_model: Any, piece_id: int, byte_pieces: bool) -> bytes | None:
    """Return what a piece writes in the middle of a text; None for a piece that no text becomes.

    Args:
        sp_model: a `SentencePieceProcessor`.
        piece_id: of the piece.
        byte_pieces: as `has_byte_pieces` says. Without them `<unk>` stands for what can't be written.
    """
    if sp_model.is_control(piece_id) or sp_model.is_unused(piece_id):
        return None
    if sp_model.is_unknown(piece_id):
        return None if byte_pieces else UNKNOWN_CHARACTER.encode()
    piece = sp_model.id_to_piece(piece_id)
    if sp_model.is_byte(piece_id):
        return bytes([int(piece[3:5], 16)])  # <0xNN>
    written = _written_by(piece)
    return (written if written != piece else piece.replace("▁", " ")).encode()


def normalised_units(sp_model: Any, text: str) -> list[Unit]:
    """Split a text into what the tokenizer makes of each of its characters, or of several together.

    Args:
        sp_model: a `SentencePieceProcessor`.
        text: as typed.
    """
    prepared, origins = _prepare(text)
    normalised, offsets = sp_model.normalize(prepared, with_offsets=True)
    between = sp_model.normalize("甲甲")
    if normalised and between.startswith("▁"):
        normalised, offsets = normalised[1:], offsets[1:]  # put there by SentencePiece
    units = []
    for offset, group in groupby(range(len(normalised)), key=lambda index: offsets[index]):
        indices = list(group)
        part = _written_by(normalised[indices[0] : indices[-1] + 1].replace("▁", " "))
        end = offsets[indices[-1] + 1]
        while end - offset > 1 and sp_model.normalize(f"甲{prepared[end - 1]}甲") == between:
            end -= 1  # a character that the tokenizer drops, such as a vertical tab, is part of none
        units.append(Unit(part, origins[offset], origins[end]))
    return units


def _prepare(text: str) -> tuple[str, list[int]]:
    """Write white space as pieces; return the text and, for each offset in it, the typed one."""
    text = encodable(text)
    parts: list[str] = []
    origins: list[int] = []
    position = 0
    for match in _WHITE_SPACE.finditer(text):
        piece = _piece_of(match[0])
        parts += text[position : match.start()], piece
        origins += [*range(position, match.start()), *[match.start()] * len(piece)]
        position = match.end()
    parts.append(text[position:])
    return "".join(parts), [*origins, *range(position, len(text)), len(text)]
