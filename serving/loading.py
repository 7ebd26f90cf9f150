"""From a command to the lanes of an engine: one base, an adapter for each model on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from extraction.loading import adapter_names, load_extractors
from extraction.options import ExtractorOptions
from extraction.settings import read_settings
from serving.lane import Lane
from serving.metrics import Metrics
from utils.common_utils import UserError


def prepare(models: Mapping[str, ExtractorOptions], metrics: Metrics) -> Callable[[], list[Lane]]:
    """Read the small files of all models, and return what loads the weights.

    Raises:
        UserError: a file is missing or damaged.
    """
    settings = {name: read_settings(options) for name, options in models.items()}

    def load() -> list[Lane]:
        try:
            extractors = load_extractors(list(settings.values()))
        except OSError as error:
            raise UserError(f"加载模型失败：{error}。请检查模型和适配器的文件及权限。") from error
        lanes = []
        peft_names = adapter_names(len(extractors))
        for name, extractor, peft_name in zip(settings, extractors, peft_names, strict=True):
            model = extractor.model.eval()
            several = len(extractors) > 1
            activate = partial(model.set_adapter, peft_name) if several else _nothing
            lanes.append(Lane(name, extractor, activate, metrics))
        return lanes

    return load


def _nothing() -> None:
    """Activate the only model."""
