"""Requests to other engines: the prompt that was trained, a grammar that takes right answers only."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import llguidance
import pytest

from bases import find_family
from bases.adapter_files import CONFIG_FILE, META_FILE, SCHEMA_FILE
from export import request
from export.engines import LARK_MARK, write_request
from extraction.decoding.vocabulary import Vocabulary
from glm_config import ProjectConfig
from task.prompt import build_prompt, with_relations
from task.schema import Schema
from task.triplets import Triplet, format_target
from tests.helpers.causal_bases import make_base
from utils.common_utils import UserError

NOVEL = "《活着》是余华写的小说。"
RIGHT = Triplet("作者", "人物", "图书作品", "余华", "活着")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal model as `export.merge` leaves it, with what its adapter was trained for."""
    directory = make_base(tmp_path_factory.mktemp("engines") / "model", "qwen3")
    config = ProjectConfig()
    lengths = {
        "max_source_seq_len": config.max_source_seq_len,
        "max_target_seq_len": config.max_target_seq_len,
    }
    contents = {
        CONFIG_FILE: config.to_dict(),
        SCHEMA_FILE: Schema.from_targets([format_target([RIGHT])]).to_dict(),
        META_FILE: {"base_fingerprint": "of the base", "pre_model": "base", "format_version": 1, **lengths},
    }
    for name, content in contents.items():
        (directory / name).write_text(json.dumps(content), encoding="utf-8")
    return directory


def takes(model_dir: Path, grammar: str, answer: str) -> bool:
    """Tell whether a grammar, as an engine would compile it, takes a whole answer."""
    family = find_family(model_dir)
    tokenizer = family.load_tokenizer(model_dir)
    vocabulary = Vocabulary(tokenizer, family.load_config(model_dir).vocab_size)
    matcher = llguidance.LLMatcher(vocabulary.ll_tokenizer, llguidance.grammar_from("grammar", grammar))
    assert not matcher.get_error(), matcher.get_error()
    ids = tokenizer.encode_plain(answer)
    return matcher.validate_tokens(ids) == len(ids) and matcher.consume_tokens(ids) and matcher.is_accepting()


def test_the_grammar_takes_what_the_product_would(model_dir: Path) -> None:
    body = write_request(str(model_dir), NOVEL, "vllm")
    grammar = body["structured_outputs"]["grammar"]
    assert takes(model_dir, grammar, format_target([RIGHT]))
    assert takes(model_dir, grammar, format_target([]))
    elsewhere = Triplet("作者", "人物", "图书作品", "莫言", "活着")
    unknown = Triplet("导演", "人物", "图书作品", "余华", "活着")
    for wrong in (format_target([elsewhere]), format_target([unknown]), format_target([RIGHT])[:-3], "好的"):
        assert not takes(model_dir, grammar, wrong)


def test_the_bodies(model_dir: Path) -> None:
    tokenizer = find_family(model_dir).load_tokenizer(model_dir)
    ids = tokenizer.prompt_ids(build_prompt(NOVEL))
    vllm, sglang, llama = (write_request(str(model_dir), NOVEL, engine) for engine in request.ENGINES)
    assert (vllm["model"], vllm["prompt"], vllm["stop_token_ids"]) == (
        "merged",
        ids,
        [tokenizer.eos_token_id],
    )
    assert sglang["input_ids"] == ids and llama["prompt"] == ids
    lark = vllm["structured_outputs"]["grammar"]
    assert sglang["sampling_params"]["ebnf"] == llama["grammar"] == LARK_MARK + lark
    assert {vllm["max_tokens"], sglang["sampling_params"]["max_new_tokens"], llama["n_predict"]} == {128}


def test_the_command(
    model_dir: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["request", "--pre_model", str(model_dir), "--text", NOVEL, "--name", "mine"]
    )
    with pytest.raises(SystemExit) as left:
        request.main()
    assert left.value.code == 0 and json.loads(capsys.readouterr().out)["model"] == "mine"
    with pytest.raises(UserError, match=r"是 ChatGLM-6B：vLLM、SGLang、llama.cpp 的现行版本都不支持"):
        write_request(str(root / "models" / "chatglm-tiny"), NOVEL, "vllm")


def test_a_model_whose_prompts_name_relations(model_dir: Path, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(model_dir, directory)
    meta = json.loads((directory / META_FILE).read_text(encoding="utf-8"))
    (directory / META_FILE).write_text(json.dumps(meta | {"relations_per_prompt": 1}), encoding="utf-8")
    tokenizer = find_family(directory).load_tokenizer(directory)
    wanted = tokenizer.prompt_ids(with_relations(build_prompt(NOVEL), ["图书作品-作者-人物"]))
    assert write_request(str(directory), NOVEL, "vllm")["prompt"] == wanted
    two = Schema.from_targets([format_target([RIGHT, RIGHT._replace(predicate="译者")])])
    (tmp_path / "two.json").write_text(json.dumps(two.to_dict()), encoding="utf-8")
    with pytest.raises(UserError, match=r"一次至多写 1 种关系，请用 --schema 文件"):
        write_request(str(directory), NOVEL, "vllm", schema=str(tmp_path / "two.json"))
