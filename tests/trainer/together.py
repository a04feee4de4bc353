"""Runs a function in two processes on the CPU, connected as training processes are."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.multiprocessing.spawn import start_processes

from hardrank.trainer.runtime.launch import Launch, make_fabric

if TYPE_CHECKING:
    import lightning as L

Work = Callable[["L.Fabric", Path], None]


def run_together(work: Work, folder: Path, *, size: int = 2) -> None:
    """Call `work` (a function of a module) in `size` processes; raises if one of them fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # The processes are copies of one that has imported what they need, which takes seconds.
    multiprocessing.set_forkserver_preload(["hardrank.trainer.job_steps", "lightning"])
    start_processes(_start, args=(size, port, work, folder), nprocs=size, start_method="forkserver")


def _start(rank: int, size: int, port: int, work: Work, folder: Path) -> None:
    torchrun = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "GROUP_RANK": 0,
        "WORLD_SIZE": size,
        "LOCAL_WORLD_SIZE": size,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "TORCHELASTIC_RUN_ID": "test",
    }
    os.environ |= {name: str(value) for name, value in torchrun.items()}
    torch.set_num_threads(1)
    work(make_fabric(Launch(device="cpu"), world=size), folder)
    torch.distributed.destroy_process_group()
