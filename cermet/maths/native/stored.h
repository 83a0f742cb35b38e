/* The inner loops of merges: what is read is worked on in strips that stay in the first cache.
 *
 * They do the arithmetic of the torch code that they stand in for, operation by operation in
 * the same order, in float32. A product and a sum are fused (fmaf) exactly where torch's
 * `add(x, y, alpha)` fuses them, and nowhere else, so these files must be compiled with
 * -ffp-contract=off. Both give the same bits; `compiled.py` looks before it trusts them.
 */

#pragma once

#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define STRIP 1024
#define LANE 128         /* eight rows of these are a strip */
#define MODELS 64        /* at most so many at once; callers see to it */
#define FEW 4            /* so many models are worked on element by element, in registers */
#define ROOM (FEW * STRIP) /* strips of all models together; of many models narrower ones */

#define LANES 16384      /* of a digest, as in fingerprint.py */

#define NOT_A_NUMBER 0x7fc00000u
#define TOO_SHORT (-1)

enum { FLOAT32 = 0, BFLOAT16 = 1 };
enum { VALUE = 0, MAGNITUDE = 1, VARIANCE = 2 };

/* Flat tensors of n elements, as they are stored; `base` is subtracted where there is one.
 *
 * They are in memory, or in `files` (of the models, then of the base) from the byte offsets `at`
 * on. What is in files is read through `room`, in chunks of so many elements of each, up to
 * `have`; `from` and `base` are then such that an element has its index. Where there are
 * `lanes`, what is read is added to the digest of each: it is what follows element `first` of
 * its tensor. `failed`: the error number of a read, TOO_SHORT at the end of a file; `which`.
 */
typedef struct {
    int64_t models;
    const char **from;
    const char *base;
    int64_t kind, n;
    const int32_t *files;
    const int64_t *at;
    char *room;
    int64_t chunk, have, first;
    const uint64_t *lanes;
    uint64_t *digests;
    int64_t failed, which;
} Stored;

/* How wide strips of so many models are that have room together: whole bytes of bits. */
static inline long width_of(int64_t models) {
    return models <= FEW ? STRIP : ROOM / models / 64 * 64;
}

static inline long least(int64_t a, int64_t b) { return (long)(a < b ? a : b); }

