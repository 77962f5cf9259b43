"""Names of metrics that are made of names that users chose."""

from __future__ import annotations

from typing import Final

_MARK: Final = " (agent)"


def agent_label(agent: str) -> str:
    """The agent's name, as the last part of a metric's; marked where it would be taken for the mean, or for nothing.

    Different agents have different labels.
    """
    if agent in ("", "mean") or agent.endswith(_MARK):
        return f"{agent or repr(agent)}{_MARK}"
    return agent
