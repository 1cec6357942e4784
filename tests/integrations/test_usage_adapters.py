"""The adapters against servers on loopback that speak each provider's form, and what is left of it when it breaks."""

import asyncio
import gc
import gzip
import logging
import os
import socket
import time
from collections.abc import Sequence

import pytest

from ratelease import ProviderUsage
from ratelease.core.provider_usage import LONGEST_ANSWER, UsageSource
from ratelease.errors import ConfigError
from ratelease.usage import WAITING, FeatherlessUsage, JsonUsage, PrometheusUsage
from support.http_answers import HttpAnswers, answering, json_response, response

SECRET = "rc_0123456789-very-secret"
BODY = {"usage": {"concurrent_sessions": 2.9}, "limits": {"concurrency": {"limit": 4, "hard_cap": 5}}}

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="org/chat"} 3.0
vllm:num_requests_running{engine="1",model_name="a \\"b\\" } 9 \\\\"} 2.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="org/chat"} 7.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="org/chat"} 0.5
vllm:num_requests_running_other{engine="0"} 100.0
vllm:request_success_total{finished_reason="stop"} 100.0
"""
SGLANG = 'sglang:num_running_reqs{model_name="m"} 4.0\nsglang:num_queue_reqs{model_name="m"} 1.0\n'
LLAMA = "llamacpp:requests_processing 1\nllamacpp:requests_deferred 6\n"
TGI = "tgi_batch_current_size 8\ntgi_queue_size 2\n"
FEATHERLESS = {
    "limit": 8,
    "used_cost": 4,
    "request_count": 1,
    "requests": [{"id": "r1", "cost": 4, "model": "org/large", "started_at": "2026-01-01T00:00:00Z", "duration_ms": 9}],
}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own proxy has nothing to do with loopback."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


# --- JSON --------------------------------------------------------------------------------------------------


@pytest.mark.covers("UG-01", "UG-15")
async def test_json_is_read_at_the_usual_path() -> None:
    """The adapter offers what a provider does: one coroutine, one count."""
    async with answering(json_response(BODY)) as server:
        source: UsageSource = JsonUsage(f"{server.url}/v1/usage?window=now")
        assert await source.get_usage() == ProviderUsage(2)
    assert server.heads[0].startswith("GET /v1/usage?window=now HTTP/1.1\r\n")
    assert server.header("accept") == "application/json"


@pytest.mark.covers("UG-16")
async def test_limit_and_hard_cap_are_read_where_their_paths_are_given() -> None:
    async with answering(json_response(BODY)) as server:
        adapter = JsonUsage(server.url, limit="limits.concurrency.limit", hard_cap="limits.concurrency.hard_cap")
        assert await adapter.get_usage() == ProviderUsage(2, limit=4, hard_cap=5)


async def test_a_path_goes_through_lists() -> None:
    async with answering(json_response({"data": [{"running": 1}, {"running": 6}]})) as server:
        assert await JsonUsage(server.url, in_flight="data.1.running").get_usage() == ProviderUsage(6)


async def test_replicas_are_asked_at_once_and_added() -> None:
    """Each waits for the other to be asked, so one after the other would not end."""
    both = asyncio.Barrier(2)

    async def answer(writer: asyncio.StreamWriter) -> None:
        await both.wait()
        writer.write(json_response(BODY))

    async with answering(answer) as one, answering(answer) as other:
        usage = await JsonUsage([one.url, other.url], limit="limits.concurrency.limit").get_usage()
    assert usage == ProviderUsage(4, limit=8)


async def test_a_body_in_chunks_is_read() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = head + b'11\r\n{"usage": {"concu\r\n15\r\nrrent_sessions": 7}} \r\n0\r\n\r\n'
    async with answering(chunks) as server:
        assert await JsonUsage(server.url).get_usage() == ProviderUsage(7)


# --- Featherless -------------------------------------------------------------------------------------------


async def test_featherless_weight_and_limit_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATHERLESS_API_KEY", SECRET)
    async with answering(json_response(FEATHERLESS)) as server:
        usage = await FeatherlessUsage(url=f"{server.url}/account/concurrency").get_usage()
    assert usage == ProviderUsage(4, limit=8)
    assert server.header("authorization") == f"Bearer {SECRET}"


async def test_featherless_without_a_cap_has_no_limit() -> None:
    async with answering(json_response({**FEATHERLESS, "limit": None})) as server:
        assert await FeatherlessUsage(lambda: SECRET, url=server.url).get_usage() == ProviderUsage(4)


# --- metrics -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text,running,waiting", [(VLLM, 5, 12), (SGLANG, 4, 5), (LLAMA, 1, 7), (TGI, 8, 10)], ids=lambda v: str(v)[:6]
)
async def test_inference_servers_are_read(text: str, running: int, waiting: int) -> None:
    """Summed over label sets; a metric whose name only begins alike is another one."""
    async with answering(response(text)) as server:
        assert await PrometheusUsage(f"{server.url}/metrics").get_usage() == ProviderUsage(running)
        names = [name for name in WAITING if name in text]
        assert await PrometheusUsage(f"{server.url}/metrics", waiting=names).get_usage() == ProviderUsage(waiting)
        assert (await PrometheusUsage(server.url, waiting=WAITING).get_usage()) == ProviderUsage(waiting)


async def test_replicas_of_any_kind_are_added() -> None:
    async with answering(response(VLLM)) as one, answering(response(SGLANG)) as other:
        assert await PrometheusUsage([one.url, other.url]).get_usage() == ProviderUsage(9)


async def test_a_sum_without_one_replica_is_never_told() -> None:
    """It would look like free capacity: what answers nothing of use makes the whole unknown, what fails raises."""
    async with answering(response(VLLM)) as good:
        for broken in (response("up 1\n"), response(VLLM, "503 Service Unavailable")):
            async with answering(broken) as bad:
                assert await PrometheusUsage([good.url, bad.url]).get_usage() is None
        async with answering(b"") as bad:
            with pytest.raises(ConnectionError, match=f"{bad.url}.* could not be asked"):
                await PrometheusUsage([good.url, bad.url]).get_usage()


@pytest.mark.parametrize(
    "text",
    [
        "", "\n", "up 1\n", "<html><body>vllm:num_requests_running 1</body></html>\n", '{"usage": 1}',
        "vllm:num_requests_running 1", "vllm:num_requests_running\n", "vllm:num_requests_running -1\n",
        "vllm:num_requests_running NaN\n", "vllm:num_requests_running +Inf\n", "vllm:num_requests_running many\n",
        "vllm:num_requests_running 1e10\n", 'vllm:num_requests_running{engine="0} 1\n',
        'vllm:num_requests_running{engine="0"\n', "vllm:num_requests_running 1\nvllm:num_requests_running{ 1\n",
        "vllm:num_requests_running 1\nvllm:num_requests_running -1\n",
        'vllm:num_requests_running{a="' + "x" * 200_000 + '"} 1\n',
    ],
    ids=lambda text: ascii(text)[-50:],
)  # fmt: skip
async def test_metrics_that_cannot_be_understood_say_nothing(text: str) -> None:
    """No page of another kind, no part of an answer, no figure that is none."""
    async with answering(response(text)) as server:
        assert await PrometheusUsage(server.url).get_usage() is None


async def test_waiting_that_is_asked_for_and_missing_says_nothing() -> None:
    async with answering(response("vllm:num_requests_running 1\n")) as server:
        assert await PrometheusUsage(server.url, waiting=WAITING).get_usage() is None


async def test_bytes_that_are_no_text_say_nothing() -> None:
    async with answering(response(b"vllm:num_requests_running 1\n\xff\n")) as server:
        assert await PrometheusUsage(server.url).get_usage() is None


# --- answers that say nothing ------------------------------------------------------------------------------


@pytest.mark.covers("UG-15")
@pytest.mark.parametrize("status", ["204 No Content", "206 Partial Content", "401 Unauthorized", "500 Oops"])
async def test_only_status_200_is_read(status: str) -> None:
    content = b"" if status.startswith("204") else b'{"usage": {"concurrent_sessions": 2}}'
    async with answering(response(content, status)) as server:
        assert await JsonUsage(server.url).get_usage() is None


@pytest.mark.covers("UG-15")
@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "null", "2", "<html>", '"usage"', '{"usage": {"concurrent_sessions": "2"}}', "[" * 100_000,
        '{"usage": {"concurrent_sessions": -1}}', '{"usage": {"concurrent_sessions": 1000000001}}',
        '{"usage": {"concurrent_sessions": true}}', '{"usage": [{"concurrent_sessions": 2}]}',
    ],
    ids=lambda text: ascii(text)[-60:],
)  # fmt: skip
async def test_json_that_cannot_be_understood_says_nothing(content: str) -> None:
    async with answering(response(content)) as server:
        assert await JsonUsage(server.url).get_usage() is None


@pytest.mark.parametrize("declared", [True, False])
async def test_a_huge_answer_is_not_read_to_its_end(declared: bool) -> None:
    """1 MiB and one byte of it at most, also where its length is not said before."""
    sent = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        length = f"Content-Length: {10**12}\r\n" if declared else ""
        writer.write(f"HTTP/1.1 200 OK\r\n{length}\r\n".encode())
        while True:
            writer.write(b" " * 65536)
            await writer.drain()
            sent += 65536

    async with answering(endless) as server:
        assert await JsonUsage(server.url, timeout=8).get_usage() is None
        # What lies in the buffers of both sockets comes on top.
        assert sent < 32 * LONGEST_ANSWER


async def test_a_compressed_answer_is_not_unpacked(caplog: pytest.LogCaptureFixture) -> None:
    """It was asked not to come compressed: a bomb of a few kilobytes would be gigabytes."""
    packed = gzip.compress(b'{"usage": {"concurrent_sessions": 2}}' + b" " * 50_000_000)
    async with answering(response(packed, headers={"Content-Encoding": "gzip"})) as server:
        assert await JsonUsage(server.url).get_usage() is None
    assert server.header("accept-encoding") == "identity"
    assert "answers compressed" in caplog.text


@pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent"])
async def test_a_redirect_is_not_followed(status: str) -> None:
    """The secret goes to the address that was given, and nowhere else."""
    async with answering(json_response(BODY)) as elsewhere:
        moved = response(b"", status, {"Location": elsewhere.url})
        async with answering(moved) as server:
            assert await JsonUsage(server.url, secret=lambda: SECRET).get_usage() is None
    assert len(server.heads) == 1
    assert elsewhere.heads == []


# --- no answer ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nConte", b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{"])
async def test_a_silent_server_raises_after_the_timeout(start: bytes) -> None:
    """Before, within and after the head of its answer."""

    async def hang(writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        await asyncio.Event().wait()

    async with answering(hang) as server:
        began = time.monotonic()
        with pytest.raises(TimeoutError, match=r"did not answer within 0\.2 s"):
            await JsonUsage(server.url, timeout=0.2).get_usage()
        assert time.monotonic() - began < 1.5


async def test_the_timeout_is_for_the_whole_answer() -> None:
    """A server that sends a byte now and then would otherwise hold a poll for ever."""

    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with answering(drip) as server:
        began = time.monotonic()
        with pytest.raises(TimeoutError, match=server.url):
            await JsonUsage(server.url, timeout=0.3).get_usage()
        assert time.monotonic() - began < 1.5


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.0\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000_000,
    ],
    ids=["closed", "not-http", "cut-off", "cut-off-chunk", "endless-head"],
)
async def test_an_answer_that_breaks_off_raises(answer: bytes) -> None:
    async with answering(answer) as server:
        with pytest.raises(ConnectionError, match="could not be asked") as raised:
            await JsonUsage(server.url, secret=lambda: SECRET).get_usage()
    # The library's own error holds the request, with the secret.
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None


async def test_a_closed_port_raises() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionError, match="ConnectError"):
            await JsonUsage(f"http://127.0.0.1:{taken.getsockname()[1]}").get_usage()


async def test_plain_http_where_tls_was_meant_raises() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(json_response(BODY))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConnectionError, match="could not be asked"):
            await JsonUsage(f"https://127.0.0.1:{port}").get_usage()


async def test_a_cancelled_poll_ends_at_once_and_leaves_no_connection() -> None:
    asked, closed = asyncio.Event(), asyncio.Event()

    async def drip(writer: asyncio.StreamWriter) -> None:
        asked.set()
        try:
            while True:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                await writer.drain()
                await asyncio.sleep(0.01)
        finally:
            closed.set()

    async with answering(drip) as server:
        poll = asyncio.ensure_future(JsonUsage(server.url, timeout=30).get_usage())
        await asyncio.wait_for(asked.wait(), 5)
        poll.cancel()
        with pytest.raises(asyncio.CancelledError):
            await poll
        await asyncio.wait_for(closed.wait(), 5)


# --- use ---------------------------------------------------------------------------------------------------


def test_an_adapter_works_in_one_loop_after_another() -> None:
    """Nothing of a loop stays with it, and nothing is left for the garbage collector to complain about."""
    adapters: list[JsonUsage] = []

    async def poll() -> None:
        async with answering(json_response(BODY)) as server:
            adapters.append(JsonUsage(server.url))
            for adapter in (adapters[-1], adapters[-1]):
                assert await adapter.get_usage() == ProviderUsage(2)

    async def again(server: HttpAnswers) -> None:
        with pytest.raises(ConnectionError):
            await adapters[0].get_usage()

    asyncio.run(poll())
    asyncio.run(poll())
    asyncio.run(again(HttpAnswers()))
    gc.collect()


async def test_a_closed_adapter_asks_no_more() -> None:
    async with answering(json_response(BODY)) as server:
        for how in ("close", "aclose"):
            adapter = JsonUsage(server.url)
            for _ in range(2):
                closing = getattr(adapter, how)()
                if closing is not None:
                    await closing
            with pytest.raises(RuntimeError, match="is closed"):
                await adapter.get_usage()
    assert server.heads == []


async def test_why_nothing_is_known_is_logged_when_it_begins(caplog: pytest.LogCaptureFixture) -> None:
    """Once and not each second; again where it was known in between, or where it becomes another reason."""
    answers = [
        response(b"", "401 Unauthorized"), response(b"", "401 Unauthorized"), response(b"", "500 Oops"),
        json_response({}), json_response(BODY), response(b"", "500 Oops"),
    ]  # fmt: skip

    async def next_one(writer: asyncio.StreamWriter) -> None:
        writer.write(answers.pop(0))

    caplog.set_level(logging.WARNING, "ratelease")
    async with answering(next_one) as server:
        adapter = JsonUsage(f"{server.url}/usage")
        while answers:
            await adapter.get_usage()
    said = [record.getMessage().partition(f"{server.url}/usage ")[2] for record in caplog.records]
    oops = "answers with status 500"
    assert said == ["answers with status 401", oops, "does not say usage.concurrent_sessions", oops]


# --- secrets -----------------------------------------------------------------------------------------------


async def test_the_secret_goes_where_it_was_told_and_is_asked_for_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key may be replaced while the program runs."""
    monkeypatch.setenv("USAGE_KEY", " first\n")

    async def awaited() -> str:
        return "third"

    async with answering(json_response(BODY)) as server:
        adapter = JsonUsage(server.url, secret="USAGE_KEY", headers={"X-Team": "blue"})
        await adapter.get_usage()
        assert (server.header("authorization"), server.header("x-team")) == ("Bearer first", "blue")
        monkeypatch.setenv("USAGE_KEY", "second")
        await adapter.get_usage()
        assert server.header("authorization") == "Bearer second"
        await JsonUsage(server.url, secret=awaited, auth="{secret}", auth_header="X-Api-Key").get_usage()
        assert (server.header("x-api-key"), server.header("authorization")) == ("third", None)
        await JsonUsage(server.url.replace("//", "//scraper:p%40ss@")).get_usage()
        assert server.header("authorization") == "Basic c2NyYXBlcjpwQHNz"


