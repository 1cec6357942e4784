"""What a client knows of the nodes of a cluster, and the URLs that name them."""

import pytest
import redis
import redis.asyncio
from redis.exceptions import AskError, ClusterDownError, ConnectionError, MovedError, TryAgainError  # noqa: A004

from ratelease import Config
from ratelease.errors import ConfigError
from ratelease.store.endpoint import Endpoint
from ratelease.store.faults import Cure, Redirect, cure, has_not_run, redirect, translate
from ratelease.store.nodes import Node, Nodes, cluster_of

A, B, C = Node("a", 1), Node("b", 2), Node("c", 3)


@pytest.mark.covers("LC-21")
@pytest.mark.parametrize(
    "url, seeds, first",
    [
        ("redis+cluster://a:1", [A], "redis://a:1/0"),
        ("redis+cluster://a:1,b:2/0", [A, B], "redis://a:1/0"),
        ("redis+cluster://a,b:2/", [Node("a", 6379), B], "redis://a:6379/0"),
        ("rediss+cluster://u:p%40w@a:1,b:2?ssl_cert_reqs=none", [A, B], "rediss://u:p%40w@a:1/0?ssl_cert_reqs=none"),
        ("redis+cluster://[::1]:7000,[fe80::2]", [Node("::1", 7000), Node("fe80::2", 6379)], "redis://[::1]:7000/0"),
    ],
)
def test_a_url_names_one_or_more_nodes(url: str, seeds: list[Node], first: str) -> None:
    found = cluster_of(url)
    assert found is not None
    nodes, one = found
    assert (nodes._seeds, nodes.current, one) == (tuple(seeds), seeds[0], first)


def test_other_urls_are_no_clusters() -> None:
    assert [cluster_of(url) for url in ("redis://a:1", "memory://", "unix:///tmp/x")] == [None] * 3


