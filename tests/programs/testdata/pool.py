"""A pool of workers that count in shared memory under a lock, and a child that
answers over a pipe. Every result is checked."""

import hashlib
import multiprocessing as mp
import sys
import threading
import time
from multiprocessing import shared_memory

from answer import serve

SIZE = 4 << 20
SLOTS = 64


def init(name, the_lock, the_count):
    global block, lock, count
    block, lock, count = shared_memory.SharedMemory(name), the_lock, the_count


def work(task):
    """Fills one slot of the block and counts, and returns the slot's digest."""
    slot, version = task
    content = hashlib.sha256(b"%d %d" % (slot, version)).digest() * (SIZE // SLOTS // 32)
    start = slot * (SIZE // SLOTS)
    block.buf[start : start + len(content)] = content
    with lock:
        count.value += 1
    return slot, version, hashlib.sha256(content).hexdigest()


def echo(pipe):
    while True:
        pipe.send(pipe.recv() + 1)


def main():
    ctx = mp.get_context("fork")
    shared = shared_memory.SharedMemory(create=True, size=SIZE)
    lock, count = ctx.Lock(), ctx.Value("q", 0, lock=False)
    ours, theirs = ctx.Pipe()
    child = ctx.Process(target=echo, args=(theirs,), daemon=True)
    child.start()
    pool = ctx.Pool(3, init, (shared.name, lock, count))
    errors, progress, stop, stopped = [], [0], threading.Event(), threading.Event()

    def check(results):
        for slot, version, digest in results:
            start = slot * (SIZE // SLOTS)
            if hashlib.sha256(shared.buf[start : start + SIZE // SLOTS]).hexdigest() != digest:
                errors.append("slot %d version %d is damaged" % (slot, version))

    def loop():
        clock, version = time.monotonic(), 0
        while not stop.is_set():
            version += 1
            check(pool.map(work, [(slot, version) for slot in range(SLOTS)]))
            ours.send(version)
            if ours.recv() != version + 1:
                errors.append("the child answered wrong")
            if count.value != version * SLOTS:
                errors.append("%d tasks counted of %d" % (count.value, version * SLOTS))
            if time.monotonic() < clock:
                errors.append("the clock went back")
            clock = time.monotonic()
            progress[0] = version
            time.sleep(0.01)
        stopped.set()

    def end():
        stop.set()
        stopped.wait()
        pool.terminate()
        pool.join()
        child.terminate()
        child.join()
        shared.close()
        shared.unlink()

    threading.Thread(target=loop, daemon=True).start()
    serve(int(sys.argv[1]), lambda: (progress[0], errors), end)


if __name__ == "__main__":
    main()
