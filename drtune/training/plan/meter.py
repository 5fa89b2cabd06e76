"""Two counters of bytes: of all tensors that are alive, and of those that autograd keeps for the backward pass.

Both count a storage once however many tensors show it, and work alike on real tensors and on fake ones.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """While entered, counts the bytes of what was made since and is still alive; `standing` tensors are not counted."""

    def __init__(self, standing: Iterable[Tensor]) -> None:
        TorchDispatchMode.__init__(self)
        self.now = self.peak = 0
        self._standing = _storages(standing)
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and count what it made."""
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return made

    def take_peak(self) -> int:
        """The most bytes at once since the last time this was asked."""
        peak, self.peak = self.peak, self.now
        return peak

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._standing or key in self._alive:
            return

        def freed(_: object) -> None:
            del self._alive[key]
            self.now -= size

        self._alive[key] = weakref.ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)


class SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """While entered, counts what autograd saves for backward, as long as it holds it; `standing` is not counted."""

    def __init__(self, standing: Iterable[Tensor]) -> None:
        self.now = self.peak = 0
        self._standing = _storages(standing)
        self._holders: dict[int, int] = {}
        super().__init__(lambda tensor: _Saved(self, tensor), lambda saved: saved.tensor)

    def take_peak(self) -> int:
        """The most bytes at once since the last time this was asked."""
        peak, self.peak = self.peak, self.now
        return peak

    def hold(self, storage: torch.UntypedStorage) -> None:
        """One more saved tensor shows this storage."""
        if (key := storage._cdata) in self._standing:
            return
        self._holders[key] = self._holders.get(key, 0) + 1
        if self._holders[key] == 1:
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)

    def release(self, storage: torch.UntypedStorage) -> None:
        """One saved tensor less shows it."""
        if (key := storage._cdata) in self._standing:
            return
        self._holders[key] -= 1
        if not self._holders[key]:
            del self._holders[key]
            self.now -= storage.nbytes()


class _Saved:
    """A tensor in autograd's hands."""

    def __init__(self, counter: SavedBytes, tensor: Tensor) -> None:
        self.counter, self.tensor = counter, tensor
        counter.hold(tensor.untyped_storage())

    def __del__(self) -> None:
        self.counter.release(self.tensor.untyped_storage())


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """The bytes of some tensors, each storage once."""
    return sum(storage.nbytes() for storage in _storages(tensors).values())


def _storages(tensors: Iterable[Tensor]) -> dict[int, torch.UntypedStorage]:
    """Storages by address: kept, so that no other can come to lie there."""
    return {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in tensors}
