"""Binds threads to the device of their worker, before they do anything else."""

from __future__ import annotations


def bind_thread(device: str) -> None:
    """Make `device` ("cpu", "cuda:N") this thread's own, before the thread touches it.

    A new thread has device 0, and no CUDA context until its first call. A fabric library that is
    called before then takes device memory for host memory, or gives up NVLink without a word
    (vllm-project/vllm#36475); on another device than 0 it copies with the wrong context. A call
    that needs a context follows, because `set_device` makes none where the number stays the same.
    """
    if device == "cpu":
        return
    import torch  # a worker without a device need not load it

    torch.cuda.set_device(device)
    torch.cuda.mem_get_info(device)
