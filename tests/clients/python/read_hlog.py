"""Reads a histogram log with `hdrhistogram` from PyPI and prints what is in it, for `hlog.test.mjs` to compare with another reader.

    read_hlog.py FILE QUANTILE...

prints {tag: {"count": n, "max": n, "quantiles": [value, ...]}}, all intervals of a tag added up; the quantiles are percentages.
"""

import json
import sys

from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

# Of the sums; wide enough for any latency in nanoseconds, with the three significant digits of the log.
LOWEST, HIGHEST, DIGITS = 1, 3_600_000_000_000, 3


def read(path, quantiles):
    totals = {}
    # The reader wants a histogram of its own to add to when asked; here each interval is added to its tag's.
    reader = HistogramLogReader(path, HdrHistogram(LOWEST, HIGHEST, DIGITS))
    while (interval := reader.get_next_interval_histogram()) is not None:
        tag = interval.get_tag() or ""
        totals.setdefault(tag, HdrHistogram(LOWEST, HIGHEST, DIGITS)).add(interval)
    reader.close()
    return {
        tag: {
            "count": total.get_total_count(),
            "max": total.get_max_value(),
            "quantiles": [total.get_value_at_percentile(quantile) for quantile in quantiles],
        }
        for tag, total in totals.items()
    }


if __name__ == "__main__":
    json.dump(read(sys.argv[1], [float(each) for each in sys.argv[2:]]), sys.stdout)
