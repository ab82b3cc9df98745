"""What is measured: a table of scenarios, each over TCP, over TLS and over a Unix socket."""

from __future__ import annotations

from typing import NamedTuple

MIB = 2**20
OVER = ("tcp", "tls", "unix")


class Metric(NamedTuple):
    """One figure of a round, and how it is shown."""

    name: str  # its key in a client's answer
    about: str = ""  # what it is, where it is not the scenario's time
    each: bool = False  # it is of the whole round: kept divided by the round's work
    per: int = 1  # shown for so many units of work; 0: for all that a full round has
    unit: str = "s"  # or "B"
    scale: float = 0.0  # a rate is shown too: units of work per second times this
    rate: str = ""  # and called so


#: The one metric of most scenarios.
EACH = Metric("seconds", each=True, scale=1, rate="/s")
LATENCY = (Metric("p50", "median"), Metric("p99", "99th percentile"))
BYTES = Metric("seconds", each=True, per=0, scale=1e-6, rate=" MB/s")


class Scenario(NamedTuple):
    name: str
    about: str
    kind: str  # which client and handler of `work`, in whatever language
    work: int  # how much one round does
    quick_work: int  # and with --quick
    metrics: tuple[Metric, ...] = (EACH,)
    streams: int = 1  # open at once, or callers that open
    workers: int = 0  # server threads that accept and handle; 0: a new thread for each connection
    rounds: int = 5
    fresh: bool = False  # new processes for every round
    everybody: bool = False  # other projects' peers take part too, unless they are named
    everybody_quick: bool = False  # and with --quick as well
    over: str = "tcp"
    usual: bool = True  # run when no scenario is named
    quick: bool = True  # and with --quick as well


def _opens(callers: int, count: int, *, pool: bool = False) -> Scenario:
    return Scenario(
        f"open-{callers}{'-pool' * pool}",
        f"open, 1 KiB echo, close; {callers} caller{'s' * (callers > 1)}, "
        + ("16 waiting workers" if pool else "a thread for each"),
        "open",
        count,
        count // 8,
        streams=callers,
        workers=16 if pool else 0,
        everybody=not pool and callers < 256,
        quick=callers < 256,
    )


def _thinks(callers: int) -> Scenario:
    return Scenario(
        f"think-{callers}",
        f"wait for an answer beyond the server's 0.5 to 2 ms; {callers} callers that pause",
        "think",
        800 * callers,
        128 * callers,
        LATENCY,
        streams=callers,
        everybody=True,
        quick=callers == 8,
    )


def _pushes(readers: int) -> Scenario:
    who = "1 reader that pauses" if readers == 1 else f"{readers} readers that pause"
    return Scenario(
        f"push-{readers}",
        f"a message's time from send to receipt; {who}",
        "push",
        1_200 * readers,
        200 * readers,
        (
            Metric("p50", "median"),
            Metric("p99", "99th percentile, pauses not counted"),
        ),
        streams=readers,
        everybody=True,
        quick=readers == 8,
    )


_SCENARIOS = (
    Scenario(
        "rtt",
        "1 byte there and back",
        "rtt",
        10_000,
        2_000,
        # Where the kernel happens to put the two processes makes much of the difference
        # between one round and the next.
        rounds=15,
        everybody=True,
        everybody_quick=True,
    ),
    *(
        Scenario(
            f"rtt-{callers}",
            f"1 byte there and back, {callers} callers on one each",
            "rtt",
            20_000,
            2_000,
            streams=callers,
            everybody=callers == 4,
        )
        for callers in (4, 16)
    ),
    *(
        _opens(callers, count, pool=pool)
        for pool in (False, True)
        for callers, count in ((1, 2_000), (8, 4_000), (64, 6_400), (256, 6_400))
    ),
    Scenario(
        "bulk",
        "192 MiB from client to server",
        "bulk",
        192 * MIB,
        48 * MIB,
        (BYTES,),
        everybody=True,
        everybody_quick=True,
    ),
    Scenario(
        "bulk-down",
        "192 MiB from server to client",
        "down",
        192 * MIB,
        48 * MIB,
        (BYTES,),
        everybody=True,
    ),
    Scenario("bulk-both", "192 MiB each way at once", "both", 192 * MIB, 48 * MIB, (BYTES,)),
    Scenario(
        "bulk-64",
        "64 at once, 4 MiB each",
        "bulk",
        256 * MIB,
        64 * MIB,
        (BYTES,),
        streams=64,
        everybody=True,
    ),
    Scenario(
        "messages",
        "1,000,000 sends of 64 bytes",
        "messages",
        1_000_000,
        100_000,
        everybody=True,
    ),
    Scenario(
        "messages-100",
        "1,000,000 sends of 64 bytes by 100 callers on one each",
        "messages",
        1_000_000,
        100_000,
        streams=100,
    ),
    Scenario(
        "latency",
        "1 byte there and back beside a bulk transfer",
        "latency",
        2_000,
        250,
        (
            *LATENCY,
            Metric("bulk", "the transfer meanwhile", per=MIB, scale=1e-6, rate=" MB/s"),
        ),
        everybody=True,
    ),
    *(_thinks(callers) for callers in (2, 8, 32)),
    *(_pushes(readers) for readers in (1, 8, 32)),
    Scenario(
        "idle",
        "10,000 idle: memory for each, both ends together",
        "idle",
        10_000,
        1_000,
        (
            Metric("bytes", each=True, unit="B"),
            Metric("all", "with the kernel's", each=True, unit="B"),
        ),
        rounds=3,
        fresh=True,
        everybody=True,
    ),
    Scenario(
        "start",
        "a new process, from its start to the first byte back",
        "start",
        10,
        2,
        (Metric("seconds", each=True), Metric("import", "import", each=True)),
        everybody=True,
    ),
)

#: Those that are also run over TLS, or over a Unix socket, when no scenario is named.
_USUAL = {
    "tls": {"rtt", "open-8", "open-64", "bulk", "bulk-64", "latency", "start"},
    "unix": {"rtt", "open-8", "bulk"},
}
_QUICK = {"tls": {"rtt", "open-8", "bulk"}, "unix": {"rtt", "bulk"}}
_CALLED = {"tls": "TLS", "unix": "a Unix socket"}


def _over(scenario: Scenario, over: str) -> Scenario:
    if over == "tcp":
        return scenario
    return scenario._replace(
        name=f"{scenario.name}-{over}",
        about=f"{scenario.about}, over {_CALLED[over]}",
        over=over,
        usual=scenario.name in _USUAL[over],
        everybody=scenario.everybody and over == "tls",
        everybody_quick=False,
        quick=scenario.name in _QUICK[over],
    )


#: By name; "-tls" or "-unix" behind it says what it runs over.
SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for over in OVER
    for scenario in (_over(scenario, over) for scenario in _SCENARIOS)
}
