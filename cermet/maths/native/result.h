/* Where results go: into memory, or into a file, piece by piece while they are in the cache. */

#pragma once

#include "stored.h"

#define SLICE (1 << 17) /* bytes of one write, as in checkpoints/writer.py */

/* Numbers of a kind, which are put into `room`.
 *
 * With a file (else -1) there is room for `chunk` of them, which go to byte `at` of the file when
 * it is full, and into the digest: the first of all is element `first` of its tensor. `begun`:
 * the one that the room begins with. `failed`: the error number of a write.
 */
typedef struct {
    char *room;
    int64_t kind, chunk, begun;
    int64_t file, at, first;
    const uint64_t *lanes;
    uint64_t digest;
    int64_t failed;
} Result;

static void store(Result *r, const char *from, int64_t bytes, int64_t offset) {
    while (bytes > 0 && !r->failed) {
        ssize_t put = pwrite((int)r->file, from, (size_t)least(bytes, SLICE), offset);
        if (put < 0 && errno != EINTR) r->failed = errno;
        if (put > 0) from += put, offset += put, bytes -= put;
    }
}

/* What is in the room goes into the file, if there is one: all up to element `stop`. */
static void empty(Result *r, long stop) {
    if (r->file < 0) return;
    int64_t size = size_of(r->kind), bytes = (stop - r->begun) * size;
    r->digest += digest(r->room, bytes, (uint64_t)((r->first + r->begun) * size), r->lanes);
    store(r, r->room, bytes, r->at + r->begun * size);
    r->begun = stop;
}

/* A strip of numbers from element `start` on, which follows all before. */
static inline void put(Result *r, const float *restrict strip, long start, long count) {
    if (start + count - r->begun > r->chunk) empty(r, start);
    narrow(strip, r->kind, start - r->begun, count, r->room);
}
