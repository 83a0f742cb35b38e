/* Masks by rank: an entry is kept with a probability that grows with its rank in its row.
 *
 * Nothing is sorted where that can be helped. Magnitudes are counted in buckets, which bound the
 * rank of each entry; an entry passes where its own draw asks for no more than the lower bound,
 * and fails where it asks for more than the upper one. The few for which that does not decide
 * are compared with the whole row, or if there are many the row is sorted after all.
 */

#pragma once

#include "stored.h"

#define SCANS 96  /* of a row; to sort it takes as long */
#define DIGIT 11  /* bits of a magnitude that are sorted by at once */
#define OCTAVES 4 /* two to this power lie below the largest; buckets share them evenly */
#define KNOWN 256 /* magnitudes of a row of which is kept how many are smaller */

/* Room for one row: its magnitudes as bits (ordered as they are), the bucket of each, the rank
 * that the draw of each asks for, which of them are undecided, and for each bucket how many
 * magnitudes are in those before it. */
typedef struct {
    uint32_t *size, *sorted, *spare;
    int32_t *bucket, *asked, *open, *before;
    long columns, buckets;
    int shift;
} Row;

static int with_room(Row *r, long columns) {
    r->columns = columns;
    r->buckets = 64;
    r->shift = 23 + OCTAVES - 6;
    for (; r->buckets < 8192 && 2 * r->buckets < columns; r->buckets *= 2) r->shift--;
    uint32_t *all = malloc((size_t)(5 * columns + r->buckets + 1) * sizeof(uint32_t));
    r->size = all;
    if (!all) return 0;
    r->sorted = all + columns, r->spare = all + 2 * columns;
    r->bucket = (int32_t *)r->spare; /* needed no more when a row is sorted */
    r->asked = r->bucket + columns, r->open = r->asked + columns, r->before = r->open + columns;
    return 1;
}

/* The magnitudes of a row of the first model; the largest. */
static uint32_t sizes(Stored *s, long from, Row *r) {
    float wide[STRIP], row[STRIP];
    uint32_t most = 0;
    for (long start = 0; start < r->columns; start += STRIP) {
        long count = least(STRIP, r->columns - start);
        base_of(s, from + start, count, wide);
        most = delta(s, 0, from + start, count, wide, row, most);
        for (long i = 0; i < count; i++) r->size[start + i] = as_bits(row[i]) & 0x7fffffff;
    }
    return most;
}

static void counted(Row *r, uint32_t most) {
    int32_t lowest = (int32_t)(most >> r->shift) - (int32_t)(r->buckets - 1);
    int32_t *before = r->before, total = 0;
    for (long i = 0; i < r->columns; i++) {
        int32_t b = (int32_t)(r->size[i] >> r->shift) - lowest;
        r->bucket[i] = b < 0 ? 0 : b;
    }
    memset(before, 0, (size_t)(r->buckets + 1) * sizeof *before);
    for (long i = 0; i < r->columns; i++) before[r->bucket[i]]++;
    for (long b = 0; b <= r->buckets; b++) {
        int32_t own = before[b];
        before[b] = total;
        total += own;
    }
}

/* Ones where draws and buckets decide; how many entries are left.
 *
 * `asked` is the smallest rank, counted from 0, with which an entry passes: with any where it is
 * below 1, with none from `columns` on. Most are one or the other, so the rest is looked up one
 * by one.
 */
