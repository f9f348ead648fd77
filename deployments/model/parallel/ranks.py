"""The processes that hold one model together, and the sums that they make of their parts.

On CPUs over gloo, on cards over NCCL. A collective that does not end within its time limit fails here (gloo) or ends
the process (NCCL's own watchdog): none waits for ever.
"""

import socket
from datetime import timedelta

import torch
from torch import distributed
from torch._C._distributed_c10d import TCPStore

from deployments.errors import ReplicaLost

TIMEOUT_S = 60.0
"""Of one collective. All begin theirs within milliseconds of each other, but for kernels that are compiled first."""


class RankLost(ReplicaLost):
    """The ranks can not go on together: one has died, hangs, or has failed where others have not."""


def listening(host: str) -> socket.socket:
    """A socket for the store through which ranks find each other."""
    return socket.create_server((host, 0))


class Ranks:
    """This process's place among them."""

    def __init__(
        self,
        rank: int,
        size: int,
        device: torch.device,
        store: tuple[str, int],
        *,
        listener: socket.socket | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """`store`: the address of rank 0's `listener`, which only rank 0 has itself. Waits for all of them."""
        on_card = device.type == "cuda"
        if on_card and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        self.rank, self.size, self.device = rank, size, device
        timeout = timedelta(seconds=timeout_s)
        host, port = store
        kept = TCPStore(
            host,
            port,
            is_master=listener is not None,
            timeout=timeout,
            wait_for_workers=False,
            master_listen_fd=None if listener is None else listener.detach(),
        )
        distributed.init_process_group(
            "nccl" if on_card else "gloo",
            store=kept,
            rank=rank,
            world_size=size,
            timeout=timeout,
            device_id=device if on_card else None,
        )

    def sum(self, part: torch.Tensor) -> torch.Tensor:
        """Of all ranks' parts, in place."""
        distributed.all_reduce(part)
        return part

    def joined(self, part: torch.Tensor) -> torch.Tensor:
        """[..., V] of every rank's [..., V / ranks], in their order."""
        parts = part.new_empty((self.size, *part.shape))
        distributed.all_gather(list(parts.unbind()), part.contiguous())
        return parts.movedim(0, -2).flatten(-2)

    def from_first(self, tensor: torch.Tensor) -> None:
        """What rank 0 has in it, in everybody's."""
        distributed.broadcast(tensor, src=0)

    def least(self, number: int) -> int:
        """The smallest of all ranks' numbers."""
        found = torch.tensor(number, device=self.device)
        distributed.all_reduce(found, op=distributed.ReduceOp.MIN)
        return int(found)

    def abort(self) -> None:
        """Let go of a collective whose other side is gone; may be called from any thread. gloo notices by itself."""
        if self.device.type == "cuda":
            distributed.distributed_c10d._abort_process_group()

    @staticmethod
    def close() -> None:
        if distributed.is_initialized():
            distributed.destroy_process_group()
