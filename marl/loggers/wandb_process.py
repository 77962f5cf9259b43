"""The process that talks to W&B, so that nothing W&B does or fails to do can reach training.

It is started by ``WandbLogger`` as a script, imports nothing of this project, and reads requests from its stdin, one
JSON object a line: ``{"init": …}`` first, then ``{"row": …}``, ``{"table": …}`` and ``{"artifact": …}``, at last
``{"close": code}``.
It answers on stdout: ``{"ready": url}``, ``{"failed": why}``, ``{"finished": rows_dropped}``. If stdin ends without
``close``, the process that started it is dead: it finishes the run, within bounds, and ends.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import sys
import threading
from typing import Any

if __name__ == "__main__":
    sys.path.pop(0)  # this file's own folder, whose names would hide the packages wandb and tensorboard


_ORPHAN_SECONDS = 10.0
_NEWER = ("env_steps", "evaluation/final_env_steps")
"""Metrics of which a continued run's row has more than the run had; the last row has the steps of the one before."""


class Requests:
    """Requests from stdin, read as fast as they come, so that the writer never waits, up to a number of bytes."""

    def __init__(self, most_bytes: int | None) -> None:
        self._most_bytes = most_bytes
        self._lines: collections.deque[bytes] = collections.deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._ended = False
        self.dropped = 0
        threading.Thread(target=self._read, daemon=True).start()

    def next(self) -> dict[str, Any]:
        """The next request; ``{"orphaned": True}`` once stdin has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._ended)
            if not self._lines:
                return {"orphaned": True}
            line = self._lines.popleft()
            self._bytes -= len(line)
        request: dict[str, Any] = json.loads(line)
        return request

    def _read(self) -> None:
        closing = False
        for line in sys.stdin.buffer:
            is_row = line.startswith(b'{"row"')
            closing = closing or line.startswith(b'{"close"')
            with self._changed:
                if is_row and self._most_bytes is not None and self._bytes + len(line) > self._most_bytes:
                    self.dropped += 1
                    continue
                self._lines.append(line)
                self._bytes += len(line)
                self._changed.notify()
        with self._changed:
            self._ended = True
            self._changed.notify()
        if not closing:
            timer = threading.Timer(_ORPHAN_SECONDS, os._exit, (1,))
            timer.daemon = True
            timer.start()


def answer(**message: Any) -> None:
    """Writes one line to the process that started this one; it may be gone."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(message).encode() + b"\n")


def main() -> int:
    """Serves requests until one says to close."""
    first = json.loads(sys.stdin.buffer.readline() or b"{}")
    if "init" not in first:
        return 1
    options = first["init"]
    requests = Requests(options["most_bytes"])
    try:
        import wandb

        run = wandb.init(
            project=options["project"],
            name=options["name"],
            group=options["group"],
            id=options["id"],
            resume="allow" if options["resume"] else None,
            mode=options["mode"],
            config=options["config"],
            dir=options["directory"],
            settings=wandb.Settings(
                init_timeout=options["init_timeout"],
                login_timeout=1.0,  # never wait for a key to be typed
                silent=True,
                console="off",
            ),
        )
        run.define_metric("env_steps")
        run.define_metric("*", step_metric="env_steps")
        logged = {key: float(run.summary.get(key, -1)) if options["resume"] else -1.0 for key in _NEWER}
    except BaseException as error:
        # The key is not in these messages; only the first line is of use to a person.
        answer(failed=f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}")
        return 1
    answer(ready=run.url if options["mode"] == "online" else run.dir)
    code = 1
    try:
        while True:
            request = requests.next()
            if "row" in request:
                row = request["row"]
                if "env_steps" not in row or any(row.get(key, -1) > before for key, before in logged.items()):
                    logged = dict.fromkeys(logged, -1.0)
                    run.log(row)
            elif "table" in request:
                table = wandb.Table(columns=request["table"]["columns"], data=request["table"]["rows"])
                run.log({request["table"]["name"]: table})
            elif "artifact" in request:
                artifact = wandb.Artifact(request["artifact"]["name"], type=request["artifact"]["type"])
                artifact.add_dir(request["artifact"]["path"])
                run.log_artifact(artifact)
            else:
                code = request.get("close", 1)
                break
        run.finish(exit_code=code)
    except BaseException as error:
        answer(failed=f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}")
        return 1
    answer(finished=requests.dropped)
    return 0


if __name__ == "__main__":
    sys.exit(main())
