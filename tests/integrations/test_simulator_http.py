"""The provider simulator as its clients see it: over real HTTP on loopback."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading

import httpx
import pytest

from ratelease.testing.simulator import ProviderSimulator, SimulatorStats
from support.wait_until import wait_until, wait_until_async

BODY = {"model": "chat-model", "messages": [{"role": "user", "content": "say something"}]}
CHAT = "/v1/chat/completions"


# --- answers -----------------------------------------------------------------------------------------------


def test_a_plain_answer_has_the_shape_and_headers_of_the_real_one(http):
    with ProviderSimulator(rpm=5, latency=0) as sim:
        answer = http.post(sim.url + CHAT, json=BODY)

    assert answer.status_code == 200
    fields = answer.json()
    assert (fields["object"], fields["model"]) == ("chat.completion", "chat-model")
    assert fields["choices"][0]["message"]["role"] == "assistant"
    assert fields["choices"][0]["finish_reason"] == "stop"
    assert fields["usage"]["prompt_tokens"] + fields["usage"]["completion_tokens"] == fields["usage"]["total_tokens"]
    assert answer.headers["x-ratelimit-limit-requests"] == "5"
    assert answer.headers["x-ratelimit-remaining-requests"] == "4"
    assert answer.headers["x-ratelimit-reset-requests"] == "1m0s"
    assert answer.headers["x-request-id"].startswith("req_")


def test_a_streamed_answer_says_the_same_in_chunks(http):
    with ProviderSimulator(latency=0) as sim:
        plain = http.post(sim.url + CHAT, json=BODY).json()
        options = {"stream": True, "stream_options": {"include_usage": True}}
        streamed = http.post(sim.url + CHAT, json={**BODY, **options})

    assert streamed.headers["content-type"].startswith("text/event-stream")
    events = [line.removeprefix("data: ") for line in streamed.text.split("\n\n") if line]
    assert events.pop() == "[DONE]"
    chunks = [json.loads(event) for event in events]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == plain["usage"]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1])
    assert text == plain["choices"][0]["message"]["content"]
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"


def test_a_stream_has_usage_only_where_it_was_asked_for(http):
    with ProviderSimulator(latency=0) as sim:
        streamed = http.post(sim.url + CHAT, json={**BODY, "stream": True})

    assert "usage" not in streamed.text


@pytest.mark.parametrize(
    "body,param",
    [
        (b"", None),
        (b"{", None),
        (b"[1]", None),
        (b'{"messages": [{"role": "user"}]}', "model"),
        (b'{"model": "m"}', "messages"),
        (b'{"model": "m", "messages": []}', "messages"),
        (b'{"model": "m", "messages": ["hi"]}', "messages[0]"),
        (b'{"model": "m", "messages": [{"role": "user"}], "stream": "yes"}', "stream"),
        (b'{"model": "m", "messages": [{"role": "user"}], "stream_options": {}}', "stream_options"),
    ],
)
def test_a_malformed_body_is_refused_as_the_real_provider_does_and_costs_nothing(http, body, param):
    with ProviderSimulator(rpm=1, latency=0) as sim:
        answer = http.post(sim.url + CHAT, content=body)
        assert http.post(sim.url + CHAT, json=BODY).status_code == 200
        stats = sim.stats()

    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, None)
    assert (stats.requests, stats.invalid, stats.admitted) == (2, 1, 1)


def test_an_unknown_address_and_a_wrong_method_answer_in_the_same_form(http):
    with ProviderSimulator() as sim:
        unknown, wrong = http.get(sim.url + "/v1/models"), http.get(sim.url + CHAT)

    assert (unknown.status_code, wrong.status_code) == (404, 405)
    assert unknown.json()["error"]["code"] == wrong.json()["error"]["code"] == "unknown_url"


# --- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["strict", "bucket"])
def test_a_429_carries_the_real_body_and_headers(http, algorithm):
    with ProviderSimulator(rpm=2, window=10.0, algorithm=algorithm, latency=0) as sim:
        refused = [http.post(sim.url + CHAT, json=BODY) for _ in range(3)][-1]
        stats = sim.stats()

    assert refused.status_code == 429
    error = refused.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("requests", None, "rate_limit_exceeded")
    assert "chat-model" in error["message"]
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    milliseconds = int(refused.headers["retry-after-ms"])
    longest = 10_000 if algorithm == "strict" else 5_000
    assert longest - 2_000 < milliseconds <= longest
    assert (milliseconds - 1) // 1000 + 1 == int(refused.headers["retry-after"])
    assert (stats.admitted, stats.throttled_by["requests"]) == (2, 1)


def test_waiting_for_retry_after_is_enough(http):
    with ProviderSimulator(rpm=1, window=0.3, latency=0) as sim:
        http.post(sim.url + CHAT, json=BODY)
        refused = http.post(sim.url + CHAT, json=BODY)
        # The wait is the behaviour under test: the header promises that it suffices.
        threading.Event().wait(int(refused.headers["retry-after-ms"]) / 1000)
        answer = http.post(sim.url + CHAT, json=BODY)

    assert (refused.status_code, answer.status_code) == (429, 200)


def test_a_burst_is_refused_by_the_second(http):
    with ProviderSimulator(rpm=100, burst=2, latency=0) as sim:
        answers = [http.post(sim.url + CHAT, json=BODY) for _ in range(3)]
        stats = sim.stats()

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert int(answers[-1].headers["retry-after-ms"]) <= 1000
    assert {reason: count for reason, count in stats.throttled_by.items() if count} == {"burst": 1}


async def test_concurrency_counts_calls_until_their_answer_ends(async_http):
    async with ProviderSimulator(concurrency=2, latency=0.3) as sim:
        answers = await asyncio.gather(*(async_http.post(sim.url + CHAT, json=BODY) for _ in range(3)))
        again = await async_http.post(sim.url + CHAT, json=BODY)
        stats = sim.stats()

    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) == 1
    assert refused[0].json()["error"]["type"] == "concurrency"
    assert "retry-after" not in refused[0].headers
    assert again.status_code == 200
    assert (stats.peak_in_flight, stats.in_flight, stats.completed) == (2, 0, 3)


async def test_the_slot_is_free_before_the_client_sees_the_end_of_its_answer(async_http):
    async with ProviderSimulator(concurrency=1, latency=0) as sim:
        for stream in (False, True) * 20:
            answer = await async_http.post(sim.url + CHAT, json={**BODY, "stream": stream})
            assert answer.status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_frees_its_slot(async_http, stream):
    async with ProviderSimulator(concurrency=1, latency=30.0) as sim:
        call = asyncio.create_task(async_http.post(sim.url + CHAT, json={**BODY, "stream": stream}))
        await wait_until_async(lambda: sim.stats().in_flight == 1, description="the call is in flight")
        call.cancel()
        await wait_until_async(lambda: sim.stats().in_flight == 0, description="its slot is free")
        stats = sim.stats()

    assert (stats.admitted, stats.completed, stats.disconnected) == (1, 0, 1)


# --- the judge ---------------------------------------------------------------------------------------------


def test_statistics_are_the_same_over_http_and_in_python_and_reset_clears_them(http):
    with ProviderSimulator(rpm=2, window=10.0, concurrency=3, latency=0) as sim:
        for _ in range(3):
            http.post(sim.url + CHAT, json=BODY)
        over_http = http.get(sim.url + "/_sim/stats").json()
        stats = sim.stats()
        arrivals = sim.arrivals()
        most = sim.max_in_any_window(10.0)
        assert http.post(sim.url + "/_sim/reset").status_code == 204
        after = sim.stats()
        # The use of the limits is forgotten too.
        assert http.post(sim.url + CHAT, json=BODY).status_code == 200

    assert SimulatorStats(**{**over_http, "elapsed": stats.elapsed}) == stats
    assert (stats.requests, stats.admitted, stats.throttled, stats.peak_in_window) == (3, 2, 1, 2)
    assert (stats.limit, stats.window, stats.concurrency, stats.burst) == (2, 10.0, 3, None)
    assert arrivals == sorted(arrivals)
    assert (len(arrivals), most) == (2, 2)
    assert (after.requests, after.in_window) == (0, 0)


def test_latencies_repeat_with_the_seed_and_do_not_depend_on_refusals(http):
    def processing(*, refused: int, seed: int) -> list[str]:
        with ProviderSimulator(latency=(0.001, 0.02), concurrency=1, seed=seed) as sim:
            for _ in range(refused):
                http.post(sim.url + CHAT, content=b"{")
            answers = [http.post(sim.url + CHAT, json=BODY) for _ in range(6)]
        return [answer.headers["openai-processing-ms"] for answer in answers]

    assert processing(refused=0, seed=7) == processing(refused=3, seed=7)
    assert processing(refused=0, seed=7) != processing(refused=0, seed=8)


# --- running it --------------------------------------------------------------------------------------------


def test_stopping_answers_what_is_in_flight_and_frees_the_port(http):
    sim = ProviderSimulator(latency=30.0).start()
    port = int(sim.url.rpartition(":")[2])
    answers: list[httpx.Response] = []
    call = threading.Thread(target=lambda: answers.append(http.post(f"http://127.0.0.1:{port}{CHAT}", json=BODY)))
    call.start()
    wait_until(lambda: sim.stats().in_flight == 1, description="the call is in flight")

    sim.stop()
    sim.stop()

    call.join(5.0)
    assert [answer.status_code for answer in answers] == [200]
    with pytest.raises(RuntimeError, match="does not run"):
        _ = sim.url
    with ProviderSimulator(port=port) as again:
        assert again.url == f"http://127.0.0.1:{port}"
        with pytest.raises(RuntimeError, match="runs already"):
            again.start()


def test_a_process_of_its_own_serves_the_same_and_ends_with_its_context(http):
    settings = {"rpm": 2, "window": 10.0, "burst": 5, "concurrency": 3, "latency": (0.0, 0.01), "seed": 3}
    with ProviderSimulator(**settings, in_process=False) as sim:
        answers = [http.post(sim.url + CHAT, json=BODY) for _ in range(3)]
        stats = sim.stats()
        port = int(sim.url.rpartition(":")[2])

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert (stats.limit, stats.window, stats.burst, stats.concurrency) == (2, 10.0, 5, 3)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_process_ends_when_its_parent_is_gone():
    command = [sys.executable, "-m", "ratelease.testing.simulator", "--until-stdin-closes"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        first = json.loads(child.stdout.readline())
        assert first["pid"] == child.pid

        child.stdin.close()

        assert child.wait(5.0) == 0


def test_a_process_says_what_is_wrong_with_its_arguments():
    command = [sys.executable, "-m", "ratelease.testing.simulator", "--rpm", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "rpm must be a whole number of at least 1" in done.stderr


def test_a_process_that_cannot_serve_is_reported(capfd):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        simulator = ProviderSimulator(port=taken.getsockname()[1], in_process=False)
        with pytest.raises(RuntimeError, match="before it served"):
            simulator.start()
    assert "in use" in capfd.readouterr().err


def test_missing_libraries_are_named_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)

    with pytest.raises(ImportError, match=r"ratelease\[web\]"):
        ProviderSimulator().start()


def test_importing_the_simulator_loads_no_web_server():
    code = """
import sys
import ratelease.testing.simulator
print(sorted({"starlette", "uvicorn", "anyio"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)

    assert done.stdout.strip() == "[]"
