"""`train.py` under FSDP on CPUs, which accelerate would quietly run as plain data parallelism.

Started by `accelerate launch` with `configs/fsdp_qlora.yaml`, which leaves its settings in the environment.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def main() -> None:
    """Train with the command line's knobs, and say how much of the 4-bit weights this process holds."""
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    import train
    from training import assembly, finish

    make_accelerator = assembly.make_accelerator

    def make(*args: Any, **kwargs: Any) -> Any:
        accelerator = make_accelerator(*args, **kwargs)
        plugin = FullyShardedDataParallelPlugin()
        if accelerator.mixed_precision != "no":
            plugin.set_mixed_precision(accelerator.mixed_precision)
        accelerator.state.fsdp_plugin = plugin
        accelerator.state.distributed_type = DistributedType.FSDP
        return accelerator

    assembly.make_accelerator = make
    end = finish.finish

    def describe(run: Any, ending: Any) -> int:
        packed = [p for name, p in run.model.named_parameters() if name.endswith("base_layer.weight")]
        local = sum(p.to_local().numel() for p in packed)
        print(f"held {local} of {sum(p.numel() for p in packed)}", flush=True)
        return end(run, ending)

    finish.finish = describe
    train.command()


if __name__ == "__main__":
    main()
