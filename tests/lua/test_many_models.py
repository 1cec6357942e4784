"""What is learned of very many models goes by itself."""

import pytest
import redis

from ratelease import Limits
from ratelease.core import scripts
from support.key_leaks import key_leaks
from support.store import Store

MODELS = 10_000
ALL = ["parallelism", "penalty", "decrement", {"kind": "breaker", "failures": 1}]
WEEK_MS = 7 * 86_400_000


@pytest.mark.covers("AL-38")
def test_every_key_of_ten_thousand_models_has_a_ttl(redis_client: redis.Redis) -> None:
    """Each of them has met a 429 under every strategy, with a pause and an open breaker; nothing else was called."""
    store = Store(redis_client, limits={"openai/*": Limits(concurrency=4, strategy=ALL)})
    one = store.instance()
    one.report("first", "t,60000,")
    sha = store._text(scripts.REPORT)[1]
    with redis_client.pipeline(transaction=False) as calls:
        for number in range(1, MODELS):
            line = one.line(f"model-{number}")
            call = scripts.report(one.session, store.keyspace, line, f"report-{number}", "t,60000,")
            calls.evalsha(sha, len(call.keys), *call.keys, *call.arguments)
        assert len(calls.execute()) == MODELS - 1
    learned = [key for key in redis_client.scan_iter(count=5000) if key.endswith(b":learned")]
    assert len(learned) == MODELS
    assert key_leaks(redis_client) == []
    assert all(WEEK_MS - 60_000 < redis_client.pttl(key) <= WEEK_MS for key in learned[:100])
