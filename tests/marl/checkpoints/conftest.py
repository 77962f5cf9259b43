import errno
import os

import pytest

import marl.files


@pytest.fixture
def full_disk(monkeypatch):
    """Lets so many bytes through, then the disk is full."""
    room = [0]
    write = os.write

    def limited(descriptor, data):
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = min(len(data), room[0])
        room[0] -= taken
        return write(descriptor, memoryview(data)[:taken])

    def set_room(count):
        room[0] = count
        monkeypatch.setattr(marl.files.os, "write", limited)

    return set_room
