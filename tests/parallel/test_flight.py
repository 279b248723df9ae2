"""What a rank says of the collective that it waits in."""

import threading
import time

import torch
import torch.distributed as dist
from support.world import run_world

from keepstep.parallel import pending


def test_who_waits_names_the_collective_and_who_is_waited_for_names_none() -> None:
    def body(rank: int) -> tuple[str, str]:
        began = time.time()
        group = dist.new_group([0, 1], group_desc="votes")
        dist.all_reduce(torch.ones(1), group=group)
        seen: list[str] = []

        def look() -> None:
            time.sleep(0.3)
            seen.append(str(pending(since=began)))

        thread = threading.Thread(target=look)
        thread.start()
        if rank:
            time.sleep(0.8)
        dist.all_reduce(torch.ones(1), group=group)
        thread.join()
        time.sleep(0.2)  # until gloo's own thread has noted that it is over
        return seen[0], str(pending(since=began))

    first, second = run_world(2, body)
    assert first == ("all_reduce 2 of group votes", "None")
    assert second == ("None", "None")


def test_what_was_before_does_not_count() -> None:
    def body(rank: int) -> str:
        seen: list[str] = []
        if rank:
            time.sleep(0.5)
        else:
            later = time.time() + 0.2

            def look() -> None:
                time.sleep(0.3)
                seen.append(str(pending(since=later)))

            threading.Thread(target=look).start()
        dist.all_reduce(torch.ones(1))
        return seen[0] if seen else "nothing"

    assert run_world(2, body)[0] == "None"
