"""A model directory's small files: what is read of them, and what a wrong one is called."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bases import CheckpointError, check_model_dir, family_of, find_family
from bases.chatglm import ChatGLMConfig, ChatGLMTokenizer
from bases.chatglm.files import load_config, load_tokenizer
from bases.chatglm.tokenizer_file import check_tokenizer_file

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 2706249\n"


@pytest.fixture
def model_dir(random_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(random_base, tmp_path / "model"))


def change_json(path: Path, **fields: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) | fields
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


# ---- which family it is


def test_the_family_is_found_by_model_type(model_dir: Path) -> None:
    family = find_family(model_dir)
    assert family is family_of(family.load_config(model_dir))
    change_json(model_dir / "config.json", model_type="bert")
    with pytest.raises(CheckpointError, match=r"config\.json：model_type 是 'bert'，支持的是 chatglm、qwen2"):
        find_family(model_dir)
    with pytest.raises(CheckpointError, match="没有可读的"):
        find_family(model_dir / "absent")


def test_a_whole_directory_passes(model_dir: Path, root: Path) -> None:
    check_model_dir(model_dir)
    check_model_dir(root / "models" / "chatglm-tiny")


# ---- directories as users have them


def test_a_tokenizer_config_without_its_number_of_images(model_dir: Path) -> None:
    for prepare in (
        lambda path: change_json(path, num_image_tokens=...),
        lambda path: path.unlink(),
    ):
        prepare(model_dir / "tokenizer_config.json")
        with pytest.raises(CheckpointError, match=r'tokenizer_config.json 里没有 num_image_tokens.*": 0'):
            check_model_dir(model_dir)


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer_config.json", "ice_text.model", "model.safetensors"]
)
def test_pointers_of_git_lfs_are_called_so(model_dir: Path, name: str) -> None:
    (model_dir / name).write_text(LFS_POINTER)
    with pytest.raises(CheckpointError, match=rf"{name} 只是 git-lfs 的指针文件.*git lfs pull.*hf download"):
        check_model_dir(model_dir)


def test_a_vocabulary_smaller_than_the_tokenizer(model_dir: Path) -> None:
    change_json(model_dir / "config.json", vocab_size=5800)
    with pytest.raises(CheckpointError, match=r"分词器有 6053 个词片，config.json 的 vocab_size 只有 5800"):
        check_model_dir(model_dir)


# ---- configs from strangers


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layernorm_epsilon": float("nan")}, "layernorm_epsilon 必须是"),
        ({"layernorm_epsilon": -1e-5}, "layernorm_epsilon 必须是"),
        ({"layernorm_epsilon": True}, "layernorm_epsilon 必须是"),
        ({"num_layers": True}, "num_layers 必须是大于 0 的整数，现在是 True"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings 必须是true 或 false"),
        ({"max_sequence_length": -1}, "max_sequence_length 必须是"),
        ({"max_sequence_length": 10**18}, "max_sequence_length 必须是"),
        ({"initializer_range": float("inf")}, "initializer_range 必须是"),
        ({"pad_token_id": 10**9}, r"pad_token_id=1000000000 不小于 vocab_size"),
        ({"quantization_config": [1]}, "quantization_config 必须是一个对象"),
        ({"hidden_size": "x" * 999, "vocab_size": None}, "vocab_size 必须是.*hidden_size 必须是"),
    ],
)
def test_fields_out_of_their_range(model_dir: Path, fields: dict[str, Any], message: str) -> None:
    change_json(model_dir / "config.json", **fields)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_config(model_dir)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "fields",
    [
        {"attn_implementation": "kernels-community/x"},
        {"_attn_implementation": "eager|a/b", "experts_implementation": "a/b"},
        {"_attn_implementation_internal": 5},
        {"num_labels": 10**12},
        {"id2label": {"0": "x"}, "auto_map": {"AutoConfig": "evil.Config"}},
        {"parameter_count": 3, "validate_architecture": 3, "to_dict": 3, "__class__": "x"},
        {"dtype": "evil", "torch_dtype": {"a": "b"}},
        {"architectures": 3, "_name_or_path": ["x"], "transformers_version": {}},
    ],
)
def test_other_fields_are_ignored(model_dir: Path, fields: dict[str, Any]) -> None:
    expected = load_config(model_dir).to_dict()
    change_json(model_dir / "config.json", **fields)
    config = load_config(model_dir)
    assert config.to_dict() | {"dtype": 0} == expected | {"dtype": 0}
    assert config.num_labels == 2


def test_the_published_config_is_read_as_it_is(tmp_path: Path) -> None:
    published = {"model_type": "chatglm", "torch_dtype": "float16", "transformers_version": "4.23.1"}
    published |= {"num_layers": 28, "vocab_size": 130528, "gmask_token_id": 130001, "mask_token_id": 130000}
    published |= {"architectures": ["ChatGLMModel"], "auto_map": {"AutoModel": "modeling_chatglm.X"}}
    (tmp_path / "config.json").write_text(json.dumps(published))
    assert load_config(tmp_path).to_dict() == ChatGLMConfig().to_dict()


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "ice_text.model"])
def test_what_is_no_file_is_not_waited_for(model_dir: Path, name: str) -> None:
    (model_dir / name).unlink()
    os.mkfifo(model_dir / name)
    with pytest.raises(CheckpointError, match=name):
        check_model_dir(model_dir)


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer_config.json", "ice_text.model", "model.safetensors"]
)
def test_links_are_not_followed_out_of_the_directory(model_dir: Path, tmp_path: Path, name: str) -> None:
    shutil.move(model_dir / name, tmp_path / "elsewhere")
    (model_dir / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=f"{name}”指向目录之外的文件，拒绝加载"):
        check_model_dir(model_dir)


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer_config.json", "ice_text.model", "model.safetensors"]
)
def test_a_circle_of_links_is_no_file(model_dir: Path, name: str) -> None:
    (model_dir / name).unlink()
    (model_dir / name).symlink_to(name)
    with pytest.raises(CheckpointError, match=rf"{name}|没有权重文件"):
        check_model_dir(model_dir)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "text", ["[" * 10**5, '{"a": ' + "9" * 5000 + "}", "[]", "\0", '{"a": "\\ud800"'], ids=range(5)
)
def test_json_that_is_none(model_dir: Path, name: str, text: str) -> None:
    (model_dir / name).write_text(text)
    with pytest.raises(CheckpointError, match=f"无法使用 .*{name}"):
        check_model_dir(model_dir)


def test_a_sparse_config_of_gigabytes(model_dir: Path) -> None:
    with (model_dir / "config.json").open("r+b") as file:
        file.truncate(60 * 2**30)
    with pytest.raises(CheckpointError, match="超过了"):
        load_config(model_dir)


# ---- tokenizers from strangers


def test_the_tokenizer_is_the_one_that_transformers_would_make(model_dir: Path) -> None:
    ours, theirs = load_tokenizer(model_dir), ChatGLMTokenizer.from_pretrained(model_dir)
    text = "林在培 主演\n  了\t电视剧 [gMASK] <sop>。"
    assert ours.encode(text) == theirs.encode(text)
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert (len(ours), ours.gmask_token_id, ours.end_token) == (len(theirs), theirs.gmask_token_id, "</s>")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_image_tokens": 10**9}, "num_image_tokens 应当是 0 到 100000 的整数"),
        ({"num_image_tokens": -3}, "num_image_tokens 应当是"),
        ({"unk_token": "的"}, "unk_token 是 '的'，不是 ChatGLM 的控制符"),
        ({"eos_token": 3}, "eos_token 是 3"),
        ({"do_lower_case": "no"}, "do_lower_case 应当是 true 或 false"),
    ],
)
def test_tokenizer_fields_out_of_their_range(model_dir: Path, fields: dict[str, Any], message: str) -> None:
    change_json(model_dir / "tokenizer_config.json", **fields)
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(model_dir)


def test_other_tokenizer_fields_and_files_are_ignored(model_dir: Path) -> None:
    expected = load_tokenizer(model_dir).get_vocab()
    many = {str(10**12 + index): {"content": f"x{index}", "special": True} for index in range(1000)}
    change_json(
        model_dir / "tokenizer_config.json",
        added_tokens_decoder=many,
        additional_special_tokens=[f"y{index}" for index in range(1000)],
        vocab_file="/etc/passwd",
        init_inputs=["/etc/passwd"],
        auto_map={"AutoTokenizer": ["evil.Tokenizer", None]},
        bos_token={"__type": "AddedToken", "content": "<sop>", "lstrip": False},
    )
    (model_dir / "added_tokens.json").write_text('{"evil": 3}')
    assert load_tokenizer(model_dir).get_vocab() == expected


def field(number: int, content: bytes) -> bytes:
    """A field of bytes in a protocol buffer."""
    length = len(content)
    size = bytearray()
    while length > 127:
        size.append(length & 127 | 128)
        length >>= 7
    return bytes([number << 3 | 2]) + bytes(size) + bytes([length]) + content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model + field(3, field(2, b"\xff" * 1024)), "归一化表不是已知的任何一种"),
        (lambda model: model + field(5, field(2, b"\xff" * 1024)), "归一化表不是已知的任何一种"),
        (lambda model: model + field(1, field(1, b"x" * 20_000)), r"词片长 20,\d+ 字节"),
        (lambda model: model + field(1, field(1, b"x")) * 300_000, "词片超过 300,000 个"),
        (lambda model: model + field(1, field(1, b"a\0b")), "词片是空的，或不是文字"),
        (lambda model: model + field(1, field(1, b"")), "词片是空的，或不是文字"),
        (lambda model: model + field(1, field(1, b"\xff\xfe")), "词片是空的，或不是文字"),
        (lambda model: model + field(1, b""), "没有下载完整"),
        (lambda model: model + field(1, field(1, b"x") + field(1, b"")), "词片的写法不对"),
        (lambda model: model + field(1, field(1, b"x") + b"\x15\x00\x00\xc0\x7f"), "分数不是有限的数"),
        (lambda model: model + field(2, b"x" * 2**21), "字段 2 有 2,097,152 字节"),
        (lambda model: model[:-3], "没有下载完整"),
        (lambda model: model[:100_000] + b"\xff" * 20, "不是 SentencePiece 模型"),
        (lambda model: b"", "没有词片"),
        (lambda model: b"<html>not found</html>", "不是 SentencePiece 模型"),
    ],
)
def test_forged_tokenizer_models(model_dir: Path, change: Callable[[bytes], bytes], message: str) -> None:
    """Several of these end the interpreter in sentencepiece 0.2.1, or fill the memory."""
    path = model_dir / "ice_text.model"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CheckpointError, match=f"分词器无法加载：.*{message}"):
        load_tokenizer(model_dir)


def test_the_shipped_tokenizers_are_known(root: Path) -> None:
    check_tokenizer_file(root / "models" / "chatglm-tiny" / "ice_text.model")
    if published := os.environ.get("CHATGLM_6B_DIR"):
        check_tokenizer_file(Path(published) / "ice_text.model")


# ---- indices from strangers


@pytest.mark.parametrize(
    "name",
    ["a\0b", "x" * 5000, "\ud800", "", 3, "x\x1b[2Jy"],
    ids=["NUL", "long", "surrogate", "empty", "3", "escape"],
)
def test_an_index_with_names_that_are_none(model_dir: Path, name: Any) -> None:
    (model_dir / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match=r"权重索引 .*index\.json 已损坏"):
        check_model_dir(model_dir)


def test_an_index_nested_too_deeply_or_of_gigabytes(model_dir: Path) -> None:
    index = model_dir / "model.safetensors.index.json"
    index.write_text('{"weight_map":' + "[" * 10**5)
    with pytest.raises(CheckpointError, match="已损坏"):
        check_model_dir(model_dir)
    with index.open("r+b") as file:
        file.truncate(60 * 2**30)
    with pytest.raises(CheckpointError, match="已损坏"):
        check_model_dir(model_dir)
