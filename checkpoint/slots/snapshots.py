"""A state -> slots, by the training process, while the next forward and backward run.

Decides which slot is written, never when. Nothing here is collective.
"""

import errno
import json
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import final

import torch

from ..commit import Cargo
from ..digest import tensor_bytes
from ..layout import State, local_tensor
from ..pieces import copy_pieces, digest_pieces
from .image import Image, pack_digests
from .slotfile import SlotFile


@final
@dataclass(frozen=True, slots=True)
class Pair:
    """A box of the state and the part of a slot that it is copied to."""

    name: str
    source: torch.Tensor
    target: torch.Tensor
    both: tuple[memoryview, memoryview] | None
    """Their bytes, where the source is flat memory of this process; made once, since for small
    tensors that takes longer than the copy."""

    @classmethod
    def of(cls, name: str, source: torch.Tensor, target: torch.Tensor) -> "Pair":
        is_flat = source.is_cpu and source.is_contiguous()
        both = (tensor_bytes(source), tensor_bytes(target)) if is_flat else None
        return cls(name, source, target, both)

    def copy(self) -> str:
        """The digests of what was copied; the copy of a device's tensor is waited for."""
        if self.both is not None:
            return copy_pieces(*self.both)
        self.target.copy_(self.source)
        return digest_pieces(tensor_bytes(self.target))


