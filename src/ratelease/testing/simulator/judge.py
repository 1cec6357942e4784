"""Count what reached the provider, so that the simulator can be the judge of a limiter."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ratelease.testing.simulator.model import REASONS, ProviderModel, Reason

# Arrival times kept for exact questions afterwards: about 32 MB, an hour at 277 requests per second.
KEPT_ARRIVALS = 1_000_000


@dataclass(frozen=True, slots=True)
class SimulatorStats:
    """Tell what the provider saw since it started or was reset. Times are in seconds.

    `requests` = `admitted` + `throttled` + `overloaded` + `quota` + `invalid`. A request is `completed` when its
    whole answer was written and `disconnected` when its client left before that.
    """

    requests: int
    admitted: int
    throttled: int
    throttled_by: Mapping[str, int]
    """429s by what refused: requests, tokens, burst, ramp, concurrency, or forced by a phase."""
    overloaded: int
    """Answers of 503 and 529."""
    quota: int
    """Refusals for an empty account."""
    invalid: int
    completed: int
    disconnected: int
    in_flight: int
    counted: int
    """What the provider counts as in flight: with those that have ended of late or run on without a client, and with
    those of others."""
    peak_in_flight: int
    peak_counted: int
    """The most that the provider counted at any moment."""
    counted_seconds: float
    """For how long it counted calls, the seconds of all calls added: ÷ (`concurrency` × `elapsed`) is the use."""
    beyond_limit: int
    """Requests admitted beyond `concurrency`, up to the hard cap."""
    foreign: int
    """Calls of others in flight."""
    foreign_calls: int
    """Those that have come so far."""
    usage_polls: int
    """How often the provider was asked for its usage, in whatever shape."""
    in_window: int
    """Admitted in the window that ends at this moment."""
    peak_in_window: int
    """The most admitted in any half-open interval of `window` seconds, wherever it starts."""
    elapsed: float
    window: float
    limit: int | None
    """Requests per `window`; None where nothing limits them."""
    burst: int | None
    concurrency: int | None

    def to_dict(self) -> dict[str, Any]:
        """Return the same as the JSON of `GET /_sim/stats`."""
        return asdict(self)


def max_in_any_window(arrivals: Iterable[float], window: float) -> int:
    """Return the most of the ascending `arrivals` that lie in one half-open interval of `window` seconds."""
    inside: deque[float] = deque()
    most = 0
    for stamp in arrivals:
        inside.append(stamp)
        while stamp - inside[0] >= window:
            inside.popleft()
        most = max(most, len(inside))
    return most


class Judge:
    """Keep the counts of one simulator.

    What it counts itself it shares with nothing that decides, so that it can convict the models.
    """

    def __init__(self, clock: Callable[[], float], window: float) -> None:
        self._clock = clock
        self._window = window
        self._in_flight = 0
        self.reset()

    def reset(self) -> None:
        """Forget all counts. What is in flight stays so, and its end is counted after the reset."""
        self._started = self._clock()
        self._admitted = 0
        self._invalid = 0
        self._completed = 0
        self._disconnected = 0
        self._usage_polls = 0
        self._refused: Counter[Reason] = Counter()
        self._peak_in_flight = self._in_flight
        self._inside: deque[float] = deque()
        self._peak_in_window = 0
        self._arrivals: deque[float] = deque(maxlen=KEPT_ARRIVALS)

    def admit(self, now: float) -> None:
        """Count a request admitted at `now`."""
        self._admitted += 1
        self._in_flight += 1
        self._peak_in_flight = max(self._peak_in_flight, self._in_flight)
        self._arrivals.append(now)
        self._inside.append(now)
        self._expire(now)
        self._peak_in_window = max(self._peak_in_window, len(self._inside))

    def refuse(self, reason: Reason) -> None:
        """Count a refusal: a 429, an overload, or an empty account."""
        self._refused[reason] += 1

    @property
    def refused(self) -> int:
        """Return how many requests were refused, for whatever reason of the provider's."""
        return self._refused.total()

    @property
    def usage_polls(self) -> int:
        """Return how often the usage was asked for."""
        return self._usage_polls

    def refuse_invalid(self) -> None:
        """Count a request that was no valid chat request."""
        self._invalid += 1

    def poll(self) -> None:
        """Count a request for the usage."""
        self._usage_polls += 1

    def leave(self, *, completed: bool) -> None:
        """Count the end of an admitted request."""
        self._in_flight -= 1
        if completed:
            self._completed += 1
        else:
            self._disconnected += 1

    def arrivals(self) -> list[float]:
        """Return when requests were admitted, ascending, in seconds since the start or the last reset."""
        return [stamp - self._started for stamp in self._arrivals]

    def stats(
        self, *, limit: int | None, burst: int | None, concurrency: int | None, model: ProviderModel
    ) -> SimulatorStats:
        """Return the counts, beside the limits they are measured against and what the provider itself counts."""
        now = self._clock()
        occupancy = model.occupancy
        self._expire(now)
        throttled: dict[str, int] = {reason: self._refused[reason] for reason in REASONS}
        return SimulatorStats(
            requests=self._admitted + self.refused + self._invalid,
            admitted=self._admitted,
            throttled=sum(throttled.values()),
            throttled_by=throttled,
            overloaded=self._refused["overloaded"],
            quota=self._refused["quota"],
            invalid=self._invalid,
            completed=self._completed,
            disconnected=self._disconnected,
            in_flight=self._in_flight,
            counted=occupancy.counted(now),
            peak_in_flight=self._peak_in_flight,
            peak_counted=occupancy.peak,
            counted_seconds=occupancy.seconds,
            beyond_limit=model.beyond_limit,
            foreign=occupancy.foreign,
            foreign_calls=occupancy.foreign_calls,
            usage_polls=self._usage_polls,
            in_window=len(self._inside),
            peak_in_window=self._peak_in_window,
            elapsed=now - self._started,
            window=self._window,
            limit=limit,
            burst=burst,
            concurrency=concurrency,
        )

    def _expire(self, now: float) -> None:
        while self._inside and now - self._inside[0] >= self._window:
            self._inside.popleft()
