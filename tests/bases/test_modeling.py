"""The model beyond parity: generation, caches, packing, checkpointing, training in 4-bit with LoRA."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bases.adapter import attach_lora
from bases.chatglm import ChatGLMForConditionalGeneration, load_base_model
from bases.chatglm.layout import get_position_ids, get_prefix_lm_mask


@pytest.fixture(scope="module")
def model(random_base: Path) -> ChatGLMForConditionalGeneration:
    return ChatGLMForConditionalGeneration.from_pretrained(random_base)


def sequence(model: torch.nn.Module, context: list[int], answer: list[int]) -> list[int]:
    return [*context, model.config.gmask_token_id, model.config.bos_token_id, *answer]


def left_padded(model: torch.nn.Module, rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    pad = model.config.pad_token_id
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def test_positions_and_mask_by_hand(model: ChatGLMForConditionalGeneration) -> None:
    ids, mask = left_padded(model, [sequence(model, [11, 12], [21, 22]), sequence(model, [13], [23])])
    positions = get_position_ids(ids, model.config, mask)
    assert positions[0].tolist() == [[0, 1, 2, 2, 2, 2], [0, 0, 0, 1, 2, 3]]
    assert positions[1].tolist() == [[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 2]]
    visible = get_prefix_lm_mask(ids, model.config, mask)[:, 0].int()
    assert visible[0].tolist() == [
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 1],
    ]
    assert visible[1].tolist() == [
        [1, 0, 1, 1, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 0],
        [0, 0, 1, 1, 1, 1],
    ]


def test_a_blank_of_short_spans_counts_from_its_mask_token(model: ChatGLMForConditionalGeneration) -> None:
    config = model.config
    ids = torch.tensor([[11, config.mask_token_id, 12, config.bos_token_id, 21]])
    assert get_position_ids(ids, config).tolist() == [[[0, 1, 2, 1, 1], [0, 0, 0, 1, 2]]]


def test_a_sequence_without_structure_is_refused(model: ChatGLMForConditionalGeneration) -> None:
    with pytest.raises(ValueError, match=r"\[gMASK\].*<sop>"):
        model(input_ids=torch.tensor([[11, 12]]))


def test_padding_on_the_right_is_refused(model: ChatGLMForConditionalGeneration) -> None:
    ids = torch.tensor([[*sequence(model, [11], [21]), model.config.pad_token_id]])
    with pytest.raises(ValueError, match="左侧"):
        model(input_ids=ids, attention_mask=torch.tensor([[1, 1, 1, 1, 0]]))


def test_padding_changes_nothing(model: ChatGLMForConditionalGeneration) -> None:
    rows = [sequence(model, [11, 12, 13, 14, 15], [21]), sequence(model, [16], [22])]
    ids, mask = left_padded(model, rows)
    batched = model(input_ids=ids, attention_mask=mask).logits
    for row, logits in zip(rows, batched, strict=True):
        alone = model(input_ids=torch.tensor([row])).logits[0]
        torch.testing.assert_close(logits[-len(row) :], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"use_cache": False}, {"num_beams": 3}])
def test_batched_generation_equals_single(model: ChatGLMForConditionalGeneration, options: dict) -> None:
    rows = [sequence(model, [11, 12, 13], []), sequence(model, [14], []), sequence(model, [15, 16], [])]
    ids, mask = left_padded(model, rows)
    settings = {"max_new_tokens": 12, "do_sample": False, **options}
    batched = model.generate(input_ids=ids, attention_mask=mask, **settings)[:, ids.shape[1] :]
    for row, answer in zip(rows, batched, strict=True):
        alone = model.generate(input_ids=torch.tensor([row]), **settings)[0, len(row) :]
        assert answer[: len(alone)].tolist() == alone.tolist()


def test_sampling_draws_different_answers(model: ChatGLMForConditionalGeneration) -> None:
    torch.manual_seed(0)
    ids = torch.tensor([sequence(model, [11, 12], [])] * 8)
    answers = model.generate(input_ids=ids, max_new_tokens=6, do_sample=True, temperature=2.0)
    assert len({tuple(answer) for answer in answers.tolist()}) > 1


def test_several_tokens_at_once_behind_a_cache(model: ChatGLMForConditionalGeneration) -> None:
    """A chunk of answer tokens sees the cache and itself causally, with and without padding."""
    rows = [sequence(model, [11, 12, 13], [21, 22, 23, 24]), sequence(model, [14], [25, 26, 27, 28])]
    ids, mask = left_padded(model, rows)
    whole = model(input_ids=ids, attention_mask=mask).logits[:, -4:]
    positions = get_position_ids(ids, model.config, mask)
    first = model(input_ids=ids[:, :-4], attention_mask=mask[:, :-4], use_cache=True)
    later = model(
        input_ids=ids[:, -4:], attention_mask=mask, position_ids=positions[..., -4:], cache=first.cache
    )
    torch.testing.assert_close(later.logits, whole, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="position_ids"):
        model(input_ids=ids[:, -1:], attention_mask=mask, cache=first.cache)


def test_a_packed_sequence_equals_its_samples(model: ChatGLMForConditionalGeneration) -> None:
    rows = [sequence(model, [11, 12, 13], [21, 22]), sequence(model, [14], [23])]
    masks = [get_prefix_lm_mask(torch.tensor([row]), model.config)[0, 0] for row in rows]
    positions = [get_position_ids(torch.tensor([row]), model.config)[0] for row in rows]
    packed = model(
        input_ids=torch.tensor([rows[0] + rows[1]]),
        attention_mask=torch.block_diag(*masks).bool()[None, None],
        position_ids=torch.cat(positions, dim=-1)[None],
    ).logits[0]
    alone = torch.cat([model(input_ids=torch.tensor([row])).logits[0] for row in rows])
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-4)


def test_embeddings_instead_of_ids(model: ChatGLMForConditionalGeneration) -> None:
    ids = torch.tensor([sequence(model, [11], [21])])
    embeddings = model.get_input_embeddings()(ids)
    positions, mask = get_position_ids(ids, model.config), get_prefix_lm_mask(ids, model.config)
    logits = model(inputs_embeds=embeddings, position_ids=positions, attention_mask=mask).logits
    torch.testing.assert_close(logits, model(input_ids=ids).logits)
    with pytest.raises(ValueError, match="恰好给出一个"):
        model()
    with pytest.raises(ValueError, match="position_ids"):
        model(inputs_embeds=embeddings)
    with pytest.raises(ValueError, match="四维"):
        model(inputs_embeds=embeddings, position_ids=positions)


def test_the_loss_is_the_mean_over_labels(model: ChatGLMForConditionalGeneration) -> None:
    ids = torch.tensor([sequence(model, [11, 12], [21, 22, 23])])
    labels = ids.clone()
    labels[:, :4] = -100
    logits = model(input_ids=ids).logits[0]
    expected = torch.nn.functional.cross_entropy(logits[3:-1], ids[0, 4:])
    torch.testing.assert_close(model(input_ids=ids, labels=labels).loss, expected)
    assert model(input_ids=ids, labels=torch.full_like(ids, -100)).loss.item() == 0.0


def test_labels_are_smoothed_in_training_only(
    model: ChatGLMForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = torch.tensor([sequence(model, [11, 12], [21, 22, 23])])
    plain = model.eval()(input_ids=ids, labels=ids).loss
    logits = model(input_ids=ids).logits[0]
    monkeypatch.setattr(model, "label_smoothing", 0.2)
    torch.testing.assert_close(model(input_ids=ids, labels=ids).loss, plain)
    smoothed = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], label_smoothing=0.2)
    try:
        torch.testing.assert_close(model.train()(input_ids=ids, labels=ids).loss, smoothed)
    finally:
        model.eval()


def test_logits_of_the_last_positions_only(model: ChatGLMForConditionalGeneration) -> None:
    ids = torch.tensor([sequence(model, [11, 12], [21, 22])])
    whole = model(input_ids=ids).logits
    torch.testing.assert_close(model(input_ids=ids, logits_to_keep=2).logits, whole[:, -2:])


def lora_gradients(random_base: Path, checkpointing: bool, evaluate_between: bool) -> dict[str, torch.Tensor]:
    """Gradients of a 4-bit model with LoRA, all LoRA weights being non-zero."""
    base, _ = load_base_model(random_base, device="cpu")
    if checkpointing:
        base.activation_checkpointing_enable({"use_reentrant": False})
    model = attach_lora(base, rank=4, alpha=8, dropout=0.0, target_modules=["query_key_value"])
    torch.manual_seed(1)
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for parameter in trainable.values():
        torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.tensor([sequence(base, [11, 12, 13], [21, 22, 23])] * 2)
    labels = ids.clone()
    labels[:, :5] = -100
    if evaluate_between:
        model.eval()
        with torch.no_grad():
            model(input_ids=ids, labels=labels)
            model.generate(input_ids=ids[:, :5], max_new_tokens=3, do_sample=False)
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        model(input_ids=ids, labels=labels).loss.backward()
    assert all(parameter.grad is not None for parameter in trainable.values())
    return {name: parameter.grad for name, parameter in trainable.items()}


def test_gradients_survive_an_evaluation(random_base: Path) -> None:
    """On CPUs with AVX512-BF16 bitsandbytes would repack the weights and lose the graph."""
    before = lora_gradients(random_base, checkpointing=False, evaluate_between=False)
    after = lora_gradients(random_base, checkpointing=False, evaluate_between=True)
    assert all(gradient.abs().sum() > 0 for gradient in after.values())
    for name, gradient in before.items():
        torch.testing.assert_close(after[name], gradient)


def test_checkpointing_changes_no_gradient(random_base: Path) -> None:
    plain = lora_gradients(random_base, checkpointing=False, evaluate_between=False)
    checkpointed = lora_gradients(random_base, checkpointing=True, evaluate_between=False)
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient)


def test_half_precision_throughout_keeps_the_gradient(root: Path) -> None:
    """fp16 weights, layer norms and hidden states, with a scaled loss: within 2 % of the fp32 gradient."""

    def gradient(dtype: torch.dtype, scale: float) -> torch.Tensor:
        base, tokenizer = load_base_model(
            root / "models" / "chatglm-tiny", load_in_4bit=False, dtype=dtype, device="cpu"
        )
        torch.manual_seed(0)
        names = ["query_key_value", "dense_4h_to_h"]
        model = attach_lora(base, rank=4, alpha=8, dropout=0.0, target_modules=names).train()
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for parameter in trainable:
            torch.nn.init.normal_(parameter, std=0.02)
        ids = tokenizer.encode_plain("《雨夜》由张三执导，李四主演。")
        labels = [-100] * (len(ids) + 2) + ids
        ids = [*ids, tokenizer.gmask_token_id, tokenizer.bos_token_id, *ids]
        kept = []
        hook = base.transformer.layers[1].register_forward_pre_hook(
            lambda _, inputs: kept.append(inputs[0].dtype)
        )
        with torch.autocast("cpu", torch.float16, enabled=dtype == torch.float16):
            loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
        hook.remove()
        assert kept == [dtype]
        (loss * scale).backward()
        return torch.cat([parameter.grad.flatten().double() / scale for parameter in trainable])

    exact, half = gradient(torch.float32, 1.0), gradient(torch.float16, 1024.0)
    assert (half - exact).norm() < 0.02 * exact.norm()


@pytest.mark.gpu
def test_4bit_training_step_on_cuda_in_fp16(random_base: Path) -> None:
    base, _ = load_base_model(random_base, device="cuda")
    model = attach_lora(base, rank=4, alpha=8, dropout=0.0, target_modules=["query_key_value"]).train()
    ids = torch.tensor([sequence(base, [11, 12], [21, 22])], device="cuda")
    with torch.autocast("cuda", torch.float16):
        model(input_ids=ids, labels=ids).loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
