"""How much memory a file takes to run: measured in a process of its own.

This module is also the program of that process, which loads LiteRT and nothing else of ours.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Memory:
    """By how much a process grew when it loaded and ran a file.

    Attributes:
        resident: At the peak, bytes: all below, and the pages of the file that were read.
        anonymous: After it, bytes: tensors, scratch memory, and the copies of the weights that XNNPACK packs.
    """

    resident: int
    anonymous: int


def measure(
    model: str | bytes, delegate: str | None = None, options: Mapping[str, Any] | None = None, threads: int = 1
) -> Memory | None:
    """Loads and runs a file in a new process, and tells by how much that grew.

    Args:
        model: The path or bytes of a .tflite file.
        delegate: The path of a delegate to run it with. Defaults to none.
        options: The delegate's options. Defaults to none.
        threads: Defaults to 1.

    Returns:
        A `Memory`, or `None` where the system does not tell: elsewhere than on Linux.

    Raises:
        ValueError: If the file cannot be run.
    """
    if not os.path.exists("/proc/self/status"):
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = model
        if isinstance(model, bytes):
            path = os.path.join(folder, "model.tflite")
            Path(path).write_bytes(model)
        job = {"path": path, "delegate": delegate, "options": dict(options or {}), "threads": threads}
        # -I: without this file's folder in sys.path, whose modules have names such as data and summary.
        command = [sys.executable, "-I", __file__, json.dumps(job)]
        result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        reason = (result.stderr.strip() or "no reason given").splitlines()[-1]
        raise ValueError(f"cannot measure the memory of a file: {reason}")
    return Memory(**json.loads(result.stdout))


def _status(field):
    """A field of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status has no {field}")


def _run(job):
    import numpy as np
    from ai_edge_litert import interpreter as litert

    resident, anonymous = _status("VmRSS"), _status("RssAnon")
    delegates = [litert.load_delegate(job["delegate"], job["options"])] if job["delegate"] else []
    interpreter = litert.Interpreter(job["path"], num_threads=job["threads"], experimental_delegates=delegates)
    interpreter.allocate_tensors()
    for details in interpreter.get_input_details():
        value = np.random.default_rng(0).standard_normal(details["shape"], "float32")
        interpreter.set_tensor(details["index"], value.astype(details["dtype"]))
    for _ in range(2):
        interpreter.invoke()
    print(json.dumps({"resident": _status("VmHWM") - resident, "anonymous": _status("RssAnon") - anonymous}))


if __name__ == "__main__":
    _run(json.loads(sys.argv[1]))
