"""DSNs are parsed, and a likely mistake gets a hint."""

import pytest

from shard_worker.dsn import Host, parse_dsn


@pytest.mark.parametrize(
    ("text", "hosts", "address"),
    [
        ("postgresql://u:p@h/d", [Host("h", None)], "h:5432/d"),
        ("postgres://h:5433", [Host("h", 5433)], "h:5433"),
        ("postgresql://u:p@a:1,b,[::1]:3/d", [Host("a", 1), Host("b", None), Host("::1", 3)], "a:1,b:5432,[::1]:3/d"),
        ("postgresql:///d?host=a,b&port=1,2", [Host("a", 1), Host("b", 2)], "a:1,b:2/d"),
        ("postgresql:///d?host=a,b&port=7", [Host("a", 7), Host("b", 7)], "a:7,b:7/d"),
        ("postgresql:///d", [Host(None, None)], "localhost:5432/d"),
        ("postgresql://u:p%23%2F%40@h/d?target_session_attrs=read-write", [Host("h", None)], "h:5432/d"),
        (" postgresql://u:p@h/d?sslmode=require\n", [Host("h", None)], "h:5432/d"),
    ],
)
def test_hosts_are_understood_and_shown_without_the_login(text: str, hosts: list[Host], address: str) -> None:
    """One or several, each with its port."""
    dsn = parse_dsn(text)
    assert list(dsn.hosts) == hosts
    assert dsn.address == address


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("postgresql://u:se#cret@h/d", "%23"),
        ("postgresql://u:se/cret@h/d", "%2F"),
        ("postgresql://u:se?cret@h/d", "%3F"),
        ("postgresql://u:se@cret@h/d", "%40"),
        ("postgresql://u:se[cret@h/d", "%5B"),
        ("postgresql://u:secret@h/d#more", "%23"),
        ("host=h password=secret", "postgresql://"),
        ("", "postgresql://"),
        ("postgresql://u:secret@a,,b/d", "empty host"),
        ("postgresql://u:secret@h:port/d", "port"),
        ("postgresql://u:secret@[::1/d", "IPv6"),
        ("postgresql://u:secret@a,[::1]5432/d", "IPv6"),
        ("postgresql://u:secret@h:0/d", "port"),
        ("postgresql:///d?host=a,b,c&port=1,2", "number of ports"),
        ("postgresql://u:secret@h/d?target_session_attrs=standby", "standby"),
        ("postgresql://u:secret@h/d?x", "no URL"),
    ],
)
def test_what_would_never_connect_is_refused_with_a_hint(text: str, says: str) -> None:
    """Without showing the password."""
    with pytest.raises(ValueError, match=r"DSN|target_session_attrs") as caught:
        parse_dsn(text)
    assert says in str(caught.value)
    assert "cret" not in str(caught.value)