@final
class Snapshots:
    """The slots of one rank as its training process writes them; for one thread.

    A snapshot is begun right after an optimizer step; before the next one touches the state,
    `wait` must have returned.

    Args:
        named: slots with a name, which are tried first.
        unnamed: as many, for where the memory file system of the named ones is too small.
        image: what the state's local part looks like.
        volatile: names of tensors that a forward changes, such as buffers: copied at once.
        say: told, once, that the named slots are too small.
    """

    def __init__(
        self,
        named: Sequence[SlotFile],
        unnamed: Sequence[SlotFile],
        image: Image,
        *,
        volatile: Collection[str],
        say: Callable[[str], None],
    ) -> None:
        self._named, self._unnamed = list(named), list(unnamed)
        self._image, self._plan = image, image.encode()
        self._names = [chunk.name for chunk in image.chunks]
        self._volatile = frozenset(volatile)
        self._say = say
        self._slots: list[SlotFile] = []
        self._views: list[list[torch.Tensor]] = []
        self._seen: list[torch.Tensor] = []
        self._pairs: dict[int, list[Pair]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="keepstep-snapshot")
        self._copied = threading.Event()
        self._copied.set()
        self._sealed: Future[None] | None = None
        self._side: torch.cuda.Stream | None = None
        self._pinned: list[int] = []
        self.copy_seconds = 0.0

    def open(self, *, most_bytes: int | None = None) -> None:
        """Takes the memory of all slots and maps it; blocks while the kernel clears the pages.

        Args:
            most_bytes: that slots may take anew; what they hold already is not counted.

        Raises:
            OSError: ENOSPC, there is not so much memory.
        """
        size = self._image.starts[-1]
        needed = size * sum(not slot.has_plan(self._plan, size) for slot in self._named)
        if most_bytes is not None and needed > most_bytes:
            raise OSError(
                errno.ENOSPC,
                f"recovery.slots={len(self._named)} take {needed / 2**20:,.0f} MiB of memory, but "
                f"a rank may take {most_bytes / 2**20:,.0f} MiB of what is left",
            )
        try:
            self._slots = self._prepared(self._named, size)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            self._say(
                f"snapshots: found no room for {len(self._named)} slots of {size / 2**20:,.0f} MiB "
                "in the memory file system, needed it for slots that outlive a guardian; they are "
                "kept without a name: enlarge /dev/shm to have them survive it"
            )
            for slot in self._named:
                slot.empty()
            self._slots = self._prepared(self._unnamed, size)
        header = self._image.header
        for slot in self._slots:
            data = slot.map()
            data[: len(header)] = header
            self._views.append(self._image.views(data))

    @property
    def num_bytes(self) -> int:
        """What the slots take of the machine's memory."""
        return sum(slot.num_bytes for slot in self._slots)

    @property
    def num_free(self) -> int:
        """Slots that nobody reads."""
        return sum(not slot.is_pinned for slot in self._slots)

    @property
    def can_pin(self) -> bool:
        """Whether a slot may be pinned, so that others keep the cadence whatever its reader does:
        two in turn where there are three, since while one is written only the other is whole."""
        return self.num_free > min(2, len(self._slots) - 1)

    def begin(self, state: State, cargo: Cargo, *, pin: bool = False) -> int | None:
        """Begins to copy the state, as of `cargo.step`; which slot it goes to, counting the named
        ones first.

        None where every slot is still being read: then this step has no snapshot. Blocks until the
        snapshot before is sealed, and for the tensors that are volatile.

        Args:
            pin: keep it until a reader unpins the slot.
        """
        self.settle()
        index = self._free_slot()
        if index is None:
            return None
        slot = self._slots[index]
        slot.unseal()
        if pin:
            slot.pin()
        later: dict[int, Pair] = {}
        for place, pair in enumerate(self._pairs_of(state, index)):
            if pair.name in self._volatile:
                pair.target.copy_(pair.source)
            else:
                later[place] = pair
        self._copied.clear()
        event = self._begin_on_device(later.values())
        self._sealed = self._thread.submit(self._finish, slot, index, later, cargo, event)
        return index if self._slots[0] in self._named else index + len(self._named)

    def wait(self) -> float:
        """Blocks until the state may change again; the seconds that took."""
        begun = time.perf_counter()
        self._copied.wait()
        return time.perf_counter() - begun

    def settle(self) -> None:
        """Blocks until what was begun is sealed; raises what the copying raised."""
        if self._sealed is not None:
            sealed, self._sealed = self._sealed, None
            sealed.result()

    def close(self) -> None:
        """Ends the copying; safe twice."""
        self._thread.shutdown(wait=True)
        self._seen = []
        self._pairs.clear()
        self._views.clear()
        while self._pinned:
            torch.cuda.cudart().cudaHostUnregister(self._pinned.pop())

    def _prepared(self, slots: list[SlotFile], size: int) -> list[SlotFile]:
        for slot in slots:
            slot.prepare(self._plan, size)
        return slots

    def _free_slot(self) -> int | None:
        """The one whose loss costs least: what is not whole first, then the oldest."""
        free = [index for index, slot in enumerate(self._slots) if not slot.is_pinned]
        return min(free, key=lambda index: self._slots[index].step, default=None)

    def _pairs_of(self, state: State, index: int) -> list[Pair]:
        seen = [state[name] for name in self._names]
        if self._seen and any(a is not b for a, b in zip(seen, self._seen, strict=True)):
            self._pairs.clear()
        self._seen = seen
        if index not in self._pairs:
            named = zip(self._names, seen, self._views[index], strict=True)
            self._pairs[index] = [Pair.of(n, local_tensor(one), view) for n, one, view in named]
        return self._pairs[index]

    def _begin_on_device(self, pairs: Collection[Pair]) -> torch.cuda.Event | None:
        """CUDA: the copies, on a stream of their own behind what the step has queued."""
        if not any(pair.source.is_cuda for pair in pairs):
            return None
        if self._side is None:
            self._side = torch.cuda.Stream()
            self._pinned = [_pin(slot.map()) for slot in self._slots]
        self._side.wait_stream(torch.cuda.current_stream())
        event = torch.cuda.Event()
        with torch.cuda.stream(self._side):
            for pair in pairs:
                pair.target.copy_(pair.source, non_blocking=True)
            event.record()
        return event

    def _finish(
        self,
        slot: SlotFile,
        index: int,
        pairs: Mapping[int, Pair],
        cargo: Cargo,
        event: torch.cuda.Event | None,
    ) -> None:
        begun, known = time.perf_counter(), dict[int, str]()
        try:
            if event is not None:
                event.synchronize()
            else:
                for place, pair in pairs.items():
                    known[place] = pair.copy()
        finally:
            self.copy_seconds = time.perf_counter() - begun
            self._copied.set()
        digests = [
            known.get(place) or digest_pieces(tensor_bytes(view))
            for place, view in enumerate(self._views[index])
        ]
        facts = json.dumps({**asdict(cargo), "created": time.time()}).encode()
        slot.seal(cargo.step, pack_digests(digests) + facts)


def _pin(data: memoryview) -> int:
    """Locks a slot's pages for the device, so that copies to it need no thread of ours; their
    address. The memory is ours already, so torch's own allocator of pinned memory does not do."""
    whole = torch.frombuffer(data, dtype=torch.uint8)
    error = torch.cuda.cudart().cudaHostRegister(whole.data_ptr(), whole.numel(), 0)
    if int(error):
        raise RuntimeError(
            f"recovery.slots: found CUDA error {error} at pinning {whole.numel()} bytes, needed "
            "them for snapshots; raise the limit of locked memory (ulimit -l), or set "
            "recovery.snapshot_every=0 and checkpoint.every_steps=0"
        )
    return whole.data_ptr()
