"""Records that many threads read for the first time at once."""

from __future__ import annotations

import subprocess
import sys
import textwrap

from bandsox.store import records
from tests.store.test_snapshots import snapshot

_READERS = """
    import sys, threading
    from bandsox.models import Snapshot
    from bandsox.store import records

    sys.setswitchinterval(1e-6)
    text, read = sys.stdin.read(), []
    begin = threading.Barrier(16)

    def reader():
        begin.wait()
        read.append(records.decode(Snapshot, text))

    threads = [threading.Thread(target=reader) for _ in range(begin.parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read) == begin.parties and all(each == read[0] for each in read), read
"""


def test_those_who_meet_a_kind_of_record_first_all_read_it() -> None:
    text = records.encode(snapshot("00aa", "one"))
    for _ in range(10):
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(_READERS)], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr or done.returncode
