/* What is kept of deltas: what passes cuts, what bits let through, where models vary most. */

#pragma once

#include "stored.h"

/* What is kept of each delta: what passes cuts [models][cuts], without what passes the second
 * ones; or what bits [masks][n], or a mask of ones and zeros [masks][n], let through. With `vary`
 * the bits are made on the way: ones where the variance over the models passes a threshold,
 * before `until` where it reaches it. */
typedef struct {
    int64_t cuts;
    const float *above, *inclusive;
    const int64_t *end;
    int64_t masks;
    uint8_t *bits;
    const float *mask;
    int64_t vary, until;
    float threshold;
} Kept;

/* What passes the first cut of a model, without what passes its second one, in place.
 *
 * A value passes where its magnitude is above the cut, and before the cut's end also at it.
 */
static void trim(const Kept *k, long m, long start, long count, float *restrict row) {
    const float *above = k->above + m * k->cuts, *inclusive = k->inclusive + m * k->cuts;
    const int64_t *end = k->end + m * k->cuts;
    long done = 0;
    while (done < count) {
        long stop = count; /* the cuts are the same for all up to there */
        float cut[2] = {0.0f, INFINITY};
        for (long c = 0; c < k->cuts; c++) {
            int before = start + done < end[c];
            cut[c] = before ? inclusive[c] : above[c];
            if (before) stop = least(stop, end[c] - start);
        }
        if (k->cuts == 1)
            for (long i = done; i < stop; i++) row[i] = fabsf(row[i]) <= cut[0] ? 0.0f : row[i];
        else
            for (long i = done; i < stop; i++) {
                float first = fabsf(row[i]) <= cut[0] ? 0.0f : row[i];
                row[i] = first - (fabsf(row[i]) <= cut[1] ? 0.0f : row[i]);
            }
        done = stop;
    }
}

/* The bits [first, first + count) as ones and zeros. */
static void unpacked(const uint8_t *bits, long first, long count, float *restrict mask) {
    long i = 0;
#if defined(__AVX2__)
    if (first % 8 == 0) {
        const __m256i each = _mm256_setr_epi32(128, 64, 32, 16, 8, 4, 2, 1);
        const __m256 one = _mm256_set1_ps(1.0f);
        for (; i + 8 <= count; i += 8) {
            __m256i byte = _mm256_and_si256(_mm256_set1_epi32(bits[(first + i) / 8]), each);
            __m256 keep = _mm256_castsi256_ps(_mm256_cmpeq_epi32(byte, each));
            _mm256_storeu_ps(mask + i, _mm256_and_ps(keep, one));
        }
    }
#endif
    for (; i < count; i++) {
        long at = first + i;
        mask[i] = (float)((bits[at / 8] >> (7 - at % 8)) & 1);
    }
}

/* What is kept of one model's strip of deltas, in place. `shared`: the one mask of all models. */
static inline void keep(Stored *s, const Kept *k, const float *restrict shared, long m, long start,
                        long count, float *restrict row) {
    float own[STRIP];
    const float *mask = shared;
    if (k->cuts) trim(k, m, start, count, row);
    if (!shared && k->masks) {
        if (k->bits) unpacked(k->bits, m * s->n + start, count, own);
        mask = k->bits ? own : k->mask + m * s->n + start;
    }
    if (mask)
        for (long i = 0; i < count; i++) row[i] *= mask[i];
}

static inline void set(uint8_t *bits, long at, int on) {
    bits[at / 8] |= (uint8_t)(on << (7 - at % 8));
}

/* Ones and zeros as bits from `first` on, the first in the highest bit; `bits` begins as 0. */
static void packed(const float *restrict mask, long count, long first, uint8_t *bits) {
    long i = 0;
#if defined(__AVX2__)
    if (first % 8 == 0) {
        const __m256i turned = _mm256_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0);
        const __m256 zero = _mm256_setzero_ps();
        for (; i + 8 <= count; i += 8) {
            __m256 x = _mm256_permutevar8x32_ps(_mm256_loadu_ps(mask + i), turned);
            int found = _mm256_movemask_ps(_mm256_cmp_ps(x, zero, _CMP_NEQ_UQ));
            bits[(first + i) / 8] = (uint8_t)found;
        }
    }
#endif
    for (; i < count; i++) set(bits, first + i, mask[i] != 0.0f);
}

/* Population variance of a strip over rows, `width` apart, of so many models; 0 where they agree. */
static inline __attribute__((always_inline)) void variance_of(
    long models, const float *restrict rows, long width, long count, float *restrict to) {
    float share = (float)(1.0 / (double)models);
    for (long i = 0; i < count; i++) {
        float first = rows[i], mean = 0.0f;
        for (long m = 1; m < models; m++) mean = fmaf(rows[m * width + i] - first, share, mean);
        float sum = mean * mean * share;
        for (long m = 1; m < models; m++) {
            float offset = (rows[m * width + i] - first) - mean;
            sum = fmaf(offset * offset, share, sum);
        }
        to[i] = sum;
    }
}

/* The same with the models outside: of a number that the compiler does not know. */
static void variance_of_many(long models, const float *restrict rows, long width, long count,
                             float *restrict to) {
    float mean[STRIP], share = (float)(1.0 / (double)models);
    for (long i = 0; i < count; i++) mean[i] = 0.0f;
    for (long m = 1; m < models; m++)
        for (long i = 0; i < count; i++)
            mean[i] = fmaf(rows[m * width + i] - rows[i], share, mean[i]);
    for (long i = 0; i < count; i++) to[i] = mean[i] * mean[i] * share;
    for (long m = 1; m < models; m++)
        for (long i = 0; i < count; i++) {
            float offset = (rows[m * width + i] - rows[i]) - mean[i];
            to[i] = fmaf(offset * offset, share, to[i]);
        }
}

/* Population variance of a strip over the models; the largest |delta| so far. */
static uint32_t varied(Stored *s, long start, long count, float *restrict to, uint32_t most) {
    float wide[STRIP], rows[ROOM];
    long width = width_of(s->models);
    base_of(s, start, count, wide);
    for (long at = 0; at < count; at += width) {
        long some = least(width, count - at);
        for (long m = 0; m < s->models; m++)
            most = delta(s, m, start + at, some, wide + at, rows + m * width, most);
        switch (s->models) {
        case 2: variance_of(2, rows, width, some, to + at); break;
        case 3: variance_of(3, rows, width, some, to + at); break;
        case 4: variance_of(4, rows, width, some, to + at); break;
        default: variance_of_many(s->models, rows, width, some, to + at);
        }
    }
    return most;
}

/* A strip of the mask that is one for all models, in `room` where it has to be made; or NULL. */
static const float *shared(Stored *s, const Kept *k, long start, long count,
                           float *restrict room) {
    if (k->masks != 1) return NULL;
    if (!k->bits) return k->mask + start;
    if (!k->vary) {
        unpacked(k->bits, start, count, room);
        return room;
    }
    long split = (long)k->until - start;
    split = split < 0 ? 0 : least(split, count);
    varied(s, start, count, room, 0);
    for (long i = 0; i < split; i++) room[i] = room[i] >= k->threshold;
    for (long i = split; i < count; i++) room[i] = room[i] > k->threshold;
    packed(room, count, start, k->bits);
    return room;
}
