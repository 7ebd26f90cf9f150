"""What must never occur in the corpus: names, phrasings and instruction wordings of an evaluation file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from task.prompt import split_context
from task.triplets import Triplet, is_triplet_target, parse_target

# Values of these types are common knowledge (dates, countries, units, lists of facts) and may occur anywhere.
_COMMON_TYPES = {
    "Date",
    "Number",
    "Text",
    "国家",
    "城市",
    "地点",
    "语言",
    "气候",
    "目",
    "网站",
    "行政区",
    "奖项",
}
_CONTAINED_LENGTH = 4  # a held-out name at least this long may not occur within another name either


def skeleton(text: str, triplets: Iterable[Triplet]) -> str:
    """Return a sentence's phrasing: the text with every subject and object replaced by a mark."""
    values = {value for triplet in triplets for value in (triplet.subject, triplet.object)}
    for value in sorted(values, key=lambda value: (-len(value), value)):
        text = text.replace(value, "◇")
    return text


class HeldOut:
    """The names, phrasings and instructions of an evaluation file, and checks against them."""

    def __init__(self, lines: Iterable[str] = ()):
        """Args:
        lines: lines of a data file in the product's JSONL notation.
        """
        self.names: set[str] = set()
        self.skeletons: set[str] = set()
        self.instructions: set[str] = set()
        for line in lines:
            item = json.loads(line)
            head, sentence, _ = split_context(item["context"])
            self.instructions.add(head.partition("Input: ")[2].strip())
            triplets = parse_target(item["target"]) if is_triplet_target(item["target"]) else []
            self.skeletons.add(skeleton(sentence.strip(), triplets))
            for triplet in triplets:
                for value, value_type in (
                    (triplet.subject, triplet.subject_type),
                    (triplet.object, triplet.object_type),
                ):
                    if value_type not in _COMMON_TYPES and len(value) > 1:
                        self.names.add(value)
        self._long = tuple(sorted(name for name in self.names if len(name) >= _CONTAINED_LENGTH))

    @classmethod
    def from_file(cls, path: Path) -> HeldOut:
        """Read an evaluation file.

        Args:
            path: the JSONL file.

        Raises:
            FileNotFoundError: there is no such file.
        """
        with path.open(encoding="utf-8") as file:
            return cls(line for line in file if line.strip())

    def accepts_name(self, name: str) -> bool:
        """Tell whether an entity may occur in the corpus."""
        return name not in self.names and not any(held_out in name for held_out in self._long)

    def accepts_sentence(self, text: str, triplets: Iterable[Triplet]) -> bool:
        """Tell whether a sentence is free of held-out phrasings and long held-out names."""
        if any(held_out in text for held_out in self._long):
            return False
        return skeleton(text.strip(), triplets) not in self.skeletons

    def accepts_instruction(self, instruction: str) -> bool:
        """Tell whether an instruction's wording may occur."""
        return instruction.strip() not in self.instructions
