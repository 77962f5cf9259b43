"""How the programs that step environments measure: standard library only, since each runs with another framework."""

import json
import statistics
import time
from collections.abc import Callable


def print_median_rate(rate: Callable[[], float], seconds: float) -> None:
    """Measures again and again for about that time, at least three times, and prints the median but for the first."""
    rates: list[float] = []
    begin = time.perf_counter()
    while len(rates) < 3 or time.perf_counter() - begin < seconds:
        rates.append(rate())
    print(json.dumps({"rate": statistics.median(rates[1:])}))
