"""A pool of processes with something to share, for benchmarks: bench_pool.py DIR WORKERS

The parent has loaded modules and made objects before it forked; every worker has worked since, so that the
pages with the objects that it looked at are its own: CPython counts references in the objects themselves.
"""

import asyncio
import decimal
import email
import http.server
import json
import multiprocessing
import os
import sqlite3
import ssl
import sys
import time
import unittest
import xml.dom.minidom


def work(number):
    time.sleep(0.02)
    return sum(len(word) for word in words[number % 50 :: 50])


if __name__ == "__main__":
    directory, workers = sys.argv[1], int(sys.argv[2])
    words = [f"word {number}" * (1 + number % 5) for number in range(200_000)]
    table = json.loads(json.dumps({word: [index, str(index)] for index, word in enumerate(words[:50_000])}))
    modules = [asyncio, decimal, email, http.server, sqlite3, ssl, unittest, xml.dom.minidom]
    multiprocessing.set_start_method("fork")
    with multiprocessing.Pool(workers) as pool:
        pool.map(work, range(20 * workers), chunksize=1)
        with open(os.path.join(directory, "ready"), "w"):
            pass
        while True:
            time.sleep(1000)
