"""What the usage adapters refuse when they are made: all of it at once, and never showing what may be a secret."""

import subprocess
import sys

import pytest

from ratelease.errors import ConfigError
from ratelease.usage import FeatherlessUsage, JsonUsage, PrometheusUsage

URL = "http://127.0.0.1:9/usage"
SECRET = "rc_0123456789abcdef"


@pytest.mark.parametrize(
    "url",
    [
        "", "localhost:8000", "ftp://host/", "http://", "https:///path", "http://host:port/", "http://host/#part",
        "http://host/a b", "http://host/\n", "x" * 3000, "http://" + "h" * 3000, "file:///etc/passwd", 3, None, b"http://h",
        [], [3], ["http://host", "nonsense"], ["http://host", "http://host/"], ["http://host"] * 300, {"http://host"},
    ],
    ids=lambda url: ascii(url)[:40],
)  # fmt: skip
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ConfigError, match="JsonUsage: url"):
        JsonUsage(url)


@pytest.mark.parametrize(
    "options,message",
    [
        ({"in_flight": ""}, "in_flight must be a path"),
        ({"in_flight": "a..b"}, "in_flight must be a path"),
        ({"in_flight": "data[0]"}, "in_flight must be a path"),
        ({"in_flight": 3}, "in_flight must be a path"),
        ({"limit": "."}, "limit must be a path"),
        ({"hard_cap": ".".join("a" * 21)}, "hard_cap must be a path"),
        ({"timeout": 0}, "timeout must be 0.05 to 60 s"),
        ({"timeout": "2"}, "timeout must be"),
        ({"timeout": float("nan")}, "timeout must be"),
        ({"headers": "x: y"}, "headers must map"),
        ({"headers": {"a b": "c"}}, "cannot be the name of a header"),
        ({"headers": {3: "c"}}, "cannot be the name of a header"),
        ({"headers": {"a": "b\r\nc: d"}}, "headers: a must be a text"),
        ({"headers": {"a": 3}}, "headers: a must be a text"),
        ({"headers": {"Accept-Encoding": "gzip"}}, "must leave out accept-encoding"),
        ({"headers": {"Host": "other"}}, "must leave out host"),
        ({"headers": {"Authorization": "x"}, "secret": lambda: SECRET}, "give one of them"),
        ({"secret": SECRET}, "not the secret itself"),
        ({"secret": b"KEY"}, "not the secret itself"),
        ({"secret": lambda: SECRET, "auth": "Bearer"}, "auth must be a text with {secret}"),
        ({"secret": lambda: SECRET, "auth": "{secret}\n"}, "auth must be a text with {secret}"),
        ({"secret": lambda: SECRET, "auth_header": "a b"}, "auth_header must be"),
        ({"secret": lambda: SECRET, "auth_header": "host"}, "auth_header must be"),
        ({"auth": "Token {secret}"}, "give secret as well"),
    ],
)
def test_what_is_wrong_is_named(options, message):
    with pytest.raises(ConfigError) as raised:
        JsonUsage(URL, **options)
    assert message in str(raised.value)
    assert len(raised.value.faults) == 1
    assert SECRET not in str(raised.value)


def test_all_that_is_wrong_is_named_at_once():
    with pytest.raises(ConfigError) as raised:
        JsonUsage(["nonsense", f"http://me:{SECRET}@/"], in_flight="", limit="", timeout=0, secret=SECRET, headers=3)
    assert len(raised.value.faults) == 7
    assert SECRET not in repr(raised.value)


def test_a_user_in_the_address_and_a_secret_exclude_each_other():
    """One would silently replace the other."""
    for options in ({"secret": lambda: SECRET}, {"headers": {"Authorization": SECRET}}):
        with pytest.raises(ConfigError, match="another authorization") as raised:
            JsonUsage(f"http://me:{SECRET}@127.0.0.1/", **options)
        assert SECRET not in str(raised.value)
    JsonUsage(f"http://me:{SECRET}@127.0.0.1/", secret=lambda: SECRET, auth="{secret}", auth_header="x-api-key")


@pytest.mark.parametrize("names", [[], "", "a b", ["ok", "not ok"], [3], 3, None, b"a", ["0a"]], ids=ascii)
def test_names_that_no_metric_can_have_are_refused(names):
    with pytest.raises(ConfigError, match="PrometheusUsage: running"):
        PrometheusUsage(URL, running=names)


def test_featherless_looks_for_its_key_at_once(monkeypatch):
    monkeypatch.delenv("FEATHERLESS_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="FEATHERLESS_API_KEY is not set"):
        FeatherlessUsage()
    with pytest.raises(ConfigError, match="names an environment variable that is not set") as raised:
        FeatherlessUsage("A_KEY_BY_MISTAKE")
    assert "A_KEY_BY_MISTAKE" not in str(raised.value)
    monkeypatch.setenv("FEATHERLESS_API_KEY", SECRET)
    assert repr(FeatherlessUsage()) == "FeatherlessUsage(https://api.featherless.ai/account/concurrency)"


@pytest.mark.parametrize("call", ["JsonUsage('http://h')", "PrometheusUsage('http://h')", "FeatherlessUsage(str)"])
def test_what_is_not_installed_is_named(call):
    """With what to install; importing the package needs none of it."""
    program = (
        "import sys\n"
        "sys.modules['httpx'] = sys.modules['prometheus_client'] = None\n"
        "from ratelease.usage import *\n"
        "from ratelease.errors import ConfigError\n"
        f"try: {call}\n"
        "except ConfigError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    missing = "httpx and prometheus_client" if "Prometheus" in call else "httpx"
    assert done.stdout.startswith(f"{missing} cannot be imported")
    assert "pip install 'ratelease[usage]'" in done.stdout


def test_importing_the_adapters_loads_no_library():
    program = "import sys, ratelease.usage; print('httpx' in sys.modules, 'prometheus_client' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
