"""A tokenizer.json with what the product asks of a tokenizer, around the `tokenizers` library."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, normalizers

from bases.interface import CheckpointError, Unit
from bases.model_dir import checked_file, read_model_json, refuse_lfs_pointer
from utils.common_utils import UserError
from utils.small_json import read_small_file

from .chat import FORMATS, choose_format
from .published_vocabulary import VOCABULARY_FILE, read_vocabulary
from .tokenizer_file import TOKENIZER_FILE, Description, describe, parts_of, read_description

_CONFIG_FILE, _TEMPLATE_FILE = "tokenizer_config.json", "chat_template.jinja"
_MAX_TEMPLATE = 200_000  # characters


class CausalTokenizer:
    """Encodes a user's text, prompts in the model's chat format, and answers.

    Args:
        vocab_file: where the tokenizer.json is.
        description: of it.
        chat: the name of a format, see `chat`.
        eos_token: ends an answer in the plain format.
        bos_token: begins a prompt if the file does not say what does; None for nothing.

    Attributes:
        prompt_frame: what stands around context and answer, as the adapter's file records it.

    Raises:
        ValueError: the tokens that the format needs are not there, or the library refuses the file.
    """

    def __init__(
        self,
        vocab_file: str,
        description: Description,
        chat: str,
        eos_token: str | None,
        bos_token: str | None,
    ) -> None:
        self.vocab_file = vocab_file
        self._written, self._control = description.written, description.control
        self._blank = description.blank
        try:
            self._library = Tokenizer.from_str(json.dumps(description.content))
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # the library has no type of its own, and panics are no `Exception`
            raise ValueError(f"分词库读不了它（{str(error)[:200]}）") from error
        self._library.encode_special_tokens = True  # as ordinary text, where a text spells them
        self._library.no_truncation()
        self._library.no_padding()
        shown = FORMATS.get(chat)
        end = shown.end if shown else eos_token
        if end not in self._control:
            raise ValueError(f"没有结束符（{str(end)[:40]}）")
        self.eos_token_id = self._control[end]
        padding = [name for name in ("<pad>", "<|endoftext|>", "[PAD]") if name in self._control]
        self.pad_token_id = self._control[padding[0]] if padding else self.eos_token_id
        self.bos_token_id: int | None = self._control.get(bos_token or "")
        self._special_names = re.compile(
            "|".join(map(re.escape, sorted(self._control, key=len, reverse=True))) or r"(?!)"
        )
        self._before, self._after = (shown.before, shown.after) if shown else ("", "")
        self._beginning = self._leading_ids() or (
            [self.bos_token_id] if self.bos_token_id is not None else []
        )
        names = {index: name for name, index in self._control.items()}
        beginning = "".join(names.get(index, "") for index in self._beginning)
        self.prompt_frame = f"{beginning}{self._before}{{context}}{self._after}{{answer}}{end}"
        # What the normaliser does to characters, without a blank put in front.
        steps = [
            step
            for step in parts_of(description.content.get("normalizer"), "normalizers")
            if step["type"] != "Prepend"
        ]
        self._normalizer = _normalizer_of(steps)
        self._prefix = self._dummy_prefix()

    def _leading_ids(self) -> list[int]:
        """Return what the file's post-processor puts in front of a text."""
        plain, full = (self._library_ids("甲", add_special_tokens=on) for on in (False, True))
        control = set(self._control.values())
        leading = []
        for index in full:
            if index not in control or index in plain:
                break
            leading.append(index)
        return leading

    def _dummy_prefix(self) -> bytes:
        """Return what encoding puts before a text (a blank, in some)."""
        written = b"".join(self._written[index] for index in self._encode("甲"))
        return written[: -len("甲".encode())]

    def _encode(self, text: str) -> list[int]:
        text = text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates have no UTF-8
        return self._library_ids(text, add_special_tokens=False)

    def _library_ids(self, text: str, add_special_tokens: bool) -> list[int]:
        """Return what the library makes of a text.

        Raises:
            UserError: it can't: a stranger's regular expression gave up on the text, say.
        """
        try:
            return self._library.encode(text, add_special_tokens=add_special_tokens).ids
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # panics of Rust are no `Exception`
            raise UserError(f"分词器 {self.vocab_file} 处理不了这段文字（{str(error)[:200]}）。") from error

    def __len__(self) -> int:
        return max(max(self._written), *self._control.values()) + 1

    def encode_plain(self, text: str) -> list[int]:
        """Encode a user's text: special tokens spelled in it are but the characters that spell them."""
        return self._encode(text)

    def _encode_framed(self, text: str) -> list[int]:
        """Encode a text of the frame's, with its special tokens."""
        ids, position = [], 0
        for match in self._special_names.finditer(text):
            ids += self._encode(text[position : match.start()]) if match.start() > position else []
            ids.append(self._control[match[0]])
            position = match.end()
        return ids + (self._encode(text[position:]) if position < len(text) else [])

    def prompt_ids(self, context: str) -> list[int]:
        """Return the ids of a context in the model's chat format, up to where the answer begins."""
        # The texts beside the context are encoded together with it, as a template's output would be.
        before, own_before = _split_behind_last(self._special_names, self._before)
        own_after, after = _split_before_first(self._special_names, self._after)
        return [
            *self._beginning,
            *self._encode_framed(before),
            *self._encode(own_before + context + own_after),
            *self._encode_framed(after),
        ]

    def answer_ids(self, text: str) -> list[int]:
        """Return the ids of an answer and of what ends it."""
        return [*self._encode(text), self.eos_token_id]

    def encode_inside(self, text: str) -> list[int]:
        """Return the ids of a text in the middle of another: nothing is put before it."""
        if not self._prefix:
            return self._encode(text)
        lead = self._encode("\n")  # a byte of its own, where a blank is put before a text
        return self._encode("\n" + text)[len(lead) :]

    def token_bytes(self, size: int) -> list[bytes | None]:
        """Return what each of `size` ids writes; None for those that no text becomes."""
        return [self._written.get(index) for index in range(size)]

    def can_write(self, text: str) -> bool:
        """Tell whether a text has tokens that say all of it: bytes say everything."""
        return True

    def normalised_units(self, text: str) -> list[Unit]:
        """Split a text into what becomes of each of its characters, or of several together."""
        text = text.encode("utf-8", "replace").decode("utf-8")
        if self._normalise(text) == text:
            return [Unit(character, index, index + 1) for index, character in enumerate(text)]
        units, start = [], 0
        for end in range(1, len(text) + 1):
            if end == len(text) or self._is_border(text, start, end):
                if part := self._normalise(text[start:end]):
                    units.append(Unit(part, start, end))
                start = end
        return units

    def _is_border(self, text: str, start: int, position: int) -> bool:
        """Tell whether what comes from `position` on is normalised by itself."""
        if unicodedata.combining(text[position]):
            return False
        before, character = text[start:position], text[position]
        return self._normalise(before + character) == self._normalise(before) + self._normalise(character)

    def _normalise(self, text: str) -> str:
        if self._normalizer is None:
            return text
        normalised = self._normalizer.normalize_str(text)
        return normalised.replace(self._blank, " ") if self._blank else normalised

    def decode(
        self, ids: Sequence[int], skip_special_tokens: bool = True, clean_up_tokenization_spaces: bool = False
    ) -> str:
        """Return the text of ids; control tokens write nothing."""
        return b"".join(self._written.get(index, b"") for index in ids).decode("utf-8", "replace")

    @property
    def control_names(self) -> list[str]:
        """The names of the tokens that no text becomes."""
        return list(self._control)

    @cached_property
    def vocab_size(self) -> int:
        """Number of ids."""
        return len(self)


