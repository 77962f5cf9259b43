"""OpenSpiel's games, adapted to PettingZoo, batched as tables, and measured by exploitability."""
