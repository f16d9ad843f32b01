"""A pool of processes that share what multiprocessing lets them share: pool.py DIR INTERPRETER

Asked by lines over the unix socket DIR/socket, one a connection. Besides the pool there are a manager's
process with connections to everybody who uses it, a queue with a feeding thread, locks that somebody holds
and somebody waits for, and threads that wait in several ways. Named semaphores and the memory of the arrays
are files of /dev/shm without a name by then.
"""

import multiprocessing
import os
import queue
import socket
import sys
import tempfile
import threading
import time


def square(number):
    with total.get_lock():
        total.value += number
    with histogram.get_lock():
        histogram[number % len(histogram)] += 1
    return number * number


def remember(key, value):
    shared[key] = value
    return multiprocessing.current_process().name


def wait_for_lock():
    with held:
        return "got it"


def count_ticks(event):
    while not event.wait(0.05):
        ticks[0] += 1


def echo(inbox, outbox):
    while True:
        item = inbox.get()
        inbox.task_done()
        if item is None:
            return
        outbox.put(item)


def serve(path):
    waiting = None
    inbox, outbox = multiprocessing.JoinableQueue(), multiprocessing.Queue()
    worker = multiprocessing.Process(target=echo, args=(inbox, outbox), name="echo")
    worker.start()
    local = queue.Queue()
    threads = [threading.Thread(target=local.get, name=f"blocked {index}") for index in range(3)]
    done = threading.Event()
    threads.append(threading.Thread(target=count_ticks, args=(done,), name="ticker"))
    sleeper = threading.Thread(target=time.sleep, args=(100000,), name="sleeper", daemon=True)
    for thread in [*threads, sleeper]:
        thread.start()

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    while True:
        connection, _ = listener.accept()
        with connection:
            command, *arguments = connection.makefile().readline().split()
            if command == "map":
                answer = sum(pool.map(square, range(int(arguments[0])), chunksize=3))
            elif command == "remember":
                pool.apply(remember, arguments)
                answer = shared[arguments[0]]
            elif command == "recall":
                answer = dict(shared)
            elif command == "hold":
                held.acquire()
                waiting = pool.apply_async(wait_for_lock)
                answer = held.acquire(block=False)
            elif command == "release":
                held.release()
                answer = waiting.get(20)
            elif command == "waits":
                answer = not waiting.ready()
            elif command == "put":
                inbox.put(arguments)
                inbox.join()
                answer = "done"
            elif command == "get":
                answer = outbox.get(timeout=20)
            elif command == "numbers":
                answer = total.value, list(histogram)
            elif command == "ticks":
                before = ticks[0]
                time.sleep(0.3)
                answer = before > 0 and ticks[0] > before
            elif command == "threads":
                answer = sorted(thread.name for thread in [*threads, sleeper] if thread.is_alive())
            elif command == "quit":
                answer = "bye"
            else:
                answer = "what?"
            connection.sendall(f"{answer}\n".encode())
            if command == "quit":
                break
    done.set()
    for _ in threads:
        local.put(None)
    for thread in threads:
        thread.join()
    inbox.put(None)
    worker.join()
    listener.close()


if __name__ == "__main__":
    directory, interpreter = sys.argv[1:]
    tempfile.tempdir = directory
    multiprocessing.set_start_method("fork")
    multiprocessing.set_executable(interpreter)
    total = multiprocessing.Value("q", 0)
    histogram = multiprocessing.Array("l", 7)
    held = multiprocessing.Lock()
    ticks = [0]
    manager = multiprocessing.Manager()
    shared = manager.dict()
    pool = multiprocessing.Pool(4)
    serve(os.path.join(directory, "socket"))
    pool.close()
    pool.join()
    manager.shutdown()