static long decided(Row *r, const int16_t *restrict draws, float lowest, float step, long first,
                    uint8_t *bits) {
    float mask[STRIP], last = (float)(r->columns + 1);
    int32_t ranked[STRIP];
    uint32_t inner = (uint32_t)r->columns - 1; /* ranks that need to be looked up */
    const float either[2] = {0.0f, 1.0f}; /* no jump that is taken half of the time */
    long left = 0;
    for (long start = 0; start < r->columns; start += STRIP) {
        long count = least(STRIP, r->columns - start), some = 0;
        int32_t *restrict asked = r->asked + start;
        for (long i = 0; i < count; i++) {
            float needed = floorf((fraction(draws[start + i]) - lowest) / step) + 2.0f;
            needed = needed < 0.0f ? 0.0f : needed;
            asked[i] = (int32_t)(needed > last ? last : needed) - 1;
            mask[i] = asked[i] < 1;
        }
        for (long i = 0; i < count; i++) {
            ranked[some] = (int32_t)i;
            some += (uint32_t)asked[i] - 1 < inner;
        }
        for (long t = 0; t < some; t++) {
            long i = ranked[t];
            const int32_t *before = r->before + r->bucket[start + i];
            mask[i] = either[before[0] >= asked[i]];
            r->open[left] = (int32_t)(start + i);
            left += (before[0] < asked[i]) & (before[1] > asked[i]);
        }
        packed(mask, count, first + start, bits);
    }
    return left;
}

static void sorted(Row *r) {
    uint32_t *from = r->size, *to = r->sorted;
    for (int shift = 0; shift < 32; shift += DIGIT) {
        uint32_t at[1 << DIGIT] = {0}, total = 0, last = (1 << DIGIT) - 1;
        for (long i = 0; i < r->columns; i++) at[(from[i] >> shift) & last]++;
        for (uint32_t d = 0; d <= last; d++) {
            uint32_t own = at[d];
            at[d] = total;
            total += own;
        }
        for (long i = 0; i < r->columns; i++) to[at[(from[i] >> shift) & last]++] = from[i];
        from = to;
        to = to == r->sorted ? r->spare : r->sorted;
    }
}

typedef struct {
    uint32_t size;
    int32_t smaller, equal;
} Known;

/* How many of a row are smaller than a magnitude, and how many equal to it; `scans` of the row
 * are counted. */
static Known *among(const Row *r, uint32_t size, Known *known, long *scans) {
    Known *k = known + (size * 0x9E3779B1u >> 24) % KNOWN;
    if (k->size == size) return k;
    int32_t smaller = 0, equal = 0;
    for (long t = 0; t < r->columns; t++) {
        smaller += r->size[t] < size;
        equal += r->size[t] == size;
    }
    *k = (Known){size, smaller, equal};
    ++*scans;
    return k;
}

/* Bits of the entries that the buckets left open. Of equal ones those in the first half of the
 * row count as larger. */
static void compared(Row *r, long left, long first, uint8_t *bits) {
    long middle = r->columns / 2 + r->columns % 2, scans = 0, done = 0;
    Known known[KNOWN];
    if (left) memset(known, 0xff, sizeof known); /* no magnitude has its highest bit */
    for (; done < left && scans < SCANS; done++) {
        long i = r->open[done];
        const Known *k = among(r, r->size[i], known, &scans);
        set(bits, first + i, k->smaller + (i < middle ? k->equal - 1 : 0) >= r->asked[i]);
    }
    if (done == left) return;
    sorted(r);
    for (; done < left; done++) {
        long i = r->open[done], rank = r->asked[i];
        set(bits, first + i,
            i < middle ? r->size[i] >= r->sorted[rank] : r->size[i] > r->sorted[rank - 1]);
    }
}

/* Bits from `first` on, of the first model as rows of `columns`: whether a draw is below the
 * probability of its entry's rank, which is `lowest` for the smallest of a row and grows by
 * `step` with each rank. 0 where memory is short.
 */
int cermet_ranked(Stored *s, long columns, const int16_t *restrict draws, float lowest,
                  float step, long first, uint8_t *bits) {
    Row row;
    if (!with_room(&row, columns)) return 0;
    for (long from = 0; from < s->n; from += columns) {
        counted(&row, sizes(s, from, &row));
        long left = decided(&row, draws + from, lowest, step, first + from, bits);
        compared(&row, left, first + from, bits);
    }
    free(row.size);
    return 1;
}
