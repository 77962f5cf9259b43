"""The process that talks to W&B, so that nothing W&B does or fails to do can reach training.

It is started by ``WandbLogger`` as a script, imports nothing of this project, and reads orders from its stdin, one
JSON object a line: ``{"init": …}`` first, then ``{"row": …}``, ``{"table": …}`` and ``{"artifact": …}``, at last
``{"close": code}``.
It answers on stdout: ``{"ready": url}``, ``{"failed": why}``, ``{"finished": rows_dropped}``. If stdin ends without
``close``, whoever started it is dead: it finishes the run, within bounds, and goes.
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


class Orders:
    """Reads stdin as fast as it comes, so that the writer never waits, and keeps so many bytes of it at most."""

    def __init__(self, most_bytes: int | None) -> None:
        self._most_bytes = most_bytes
        self._lines: collections.deque[bytes] = collections.deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._ended = False
        self.dropped = 0
        threading.Thread(target=self._read, daemon=True).start()

    def next(self) -> dict[str, Any]:
        """The next order; ``{"orphaned": True}`` once stdin has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._ended)
            if not self._lines:
                return {"orphaned": True}
            line = self._lines.popleft()
            self._bytes -= len(line)
        order: dict[str, Any] = json.loads(line)
        return order

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
    """One line to whoever started this process; it may be gone."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(message).encode() + b"\n")


def main() -> int:
    """Does what it is told until it is told to close."""
    first = json.loads(sys.stdin.buffer.readline() or b"{}")
    if "init" not in first:
        return 1
    options = first["init"]
    orders = Orders(options["most_bytes"])
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
                login_timeout=1.0,  # never wait for somebody to type a key
                silent=True,
                console="off",
            ),
        )
        run.define_metric("env_steps")
        run.define_metric("*", step_metric="env_steps")
        logged = float(run.summary.get("env_steps", -1)) if options["resume"] else -1.0
    except BaseException as error:
        # The key is not in these messages; only the first line is of use to a person.
        answer(failed=f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}")
        return 1
    answer(ready=run.url if options["mode"] == "online" else run.dir)
    code = 1
    try:
        while True:
            order = orders.next()
            if "row" in order:
                if order["row"].get("env_steps", logged + 1) > logged:
                    logged = -1.0
                    run.log(order["row"])
            elif "table" in order:
                table = wandb.Table(columns=order["table"]["columns"], data=order["table"]["rows"])
                run.log({order["table"]["name"]: table})
            elif "artifact" in order:
                artifact = wandb.Artifact(order["artifact"]["name"], type=order["artifact"]["type"])
                artifact.add_dir(order["artifact"]["path"])
                run.log_artifact(artifact)
            else:
                code = order.get("close", 1)
                break
        run.finish(exit_code=code)
    except BaseException as error:
        answer(failed=f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}")
        return 1
    answer(finished=orders.dropped)
    return 0


if __name__ == "__main__":
    sys.exit(main())
