#!/usr/bin/env python3
"""Applies to a disk image what a power cut leaves of the writes that a machine made to it.

usage: powercut.py IMAGE LOG SEED

LOG is what QEMU's blklogwrites driver recorded (the format of Linux' dm-log-writes): each write
and each flush in order. All that was written before the last flush is on the disk; of what came
after it each sector is there or not, by chance: that is what a drive's cache, a card's controller
or a lost page cache leaves. Prints how many writes were kept and how many could be lost.
"""

import random
import struct
import sys

MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD = 1, 2, 4


def entries(log):
    magic, version, _, sector_size = struct.unpack("<QQQI", log.read(28))
    if magic != MAGIC or version != 1:
        sys.exit("powercut: the log is not one of blklogwrites")
    at = sector_size
    while True:
        log.seek(at)
        head = log.read(32)
        if len(head) < 32:
            return
        sector, count, flags, _ = struct.unpack("<QQQQ", head)
        if count == 0 and flags == 0:
            return
        at += sector_size
        yield sector * sector_size, count * sector_size, flags, at, sector_size
        if not flags & DISCARD:
            at += count * sector_size


def main():
    image, log, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
    chance = random.Random(seed)
    with open(log, "rb") as log, open(image, "r+b") as image:
        every = list(entries(log))
        log.seek(0, 2)
        end = log.tell()
        last = max((n for n, entry in enumerate(every) if entry[2] & FLUSH), default=-1)
        lost = 0
        for n, (offset, length, flags, at, sector) in enumerate(every):
            if length == 0 or flags & DISCARD or at + length > end:
                continue
            log.seek(at)
            data = log.read(length)
            if n < last or flags & FUA:
                image.seek(offset)
                image.write(data)
                continue
            for start in range(0, length, sector):
                if chance.random() < 0.5:
                    image.seek(offset + start)
                    image.write(data[start : start + sector])
                else:
                    lost += 1
        print(f"{last + 1} writes and flushes kept, {len(every) - last - 1} after the last flush, "
              f"{lost} sectors of them lost")


main()
