"""Memory of the GPU, from its driver (NVML). Without an NVIDIA GPU all of it is None."""

from __future__ import annotations

import ctypes
import threading


class _Memory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]  # bytes


class Gpu:
    """The first GPU: its name, and what all processes together have allocated on it."""

    def __init__(self) -> None:
        self.name, self._nvml = None, None
        try:
            nvml = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError:
            return
        self._handle = ctypes.c_void_p()
        if nvml.nvmlInit_v2() != 0 or nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self._handle)) != 0:
            return
        self._nvml = nvml
        name = ctypes.create_string_buffer(96)
        if nvml.nvmlDeviceGetName(self._handle, name, len(name)) == 0:
            self.name = name.value.decode()

    def used(self) -> float | None:
        """MiB."""
        memory = _Memory()
        if self._nvml is None or self._nvml.nvmlDeviceGetMemoryInfo(self._handle, ctypes.byref(memory)) != 0:
            return None
        return memory.used / 2**20


class MemoryLog:
    """What is allocated beyond what was before, at named moments, and the most there ever was. MiB, or None.

    Use it on a GPU that does nothing else: a process alone can't be asked about everywhere.
    """

    def __init__(self, gpu: Gpu) -> None:
        self._gpu, self._stop = gpu, threading.Event()
        self.before = self._peak = gpu.used()
        self.moments: dict[str, float | None] = {}
        self._watch = threading.Thread(target=self._poll, daemon=True)
        self._watch.start()

    def mark(self, moment: str) -> None:
        self.moments[moment] = self._beyond(self._gpu.used())

    def close(self) -> dict[str, float | None]:
        """{"before": …, moment: …, "peak": …}"""
        self._stop.set()
        self._watch.join()
        return {"before": self.before, **self.moments, "peak": self._beyond(self._peak)}

    def _beyond(self, used: float | None) -> float | None:
        return None if used is None or self.before is None else used - self.before

    def _poll(self) -> None:
        while self.before is not None and not self._stop.wait(0.02):
            self._peak = max(self._peak, self._gpu.used() or 0.0)
