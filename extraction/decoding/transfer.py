"""Numbers on their way to a device and back, without the host waiting: it has work to do meanwhile."""

from __future__ import annotations

import torch


def is_card(device: torch.device | str) -> bool:
    """Tell whether a device computes while the host goes on."""
    return torch.device(device).type == "cuda"


def send(numbers: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Put a tensor of the host onto a device, behind what was asked of it before.

    From memory that may be paged out, a copy to a card would wait until all of that is done.
    """
    if not is_card(device):
        return numbers.to(device)
    return numbers.pin_memory().to(device, non_blocking=True)


class Fetched:
    """Numbers that a device will have computed.

    Args:
        numbers: any shape; asked for now, so that what is asked of the device later delays nothing.
    """

    def __init__(self, numbers: torch.Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._numbers = numbers
        if numbers.is_cuda:
            self._numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._numbers.copy_(numbers, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(numbers.device))

    def wait(self) -> list:
        """Return them as soon as they are there, as nested lists."""
        if self._event is not None:
            self._event.synchronize()
        return self._numbers.tolist()
