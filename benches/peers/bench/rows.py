"""What is measured: the rows of the table."""


class Row:
    """A load, and the figures that are read off it."""

    def __init__(self, mode, load, seconds, figures, sampled=False, traced=None, conns=None):
        self.mode, self.load, self.seconds, self.figures = mode, load, seconds, figures
        # Whether the share of user time is sampled with perf, and the load under which system calls are counted.
        self.sampled, self.traced, self.conns = sampled, traced, conns


class Figure:
    """A line of the table."""

    def __init__(self, key, name, unit, lower_is_better=True, digits=2):
        self.key, self.name, self.unit = key, name, unit
        self.lower_is_better, self.digits = lower_is_better, digits


STORM = 12_000
FANOUT = "fan-out to 1,000 of 128 B, one message a turn"
ECHO = "echo of 128 B, 200 connections"

ROWS = {
    "fanout": Row(
        "broadcast",
        "--mode broadcast --conns 1000 --senders 4 --rate 50 --size 128",
        6,
        [
            Figure("user_us", f"{FANOUT}: user time for a delivery", "us", digits=3),
            Figure("calls", f"{FANOUT}: system calls for a delivery", "", digits=3),
        ],
        sampled=True,
        traced="--mode broadcast --conns 1000 --senders 4 --rate 5 --size 128",
    ),
    "fanout-16": Row(
        "broadcast",
        "--mode broadcast --conns 1000 --senders 4 --closed-loop 4 --size 128",
        2.5,
        [Figure("received", "fan-out, 16 messages in flight: million deliveries a second", "M", False)],
    ),
    "all-to-all": Row(
        "broadcast",
        "--mode broadcast --conns 300 --senders 64 --closed-loop 1 --size 20",
        2.5,
        [Figure("received", "all to all, 300 clients, 64 of them send 20 B: million deliveries a second", "M", False)],
    ),
    "echo": Row(
        "echo",
        "--mode echo --conns 200 --closed-loop 1 --size 128",
        5,
        [
            Figure("user_us", f"{ECHO}: user time for a message", "us", digits=3),
            Figure("calls", f"{ECHO}: system calls for a message", "", digits=3),
        ],
        sampled=True,
        traced="--mode echo --conns 200 --closed-loop 1 --size 128",
    ),
    "echo-16k": Row(
        "echo",
        "--mode echo --conns 100 --closed-loop 1 --size 16384",
        2.5,
        [Figure("received_k", "echo of 16 KiB, 100 connections: thousand messages a second", "k", False, 1)],
    ),
    "connect": Row(
        "echo",
        f"--mode idle --conns {STORM}",
        1,
        [
            Figure("connect_us", f"{STORM:,} connections at once: user time for one, accepted and upgraded", "us"),
            Figure("rss", "an idle connection: resident memory", "B", digits=0),
        ],
        conns=STORM,
    ),
    "fanout-15k": Row(
        "broadcast",
        "--mode broadcast --conns 15000 --senders 3 --rate 3 --size 128",
        5,
        [Figure("p99_ms", "fan-out to 15,000, three times a second: p99 of a delivery", "ms", digits=1)],
    ),
}