async def test_no_secret_means_no_authorization() -> None:
    async with answering(json_response(BODY)) as server:
        await JsonUsage(server.url).get_usage()
    assert server.header("authorization") is None


def _raising() -> str:
    raise KeyError(SECRET)


async def test_a_secret_that_cannot_be_had_raises_and_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hanging() -> str:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setenv("USAGE_KEY", SECRET)
    async with answering(json_response(BODY)) as server:
        gone = JsonUsage(server.url, secret="USAGE_KEY")
        monkeypatch.delenv("USAGE_KEY")
        broken: Sequence[JsonUsage] = [
            gone,
            JsonUsage(server.url, secret=_raising),
            *(
                JsonUsage(server.url, secret=lambda value=value: value)
                for value in ("", " ", "a\r\nX: b", "é", None, 3)
            ),
        ]
        for adapter in broken:
            with pytest.raises(ConfigError, match="secret") as raised:
                await adapter.get_usage()
            assert SECRET not in f"{raised.value!r} {raised.value.__context__!r} {raised.value.__cause__!r}"
        with pytest.raises(TimeoutError, match="secret"):
            await JsonUsage(server.url, secret=hanging, timeout=0.1).get_usage()
    assert server.heads == []


async def test_secrets_are_in_no_text_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """Neither ours nor the HTTP library's, whatever happens; of a URL the user and the query are not shown."""
    caplog.set_level(0)
    shown: list[str] = []
    for answer in (json_response(BODY), response(b"", "401 Unauthorized"), response("{}"), b"", b"SSH-2.0\r\n"):
        async with answering(answer) as server:
            host = server.url.removeprefix("http://")
            for adapter in (
                JsonUsage(f"http://scraper:{SECRET}@{host}/usage"),
                JsonUsage(f"{server.url}/usage", secret=lambda: SECRET),
                JsonUsage(f"{server.url}/usage", headers={"X-Api-Key": SECRET}),
            ):
                try:
                    await adapter.get_usage()
                except ConnectionError as error:
                    shown.append(repr(error))
                shown.append(repr(adapter))
                assert repr(adapter) == f"JsonUsage(http://{host}/usage)"
    assert len(shown) == 21
    assert SECRET not in " ".join(shown)
    assert caplog.records
    assert SECRET not in caplog.text
    assert "c2NyYXBlcj" not in caplog.text  # scraper: in base64


async def test_the_query_is_not_shown_by_us() -> None:
    async with answering(b"") as server:
        adapter = JsonUsage(f"{server.url}/usage?key={SECRET}")
        with pytest.raises(ConnectionError) as raised:
            await adapter.get_usage()
    assert SECRET not in f"{raised.value} {adapter!r}"


def test_reading_the_environment_is_left_to_the_name_that_is_given() -> None:
    """A missing variable is named at once, not by the first poll."""
    assert "RATELEASE_NO_SUCH_KEY" not in os.environ
    with pytest.raises(ConfigError, match="not set"):
        JsonUsage("https://example.invalid", secret="RATELEASE_NO_SUCH_KEY")
