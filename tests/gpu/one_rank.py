"""A process group of one rank, in a separate module so that its process imports little."""

LOCALHOST = "127.0.0.1"


def sum_over_one_rank(uses_gpu: bool) -> tuple[float, str]:
    """Error of a sum over a process group of one rank, and its backend; to be called in a separate process."""
    import torch
    import torch.distributed as dist

    from learner.training.process_group import join_process_group, open_rendezvous

    store = open_rendezvous(LOCALHOST, 1)
    joined = join_process_group(0, 1, store, host=LOCALHOST, uses_gpu=uses_gpu, deadline_seconds=120)
    values = torch.arange(1000, dtype=torch.float32, device="cuda" if uses_gpu else "cpu")
    total = values.clone()
    dist.all_reduce(total)
    gathered: list[int | None] = [None]
    dist.all_gather_object(gathered, joined.rank + 7)
    assert gathered == [7]
    backend = dist.group.WORLD._get_backend(values.device).name()  # type: ignore[union-attr]
    return (total - values).abs().max().item(), backend
