"""Verifies every DKIM signature of a message with dkimpy, which knows nothing of dunlin.

Usage: verify.py NAME=FILE... < message: the DNS names of the keys, and the files with their records.
Prints the number of signatures; fails if one is not good, or there is none.
"""

import sys

import dkim

records = dict(argument.split("=", 1) for argument in sys.argv[1:])
message = sys.stdin.buffer.read()


def record(name, timeout=5):
    with open(records[name.decode().rstrip(".")], "rb") as file:
        return file.read().strip()


count = sum(name.lower() == b"dkim-signature" for name, _ in dkim.DKIM(message).headers)
assert count > 0, "not signed"
for number in range(count):
    assert dkim.DKIM(message).verify(idx=number, dnsfunc=record), f"signature {number} is not good"
print(count)
