"""Launches: calls of networks whose work on the device is recorded once, and replayed from then on.

A network of Stable Diffusion 1.5's size starts some 1,700 kernels. A fast GPU computes each of them in less
time than Python takes to start it. A CUDA graph starts all of them together.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from threading import Lock
from typing import Any, NamedTuple, Protocol

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from zs2kit.attention import Layer, Run, Work, directly
from zs2kit.errors import first_line, is_out_of_memory, notify

MOST = 16  # if a network is called in more different ways than this, the further ones aren't recorded
_recording = Lock()  # a process can record only one graph at a time


class Recorder(Protocol):
    """Records work on a device."""

    def __call__(self, work: Callable[[], Any]) -> tuple[Any, Callable[[], object]]:
        """Do ``work``; return its results, and a function that does it again with the same tensors.

        That function reads the tensors that ``work`` has read, and writes to those that it has returned.
        """
        ...


class CudaGraphs:
    """Records CUDA graphs, all in the same memory."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pool = torch.cuda.graph_pool_handle()
        # One stream for all: graphs of one stream share memory, and each stream has its own cuBLAS workspace.
        self.stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, work: Callable[[], Any]) -> tuple[Any, Callable[[], object]]:
        """See `Recorder`."""
        current = torch.cuda.current_stream(self.device)
        # If a recording fails, torch would stay on the stream on which it was made.
        with torch.cuda.device(self.device), torch.cuda.stream(current):
            self.stream.wait_stream(current)
            with torch.cuda.stream(self.stream):  # once before, since what libraries set up can't be recorded
                work()
            current.wait_stream(self.stream)
            graph = torch.cuda.CUDAGraph()
            # thread_local: other threads, which read frames or work on another edit, may go on meanwhile.
            with torch.cuda.graph(
                graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"
            ):
                results = work()
        return results, graph.replay


class Launches:
    """Calls networks, and replays calls that came before.

    The first call of its kind is made normally; the second is recorded; all further ones are replays. A
    replay runs no Python code, so it would leave out what foreign hooks and attention processors do. So a
    network that has any is always called normally, and so is one that can't be recorded. A network is
    recorded anew if its weights have moved, or if the settings of one of its processors have changed.

    recorder: returns a new recorder with memory of its own; None records nothing. compiler: compiles a call,
    as ``torch.compile`` does; None compiles nothing.
    """

    def __init__(
        self, recorder: Callable[[], Recorder] | None, compiler: Callable[[Work], Work] | None = None
    ) -> None:
        self._new_recorder = recorder
        self._compiler = compiler
        self._compiled: dict[str, Work] = {}  # by network name, like the dictionaries below
        self._recorded: dict[str, dict[Hashable, _Recording | None]] = {}  # None: called once so far
        self._held: dict[str, Hashable] = {}  # what the recordings rely on, see `_held`
        self._refused: set[str] = set()
        self._forget()

    @property
    def records(self) -> bool:
        """Whether calls are recorded. If so, recordings take memory that nothing else can use."""
        return self._record is not None

    def stop(self) -> None:
        """Forget all recordings, and make no more."""
        self._new_recorder = None
        self._forget()

    def _forget(self) -> None:
        self._recorded.clear()
        self._record = self._new_recorder and self._new_recorder()

    def run(self, name: str, network: Any) -> Run:
        """Return the function that calls the network of this name."""
        if "forward" in vars(network):  # replaced, for example by a hook of accelerate's
            return directly(name, network)
        return partial(self._run, name, network)

    def _run(self, name: str, network: Any, work: Work, *inputs: Any) -> tuple[Any, list[torch.Tensor]]:
        if self._compiler is not None:
            if name not in self._compiled:
                self._compiled[name] = self._compiler(work)
            work = self._compiled[name]
        record = None if name in self._refused or torch.is_grad_enabled() else self._record
        held = _held(network) if record else None
        leaves, tree = tree_flatten(inputs)
        key = _key(leaves, tree)
        if record is None or held is None or key is None:
            return work(*inputs)
        if held != self._held.setdefault(name, held):
            self._forget()
            self._held = {name: held}
        known = self._recorded.setdefault(name, {})
        if key not in known:
            if len(known) < MOST:
                known[key] = None
            return work(*inputs)
        recording = known[key]
        if recording is None:
            try:
                recording = known[key] = _recorded(record, work, leaves, tree, network.device)
            except Exception as error:  # libraries and devices raise all sorts of errors here
                cause = error.__context__ or error
                if is_out_of_memory(cause):  # `Edit` makes room, giving up recordings first
                    raise cause from None
                self._refused.add(name)
                self._forget()
                notify(
                    "not-recorded",
                    f"the calls of the network {name} can't be recorded as a CUDA graph, and may be slower: "
                    f"{first_line(cause)}",
                    "`graphs=False` doesn't try",
                )
        return work(*inputs) if recording is None else recording(leaves)


class _Recording(NamedTuple):
    """A recorded call: it reads the tensors in ``fixed`` and writes to those in ``results``."""

    fixed: Sequence[Any]
    replay: Callable[[], object]
    results: Sequence[Any]
    tree: Any

    def __call__(self, leaves: Sequence[Any]) -> Any:
        """Replay the call with other tensors of the same shapes."""
        for old, new in zip(self.fixed, leaves, strict=True):
            if isinstance(old, torch.Tensor):
                old.copy_(new, non_blocking=True)
        self.replay()
        # Copied, since other recordings use the same memory.
        copies = [each.clone() if isinstance(each, torch.Tensor) else each for each in self.results]
        return tree_unflatten(copies, self.tree)


def _key(leaves: Sequence[Any], tree: Any) -> Hashable:
    """Return a key, equal for calls that one recording serves; None if a call can't be recorded."""
    found: list[Hashable] = []
    for each in leaves:
        if isinstance(each, torch.Tensor):
            found.append((each.shape, each.dtype))
        elif each is None or isinstance(each, bool | int | float | str | torch.dtype):
            found.append((type(each), each))
        else:
            return None
    return (*found, str(tree))


def _held(network: Any) -> Hashable:
    """Return what a recording of a network relies on; None if foreign Python code acts in its calls.

    This is where the weights are, and the settings of the attention processors.
    """
    held: list[Hashable] = []
    waiting = [network]
    while waiting:  # torch's own iterators take three times as long, and this runs in each call
        module = waiting.pop()
        own = vars(module)
        for hooks in (own["_forward_pre_hooks"], own["_forward_hooks"]):
            if hooks and any(not isinstance(getattr(it, "__self__", None), Layer) for it in hooks.values()):
                return None
        if "forward" in own and module is not network:
            return None
        parts = own["_modules"]
        processor = parts.get("processor") or own.get("processor")
        if processor is not None:
            if not type(processor).__module__.startswith("diffusers."):
                return None
            public = {name: value for name, value in vars(processor).items() if not name.startswith("_")}
            held += [id(processor), repr(public)]
        for tensors in (own["_parameters"], own["_buffers"]):
            held += [each.data_ptr() for each in tensors.values() if each is not None]
        waiting += [each for each in parts.values() if each is not None]
    return tuple(held)


def _recorded(
    record: Recorder, work: Work, leaves: Sequence[Any], tree: Any, device: torch.device
) -> _Recording:
    fixed = [
        torch.empty_like(each, device=device).copy_(each) if isinstance(each, torch.Tensor) else each
        for each in leaves
    ]
    inputs = tree_unflatten(fixed, tree)
    with _recording:
        results, replay = record(lambda: work(*inputs))
    return _Recording(fixed, replay, *tree_flatten(results))
