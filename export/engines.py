"""Requests to other inference engines, with the product's prompt and grammar (the command is `request`).

Sources: the documentation of vLLM (structured outputs, backend guidance), SGLang (`ebnf`, grammar backend
llguidance) and llama.cpp's server (`grammar`, built with llguidance): all three take llguidance's dialect of
Lark, the last two behind `%llguidance {}`.
"""

from __future__ import annotations

from typing import Any

from bases import find_family
from bases.hub_cache import resolve_model_dir
from extraction.decoding.grammar import AnswerGrammar, Constraint
from extraction.options import ExtractorOptions
from extraction.settings import read_settings
from extraction.splitting import questions
from task.prompt import build_prompt, encode_prompt
from utils.common_utils import UserError, log

LARK_MARK = "%llguidance {}\n"  # says that what follows is Lark, where another dialect is usual


def write_request(
    pre_model: str, sentence: str, engine: str, *, schema: str | None = None, name: str = "merged"
) -> dict[str, Any]:
    """Return the body of a request for one sentence.

    Args:
        pre_model: a merged model's directory, of the family `causal`.
        sentence: what triplets are wanted of.
        engine: "vllm" (for /v1/completions), "sglang" (/generate) or "llama.cpp" (/completion).
        schema: file of the allowed combinations; those of the training when None.
        name: of the model in the service.

    Raises:
        UserError: the files can't be used, or no other engine runs such a model.
    """
    settings = read_settings(ExtractorOptions(pre_model=pre_model, schema=schema))
    model_dir = resolve_model_dir(pre_model)
    family = find_family(model_dir)
    if family.model_type == "chatglm":
        raise UserError(f"{model_dir} 是 ChatGLM-6B：vLLM、SGLang、llama.cpp 的现行版本都不支持它。")
    tokenizer = family.load_tokenizer(model_dir)
    constraint = settings.constraint or Constraint()
    (context, _), *more = questions(build_prompt(sentence), constraint, settings.relations_per_prompt)
    if more:
        raise UserError(
            f"{model_dir} 的提示词一次至多写 {settings.relations_per_prompt} 种关系，"
            "请用 --schema 文件 给出不多于这些的关系，每组关系写一个请求。"
        )
    prompt = encode_prompt(tokenizer, context, settings.config.max_source_seq_len)
    if prompt.truncated:
        log("这一句太长，末尾的字没有放进提示词；请先把它切成几段（本项目抽取时会自动切）。")
    grammar = AnswerGrammar(tokenizer, family.load_config(model_dir).vocab_size, constraint)
    lark = grammar.lark(grammar.source(sentence))
    length, end = settings.config.max_target_seq_len, tokenizer.eos_token_id
    if engine == "vllm":
        return {
            "model": name,
            "prompt": prompt.input_ids,
            "max_tokens": length,
            "temperature": 0,
            "stop_token_ids": [end],
            "structured_outputs": {"grammar": lark},
        }
    if engine == "sglang":
        sampling = {
            "max_new_tokens": length,
            "temperature": 0,
            "stop_token_ids": [end],
            "ebnf": LARK_MARK + lark,
        }
        return {"input_ids": prompt.input_ids, "sampling_params": sampling}
    return {
        "prompt": prompt.input_ids,
        "n_predict": length,
        "temperature": 0,
        "cache_prompt": True,
        "grammar": LARK_MARK + lark,
    }
