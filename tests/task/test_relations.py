"""Relations in a prompt: how they are written, and whether they leave room for a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from extraction.splitting import asks_for_triplets
from task.prompt import build_prompt, split_context, with_relations
from task.relations import relations_room
from task.schema import Schema
from task.triplets import Combination
from tests.helpers.data_samples import CharacterTokenizer, write_jsonl
from utils.common_utils import UserError

FILM = Combination("导演", "影视作品", "人物")
NOVEL = Combination("作者", "图书作品", "人物")
PLANT = Combination("目", "生物", "目")


def test_relations_end_the_instruction() -> None:
    context = with_relations(build_prompt("一句话。"), ["影视作品-导演-人物", "生物-目-目"])
    assert context == (
        "Instruction: 你现在是一个很厉害的阅读理解器，严格按照人类指令进行回答。\n"
        "Input: 帮我抽取出下面句子中的三元组信息，返回JSON：\n"
        "只抽取这些关系（主语类型-关系-宾语类型）：影视作品-导演-人物、生物-目-目\n\n"
        "一句话。\nAnswer: "
    )
    assert split_context(context)[1] == "一句话。" and asks_for_triplets(context)
    assert with_relations("别的写法：一句话", ["生物-目-目"]) == "别的写法：一句话"


def test_names_stay_on_one_line() -> None:
    schema = Schema(frozenset({Combination("导\n\n演", "甲", "乙")}))
    assert split_context(with_relations(build_prompt("句"), schema.names()))[1] == "句"


def test_a_schema_in_parts() -> None:
    schema = Schema(frozenset({FILM, NOVEL, PLANT}), ((FILM, "执导的人"),))
    parts = schema.split(2)
    assert [len(part.combinations) for part in parts] == [1, 2]
    assert frozenset().union(*(part.combinations for part in parts)) == schema.combinations
    assert [part.descriptions for part in parts].count(((FILM, "执导的人"),)) == 1
    assert len(schema.split(3)) == 1 and len(schema.split(1)) == 3
    assert schema.restricted([FILM, Combination("别的", "甲", "乙")]) == Schema(
        frozenset({FILM}), ((FILM, "执导的人"),)
    )


def test_descriptions_go_through_a_file(tmp_path: Path) -> None:
    schema = Schema(frozenset({FILM, NOVEL}), ((FILM, "执导的人"),))
    path = write_jsonl(tmp_path / "schema.json", [schema.to_dict()])
    assert Schema.load(path) == schema
    joined = schema.joined(Schema(frozenset({PLANT, FILM}), ((FILM, "别的说明"),)))
    assert joined == Schema(frozenset({FILM, NOVEL, PLANT}), ((FILM, "执导的人"),))
    item = FILM._asdict() | {"description": "长" * 201}
    write_jsonl(path, [{"combinations": [item]}])
    with pytest.raises(UserError, match="description 应当是至多 200 个字符的一句话"):
        Schema.load(path)
    write_jsonl(path, [item])  # of DuIE, where further fields may be anything
    assert Schema.load(path) == Schema(frozenset({FILM}))


def test_room_for_a_sentence() -> None:
    tokenizer: Any = CharacterTokenizer()
    schema = Schema(frozenset({FILM, NOVEL, PLANT}))
    frame = len(tokenizer.prompt_ids(with_relations(build_prompt(""), [])))
    longest = len("影视作品-导演-人物、")
    room = relations_room(tokenizer, schema, 2, frame + 2 * longest + 60)
    assert room == (2 * longest, 60, 3)
    with pytest.raises(UserError, match=rf"指令 {frame} 个 token，2 种关系至多 22 个.*调到 1 或更小，或把"):
        relations_room(tokenizer, schema, 2, frame + longest + 50)
    with pytest.raises(UserError, match=r"不到 48 个；请把 max_source_seq_len 调到"):
        relations_room(tokenizer, schema, 1, frame + 10)