@pytest.mark.covers("LC-21")
@pytest.mark.parametrize(
    "url, words",
    [
        ("redis+cluster://", ["host 1 is missing"]),
        ("redis+cluster://secret:word@a:1,", ["host 2 is missing"]),
        (
            "redis+cluster://secret:word@a:x,b:70000/3",
            ["port of host 1", "port of host 2", "no numbered databases"],
        ),
        ("redis+cluster://secret:word@a:1,secret:word@b:2", ["stand once, before the first host"]),
        ("redis+cluster://user:secret", ["port of host 1"]),
        ("redis+cluster://a:1?socket_timeout=soon", ["cannot be read"]),
    ],
)
def test_a_url_that_names_none_is_refused_with_all_its_faults(url: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Endpoint(Config(url=url))
    assert [word for word in words if word not in str(caught.value)] == []
    assert "secret" not in str(caught.value)
    assert "word@" not in str(caught.value)


@pytest.mark.covers("LC-21")
@pytest.mark.parametrize("scheme", ["redis+cluster", "rediss+cluster"])
def test_connections_lead_to_the_node_that_decides_now(scheme: str) -> None:
    """User, password, TLS and options are those of the URL; the address has neither user nor password."""
    endpoint = Endpoint(Config(url=f"{scheme}://user:word@a:1,b:2?socket_keepalive=no"))
    old = endpoint.connection()
    assert (old.host, old.port) == A
    endpoint.failed(old, MovedError("77 c:3"))
    for made in (endpoint.connection(), endpoint.async_connection()):
        assert (made.host, made.port) == C
        assert (made.username, made.password, made.db) == ("user", "word", 0)
        assert "SSL" in type(made).__name__ or scheme == "redis+cluster"
        assert endpoint.serves(made)
    assert not endpoint.serves(old)
    assert (endpoint.connection(B).host, endpoint.async_connection(Node("", 9)).host) == ("b", "c")
    assert endpoint.label == f"{scheme}://a:1,b:2"


@pytest.mark.covers("LC-21")
def test_errors_say_which_node_to_ask_next() -> None:
    """MOVED names it; a node that is gone, or belongs to no majority, is followed by the next; ASK changes nothing."""
    endpoint = Endpoint(Config(url="redis+cluster://a:1,b:2,c:3"))
    assert endpoint.nodes is not None

    def after(error: BaseException) -> Node:
        assert endpoint.nodes is not None
        endpoint.failed(endpoint.connection(), error)
        return endpoint.nodes.current

    assert after(AskError("5 b:2")) == A
    assert after(TryAgainError("Multiple keys")) == A
    assert after(KeyboardInterrupt()) == A
    assert after(ConnectionError("refused")) == B
    assert after(ClusterDownError("down")) == C
    assert after(redis.exceptions.ResponseError("CLUSTERDOWN the cluster is down")) == A
    assert after(redis.exceptions.ResponseError("MOVED 5 c:3")) == C
    assert after(redis.exceptions.ReadOnlyError("replica")) == A
    assert after(TimeoutError()) == B
    assert after(MovedError("5 :7")) == Node("b", 7)


def test_a_node_is_left_once_however_many_calls_fail_on_it() -> None:
    nodes = Nodes([A, B, C])
    for _ in range(3):
        nodes.lost(A)
    assert nodes.current == B
    nodes.moved(Node("d", 4), told_by=B)
    assert nodes.current == ("d", 4)
    nodes.lost(Node("d", 4))
    assert nodes.current == A


def test_what_a_node_says_of_the_others_is_not_trusted() -> None:
    """Anything that is no list of slots is passed over; the seeds are never forgotten."""
    nodes = Nodes([A])
    odd = ([], None, b"x", [None], [[0, 1]], [[0, 1, b"n"]], [[0, 1, [b"h"]]], [[0, 1, [b"h", b"p"]]], {"slots": 1})
    for reply in odd:
        nodes.learn(reply, A)
        assert nodes._known == (A,)
    nodes.learn([[0, 8000, [b"b", 2, b"id", []], [b"", 5, b"id"]], [8001, 16383, [None, 6]]], A)
    assert nodes._known == (A, B, Node("a", 5), Node("a", 6))
    nodes.learn([[0, 1, [f"h{port}".encode(), port]] for port in range(5000)], A)
    assert len(nodes._known) == 1000
    assert A in nodes._known


def test_redirections_have_not_run_and_name_where_to_go() -> None:
    """Whether redis-py has a class for them and cuts the code off, or leaves both to the text."""
    response = redis.exceptions.ResponseError
    for moved, ask in (
        (MovedError("5 b:2"), AskError("5 ::1:3")),
        (response("MOVED 5 b:2"), response("ASK 5 ::1:3")),
    ):
        assert (redirect(moved), redirect(ask)) == (Redirect(B, once=False), Redirect(Node("::1", 3), once=True))
        assert (cure(moved), cure(ask)) == (Cure.REDIRECT, Cure.REDIRECT)
        assert has_not_run(moved)
        assert has_not_run(ask)
        assert "redis+cluster://" in str(translate(moved, "redis://a:1"))
        assert "does not serve this namespace" in str(translate(moved, "redis+cluster://a:1"))
    for away in (TryAgainError("Multiple keys"), response("TRYAGAIN Multiple keys"), ClusterDownError("not served")):
        assert (cure(away), has_not_run(away), redirect(away)) == (Cure.WAIT, True, None)
    for other in (
        ConnectionError("x"),
        TimeoutError(),
        response("ERR MOVED"),
        response("MOVED"),
        ValueError("ASK 5 b:2"),
    ):
        assert (has_not_run(other), redirect(other)) == (False, None)


def test_a_store_that_does_not_answer_may_not_speak_tls() -> None:
    """A plain port waits for more of what it takes for a command."""
    assert "or does it not speak TLS?" in str(translate(TimeoutError(), "rediss://a:1"))
    assert "TLS" not in str(translate(TimeoutError(), "redis://a:1"))
