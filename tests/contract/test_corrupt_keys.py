"""Somebody else wrote to our keys: the key is named, nothing is overwritten, and reset mends it."""

import pytest

from ratelease import Limits, Pool
from ratelease.errors import StoreCorrupt, StoreUnavailable
from support.wait_until import wait_until_async

LIMITS = {"openai/gpt-4o": Limits(concurrency=2, rpm=100), "openai": Limits(rpm=200), "total": Limits(rpm=900)}
POOLS = {"all": Pool(["openai/*"], Limits(concurrency=5, rpm=150))}

PATH = "m:openai:gpt-4o~g:all~p:openai~t"
KEYS = [
    *("store", "instances", "paths", "profiles"),
    *(f"q:{PATH}:{kind}" for kind in ("queue", "claims")),
    *(f"m:openai:gpt-4o:{kind}" for kind in ("records", "graves")),
    *(
        f"{scope}:{kind}"
        for scope in ("m:openai:gpt-4o", "g:all", "p:openai", "t")
        for kind in ("state", "windows", "leases", "index")
    ),
]
# No request reads what an instance says of itself: whoever looks at the list of instances is told.
READ_BY_LOOKING = ("profiles",)


@pytest.mark.parametrize("name", KEYS)
async def test_a_key_of_a_wrong_type_is_named_kept_and_mended_by_reset(make_limiter, store, settings, name) -> None:
    """A string in the place of each of our keys in turn."""
    key = f"rl:{{{settings.namespace}}}:{name}".encode()
    store.set(key, "not ours", ex=600)
    before = store.dump(key)
    limiter = make_limiter(limits=LIMITS, pools=POOLS, attempt_timeout=0.5)
    if name in READ_BY_LOOKING:
        await limiter.hold("openai", "gpt-4o")
    with pytest.raises(StoreCorrupt) as caught:
        await (limiter.instances() if name in READ_BY_LOOKING else limiter.hold("openai", "gpt-4o"))
    error = caught.value
    assert error.key == key.decode()
    assert key.decode() in str(error)
    assert "reset" in str(error)
    assert store.dump(key) == before
    if name not in READ_BY_LOOKING:
        assert {*store.keys("*:leases"), *store.keys("*:windows")} <= {key}, "nothing was taken or charged"
    assert await limiter.reset() >= 1
    async with limiter.acquire("openai", "gpt-4o", timeout=5) as lease:
        assert lease.valid
    await wait_until_async(limiter.instances, description="the next heartbeat enters it in the list again")


async def test_other_models_go_on_while_one_model_is_damaged(make_limiter, store, settings) -> None:
    """Only requests whose path needs the key fail."""
    limiter = make_limiter(limits={"openai/*": Limits(concurrency=2)})
    await limiter.hold("openai", "healthy")
    store.set(f"rl:{{{settings.namespace}}}:m:openai:broken:leases", "not ours", ex=600)
    with pytest.raises(StoreCorrupt):
        await limiter.hold("openai", "broken")
    assert await limiter.try_acquire("openai", "healthy")


async def test_a_release_at_a_damaged_key_does_not_raise(make_limiter, store, settings) -> None:
    """The caller's own work is done: the slot comes back once the key is mended, or by the TTL."""
    limiter = make_limiter(limits=LIMITS)
    async with limiter.acquire("openai", "gpt-4o"):
        key = f"rl:{{{settings.namespace}}}:m:openai:gpt-4o:records"
        store.delete(key)
        store.set(key, "not ours", ex=600)
    assert store.get(key) == b"not ours"
    await limiter.reset("openai", "gpt-4o")

    async def free() -> bool:
        return await limiter.in_flight("openai/gpt-4o") == 0

    await wait_until_async(free, description="the slot is free")


async def test_rubbish_inside_our_keys_is_survived(make_limiter, store, settings) -> None:
    """The right types with nonsense in them: requests are answered, and the limit of two is kept."""
    base = f"rl:{{{settings.namespace}}}:"
    store.hset(f"{base}m:openai:gpt-4o:records", mapping={"x": "rubbish", "hold": "soon", "y": b"\xff\x00"})
    store.zadd(f"{base}q:{PATH}:queue", {"x": 1, "nobody": 2})
    store.zadd(f"{base}q:{PATH}:claims", {"x": 1, "nobody": 2})
    store.hset(f"{base}t:state", mapping={"generation": "many", "limits": "c? r=x"})
    store.hset(f"{base}m:openai:gpt-4o:windows", mapping={"r60000:n": "-5", "r60000:old": "x", "r60000:1": "?"})
    store.hset(f"{base}profiles", "somebody", b"\xc1\xc1")
    store.zadd(f"{base}instances", {b"somebody\xff": 9e15})
    store.zadd(f"{base}paths", {b"no path\xff": 1, "m:x~t": 2, "": 3})
    for key in store.keys("*"):
        store.expire(key, 600)
    limiter = make_limiter(limits=LIMITS, pools=POOLS)
    leases = await limiter.hold("openai", "gpt-4o", 2)
    assert not await limiter.try_acquire("openai", "gpt-4o")
    await leases[0].release()
    assert await limiter.instances()
    assert (await limiter.status()).scope("openai/gpt-4o").in_flight == 1


@pytest.mark.parametrize("store_url", ["redis"], indirect=True)
async def test_a_store_of_a_newer_schema_is_refused(make_limiter, store, settings) -> None:
    """A later version has written there: the message says what to do, and nothing is changed."""
    store.hset(f"rl:{{{settings.namespace}}}:store", mapping={"schema": 2, "epoch": "later"})
    store.expire(f"rl:{{{settings.namespace}}}:store", 600)
    limiter = make_limiter(limits=LIMITS)
    with pytest.raises(StoreUnavailable, match=r"schema is 2.*upgrade"):
        await limiter.hold("openai", "gpt-4o")
    assert store.keys("*leases") == []