static inline float as_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t as_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* An odd constant for each row of lanes: splitmix64 of its index. */
static inline uint64_t row_constant(uint64_t row) {
    uint64_t z = (row + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (z ^ (z >> 31)) | 1;
}

/* What bytes that begin at `offset` of their tensor add to its digest. */
static uint64_t digest(const char *restrict data, int64_t bytes, uint64_t offset,
                       const uint64_t *restrict lanes) {
    uint64_t total = 0;
    while (bytes > 0) {
        uint64_t lane = offset / 8, row = lane / LANES, column = lane % LANES, part = 0;
        if (offset % 8 || bytes < 8) { /* a lane that is not whole has zeros for the rest */
            int64_t count = least(8 - (long)(offset % 8), bytes);
            memcpy((char *)&part + offset % 8, data, (size_t)count);
            total += part * lanes[column] * row_constant(row);
            data += count, bytes -= count, offset += (uint64_t)count;
            continue;
        }
        long whole = least(bytes / 8, LANES - (long)column);
        const uint64_t *restrict own = lanes + column;
        for (long i = 0; i < whole; i++) {
            uint64_t word;
            memcpy(&word, data + 8 * i, 8);
            part += word * own[i];
        }
        total += part * row_constant(row);
        data += 8 * whole, bytes -= 8 * whole, offset += 8 * (uint64_t)whole;
    }
    return total;
}

/* Bytes of a file; what cannot be read is 0, and said. */
static void fetch(Stored *s, long which, int64_t offset, char *to, int64_t bytes) {
    while (bytes > 0) {
        ssize_t got = pread(s->files[which], to, (size_t)bytes, offset);
        if (got <= 0 && !(got < 0 && errno == EINTR)) {
            s->failed = got ? errno : TOO_SHORT, s->which = which;
            memset(to, 0, (size_t)bytes);
            return;
        }
        if (got > 0) to += got, offset += got, bytes -= got;
    }
}

/* Bytes of one stored number. */
static inline int64_t size_of(int64_t kind) { return kind == FLOAT32 ? 4 : 2; }

/* See to it that the elements [start, start + count) of all are in memory. */
static inline void bring(Stored *s, long start, long count) {
    if (!s->files || start + count <= s->have) return;
    int64_t size = size_of(s->kind);
    int64_t bytes = least(s->chunk, s->n - start) * size;
    int64_t known = s->have > start ? (s->have - start) * size : 0; /* a strip that was cut */
    for (long i = 0; i < s->models + (s->base ? 1 : 0); i++) {
        char *own = s->room + i * s->chunk * size;
        fetch(s, i, s->at[i] + start * size, own, bytes);
        if (s->lanes)
            s->digests[i] += digest(own + known, bytes - known,
                                    (uint64_t)((s->first + start) * size + known), s->lanes);
        *(i < s->models ? s->from + i : &s->base) = own - start * size;
    }
    s->have = start + bytes / size;
}

/* `count` stored elements from `start` on, as float32. */
static inline void widen(const void *restrict from, long kind, long start, long count,
                         float *restrict to) {
    if (kind == FLOAT32) {
        memcpy(to, (const float *)from + start, (size_t)count * sizeof(float));
        return;
    }
    const uint16_t *restrict half = (const uint16_t *)from + start;
    for (long i = 0; i < count; i++) to[i] = as_float((uint32_t)half[i] << 16);
}

/* Rounded once, to the nearest, ties to even; NaN stays NaN. */
static inline void narrow(const float *restrict from, long kind, long start, long count,
                          void *restrict to) {
    if (kind == FLOAT32) {
        memcpy((float *)to + start, from, (size_t)count * sizeof(float));
        return;
    }
    uint16_t *restrict half = (uint16_t *)to + start;
    for (long i = 0; i < count; i++) {
        uint32_t bits = as_bits(from[i]);
        uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
        half[i] = (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
    }
}

/* One element as it is stored. */
static inline __attribute__((always_inline)) float at(const void *restrict from, int kind, long i) {
    return kind == FLOAT32 ? ((const float *)from)[i]
                           : as_float((uint32_t)((const uint16_t *)from)[i] << 16);
}

/* The larger magnitude, as bits: they are ordered as magnitudes are, NaN above all. */
static inline uint32_t larger(float value, uint32_t most) {
    uint32_t size = as_bits(value) & 0x7fffffff;
    return size > most ? size : most;
}

static inline __attribute__((always_inline)) uint32_t less(
    const void *restrict from, int kind, const float *restrict wide, long start, long count,
    float *restrict row, uint32_t most) {
    for (long i = 0; i < count; i++) {
        float x = at(from, kind, start + i);
        if (wide) x -= wide[i];
        row[i] = x;
        most = larger(x, most);
    }
    return most;
}

/* One strip of one model, minus the strip of the base if there is one; the largest so far. */
static uint32_t delta(Stored *s, long m, long start, long count, const float *restrict wide,
                      float *restrict row, uint32_t most) {
    const char *from = s->from[m];
    if (s->kind == BFLOAT16)
        return s->base ? less(from, BFLOAT16, wide, start, count, row, most)
                       : less(from, BFLOAT16, NULL, start, count, row, most);
    return s->base ? less(from, FLOAT32, wide, start, count, row, most)
                   : less(from, FLOAT32, NULL, start, count, row, most);
}

/* One strip of the base, if there is one; with this, a strip of all is begun. */
static inline void base_of(Stored *s, long start, long count, float *restrict wide) {
    bring(s, start, count);
    if (s->base) widen(s->base, s->kind, start, count, wide);
}

/* A draw of 16 bits as a number in [0, 1), in the order of its signed reading. */
static inline float fraction(int16_t draw) {
    return ((float)draw + 32768.0f) * (1.0f / 65536.0f);
}
