"""Marks the calls that W&B's own process makes, so that a kill can come while one is under way.

Python runs this file at its start where its folder is on PYTHONPATH. In the process that talks to W&B, and there only,
a file ``CALL-PID`` stands in the folder MARL_WANDB_CALLS as long as W&B is within ``init``, ``log`` or ``finish``. The
calls are W&B's own; ``log``, which takes less than a millisecond offline, lasts a little longer, as with a slow server.
"""

import functools
import os
import sys
import time
from pathlib import Path

SECONDS = {"log": 0.03}


def _marked(name, call):
    @functools.wraps(call)
    def within(*words, **options):
        mark = Path(os.environ["MARL_WANDB_CALLS"], f"{name}-{os.getpid()}")
        mark.touch()
        try:
            result = call(*words, **options)
            time.sleep(SECONDS.get(name, 0.0))
        finally:
            mark.unlink(missing_ok=True)
        return result

    return within


if "MARL_WANDB_CALLS" in os.environ and any(word.endswith("wandb_process.py") for word in sys.orig_argv):
    import wandb

    wandb.init = _marked("init", wandb.init)
    for _name in ("log", "finish"):
        setattr(wandb.Run, _name, _marked(_name, getattr(wandb.Run, _name)))
