"""Requests to stop, from the first moment of a process to its last."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from marl.launchers.stopping import EARLY, STOP_SIGNALS, StopRequest, was_asked


def tell(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_is_a_request(number):
    before = signal.getsignal(number)
    with StopRequest() as request:
        assert not request.asked()
        tell(number)
        assert request.asked()
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_interrupts(number):
    with StopRequest() as request:
        tell(signal.SIGUSR1)
        tell(signal.SIGUSR1)
        with pytest.raises(KeyboardInterrupt):
            tell(number)
        assert request.asked()


def test_what_was_heard_before_counts():
    with StopRequest(EARLY) as early:
        with StopRequest() as request:
            assert not request.asked()
        tell(signal.SIGUSR1)
        with StopRequest() as request:
            assert request.asked()
        assert was_asked(early)


def test_before_training_a_keyboard_interrupt_is_one():
    # Python leaves SIGINT alone where a shell's background job ignores it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with StopRequest(EARLY) as early, pytest.raises(KeyboardInterrupt):
            tell(signal.SIGINT)
        assert not early.asked()
    finally:
        signal.signal(signal.SIGINT, before)


def test_who_ignores_the_signal_for_good_keeps_ignoring_it():
    before = signal.getsignal(signal.SIGUSR1)
    try:
        with StopRequest(EARLY):
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        tell(signal.SIGUSR1)
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_outside_the_main_thread_nothing_is_installed():
    before, found = signal.getsignal(signal.SIGUSR1), []

    def enter():
        with StopRequest() as request:
            found.append((signal.getsignal(signal.SIGUSR1), request.asked()))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [(before, False)]


def test_a_request_while_python_ends_does_not_change_the_exit_code():
    script = (
        "import atexit, os, signal, sys; from marl.launchers.main import main; sys.argv = ['marl', 'plot'];"
        "atexit.register(os.kill, os.getpid(), signal.SIGUSR1); sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 2