def _normalizer_of(steps: list[dict[str, Any]]) -> Any:
    parts: list[Any] = []
    for step in steps:
        if step["type"] == "Replace":
            pattern = step["pattern"]
            if set(pattern) != {"String"}:
                raise ValueError("不支持按正则表达式替换的规范化")
            parts.append(normalizers.Replace(pattern["String"], step["content"]))
        else:
            parts.append(getattr(normalizers, step["type"])())
    return normalizers.Sequence(parts) if parts else None


def _split_behind_last(pattern: re.Pattern[str], text: str) -> tuple[str, str]:
    end = max((match.end() for match in pattern.finditer(text)), default=0)
    return text[:end], text[end:]


def _split_before_first(pattern: re.Pattern[str], text: str) -> tuple[str, str]:
    match = pattern.search(text)
    start = match.start() if match else len(text)
    return text[:start], text[start:]


def load_tokenizer(model_dir: Path) -> CausalTokenizer:
    """Read a directory's tokenizer: its file, and of tokenizer_config.json what is known.

    Raises:
        CheckpointError: it is missing, damaged, or of another kind.
    """
    path = tokenizer_path(model_dir)
    settings = read_model_json(model_dir, _CONFIG_FILE) if (model_dir / _CONFIG_FILE).exists() else {}
    eos, bos = (_token(settings, name) for name in ("eos_token", "bos_token"))
    try:
        if path.name == VOCABULARY_FILE:
            content, chat = read_vocabulary(path)
            description, begins = describe(content), False
        else:
            description = read_description(model_dir)
            template = _template(model_dir, settings)
            chat = choose_format(template, set(description.control))
            begins = settings.get("add_bos_token", bos is not None and bos in template)
        return CausalTokenizer(str(path), description, chat, eos, bos if begins else None)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CheckpointError(f"模型目录 {model_dir} 的分词器不能用：{error}。") from error


def tokenizer_path(model_dir: Path) -> Path:
    """Return the file that decides how text becomes ids; tokenizer.json unless there is only the other.

    Raises:
        CheckpointError: it leads out of the directory, or is a note of git-lfs.
    """
    own = checked_file(model_dir, TOKENIZER_FILE)
    other = checked_file(model_dir, VOCABULARY_FILE)
    path = other if other.is_file() and not own.exists() else own
    refuse_lfs_pointer(path)
    return path


def _token(content: dict[str, Any], name: str) -> str | None:
    token = content.get(name)
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) and len(token) < 200 else None


def _template(model_dir: Path, content: dict[str, Any]) -> str:
    """Return the text of a directory's chat template; "" if it has none."""
    template = content.get("chat_template")
    path = checked_file(model_dir, _TEMPLATE_FILE)
    if template is None and path.is_file():
        try:
            template = read_small_file(path).decode("utf-8", "replace")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"无法使用 {path}：{error}。") from error
    if isinstance(template, list):  # several by name
        found = [each.get("template") for each in template if isinstance(each, dict)]
        template = next((each for each in found if isinstance(each, str)), None)
    return template[:_MAX_TEMPLATE] if isinstance(template, str) else ""
