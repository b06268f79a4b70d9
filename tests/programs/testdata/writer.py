"""Appends rows to an SQLite database with a write-ahead log, one transaction
each. Its progress is the last row that was committed."""

import sqlite3
import sys
import threading
import time

from answer import serve


def main():
    errors, progress, stop, stopped = [], [0], threading.Event(), threading.Event()

    def loop():
        db = sqlite3.connect(sys.argv[2], isolation_level=None)
        db.execute("pragma journal_mode = wal")
        db.execute("pragma synchronous = normal")  # less time with a lock held
        db.execute("create table log (id integer primary key, body text)")
        try:
            row = 0
            while not stop.is_set():
                row += 1
                db.execute("insert into log values (?, ?)", (row, ("%d " % row).ljust(200, "x")))
                if db.execute("select max(id) from log").fetchone()[0] != row:
                    errors.append("row %d is not there" % row)
                progress[0] = row
                time.sleep(0.02)
            db.close()
        except sqlite3.Error as e:
            errors.append(repr(e))
        stopped.set()

    def end():
        stop.set()
        stopped.wait()

    threading.Thread(target=loop, daemon=True).start()
    serve(int(sys.argv[1]), lambda: (progress[0], errors), end)


main()
