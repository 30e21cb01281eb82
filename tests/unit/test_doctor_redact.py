"""What identifies a machine or its people leaves a report."""

import pytest

from chadthrottle.doctor.redact import Redactor


@pytest.fixture
def redact() -> Redactor:
    return Redactor(hosts=("web7.example.org", "web7"), users=("alice", "bob"), homes=("/srv/people/bob",))


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("eth0 has 192.0.2.17/24", "eth0 has ADDRESS-1/24"),
        ("from 192.0.2.17:443.", "from ADDRESS-1:443."),
        ("2001:db8::5 and fe80::1%eth0", "ADDRESS-1 and ADDRESS-2%eth0"),
        ("::ffff:192.0.2.17", "ADDRESS-1"),
        ("link/ether 52:54:00:AB:cd:01 brd", "link/ether MAC-1 brd"),
        ("/home/alice/src/x.py", "HOME-1/src/x.py"),
        ("/home/alice", "HOME-1"),
        ("/root/doctor and /root", "HOME-1/doctor and HOME-1"),
        ("/srv/people/bob/.cache", "HOME-1/.cache"),
        ("kernel on web7.example.org", "kernel on HOST-1"),
        ("web7 says web7", "HOST-1 says HOST-1"),
        ("the caller: alice (uid 1000)", "the caller: USER-1 (uid 1000)"),
        ("Kernel command line: root=/dev/vda secret=1", "Kernel command line: COMMAND LINE-1"),
    ],
)
def test_taken_out(text: str, redacted: str, redact: Redactor) -> None:
    assert redact(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "0::/user.slice/user-1000.slice",
        "kernel 6.18.44-fc-v657, Python 3.11.2",
        "listening on 127.0.0.1, ::1, 0.0.0.0 and ::",
        "12:34:56.789012 bpf(BPF_PROG_LOAD)",
        "/homeless /rooted a/root-cgroup",
        "alices bobsleigh web70 web7-staging",
        "handle c7ad:1 prio 1:2",
        "300.1.2.3 is no address",
        "tag 0123456789abcdef",
        "std::string",
    ],
)
def test_left_alone(text: str, redact: Redactor) -> None:
    assert redact(text) == text


def test_the_same_value_is_the_same_word(redact: Redactor) -> None:
    assert redact("192.0.2.1 192.0.2.2 192.0.2.1") == "ADDRESS-1 ADDRESS-2 ADDRESS-1"
    assert redact("192.0.2.2") == "ADDRESS-2"
    assert "ADDRESS in 4 places" in redact.summary()


def test_nothing_to_replace() -> None:
    redact = Redactor()
    assert redact("nothing") == "nothing"
    assert redact.summary() == "Nothing had to be replaced."


def test_a_machine_called_localhost_keeps_its_name() -> None:
    assert Redactor(hosts=("localhost",), users=("root",))("root@localhost") == "root@localhost"
