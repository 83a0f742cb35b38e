/* Merged blocks: weighted sums and elections of what is kept of the deltas. */

#pragma once

#include "stored.h"

uint64_t cermet_digest(const char *restrict data, int64_t bytes, uint64_t offset,
                       const uint64_t *restrict lanes) {
    return digest(data, bytes, offset, lanes);
}

uint32_t cermet_deltas(Stored *s, float *restrict deltas, float *restrict wide) {
    uint32_t most = 0;
    for (long start = 0; start < s->n; start += STRIP) {
        long count = least(STRIP, s->n - start);
        base_of(s, start, count, wide + start);
        for (long m = 0; m < s->models; m++) {
            float *restrict row = deltas + m * s->n + start;
            most = delta(s, m, start, count, wide + start, row, most);
        }
    }
    return most;
}

/* total = delta * factor, or plus that, of one model's strip of which all is kept. */
static inline __attribute__((always_inline)) uint32_t added(
    const void *restrict from, int kind, const float *restrict wide, float factor, int first,
    long start, long count, float *restrict total, uint32_t most) {
    for (long i = 0; i < count; i++) {
        float x = at(from, kind, start + i);
        if (wide) x -= wide[i];
        most = larger(x, most);
        total[i] = first ? x * factor : fmaf(x, factor, total[i]);
    }
    return most;
}

/* The weighted sum of a strip in one go for each model. */
static uint32_t plain_sum(Stored *s, const float *factors, long start, long count,
                          const float *restrict wide, float *restrict total, uint32_t most) {
    for (long m = 0; m < s->models; m++) {
        const char *from = s->from[m];
        float f = factors[m];
        if (s->kind == BFLOAT16 && s->base)
            most = m ? added(from, BFLOAT16, wide, f, 0, start, count, total, most)
                     : added(from, BFLOAT16, wide, f, 1, start, count, total, most);
        else if (s->kind == BFLOAT16)
            most = m ? added(from, BFLOAT16, NULL, f, 0, start, count, total, most)
                     : added(from, BFLOAT16, NULL, f, 1, start, count, total, most);
        else if (s->base)
            most = added(from, FLOAT32, wide, f, !m, start, count, total, most);
        else
            most = added(from, FLOAT32, NULL, f, !m, start, count, total, most);
    }
    return most;
}

/* to = round(base + sum of factor[m] * kept delta m); the largest magnitude of the deltas. */
uint32_t cermet_sum(Stored *s, const Kept *k, const float *factors, void *restrict to,
                    int into) {
    uint32_t most = 0;
    float wide[STRIP], row[STRIP], total[STRIP];
    for (long start = 0; start < s->n; start += STRIP) {
        long count = least(STRIP, s->n - start);
        vary(s, k, start, count);
        base_of(s, start, count, wide);
        if (!k->cuts && !k->masks) most = plain_sum(s, factors, start, count, wide, total, most);
        for (long m = 0; (k->cuts || k->masks) && m < s->models; m++) {
            float factor = factors[m];
            most = delta(s, m, start, count, wide, row, most);
            keep(s, k, m, start, count, row);
            if (m)
                for (long i = 0; i < count; i++) total[i] = fmaf(row[i], factor, total[i]);
            else
                for (long i = 0; i < count; i++) total[i] = row[i] * factor;
        }
        if (s->base)
            for (long i = 0; i < count; i++) total[i] += wide[i];
        narrow(total, into, start, count, to);
    }
    return most;
}

/* to = round(base + scale * the sum, or mean by shares, of what has the sign of the total).
 *
 * The sign is that of the weighted deltas, or with `plain` of the deltas as they are.
 */
uint32_t cermet_elect(Stored *s, const Kept *k, const float *factors, const float *shares,
                      int plain, int normalize, float scale, void *restrict to, int into) {
    uint32_t most = 0;
    float rows[ROOM], wide[STRIP], total[STRIP], sign[STRIP], divisor[STRIP];
    long width = s->models <= ROOM / STRIP ? STRIP : ROOM / s->models / 64 * 64;
    for (long start = 0; start < s->n; start += width) {
        long count = least(width, s->n - start);
        vary(s, k, start, count);
        base_of(s, start, count, wide);
        /* A sum that begins with -0 is its first term, whatever that is. */
        for (long i = 0; i < count; i++) total[i] = -0.0f;
        for (long m = 0; m < s->models; m++) {
            float *restrict row = rows + m * width, factor = factors[m];
            most = delta(s, m, start, count, wide, row, most);
            keep(s, k, m, start, count, row);
            if (plain) {
                for (long i = 0; i < count; i++) total[i] += row[i], row[i] *= factor;
            } else {
                for (long i = 0; i < count; i++) row[i] *= factor, total[i] += row[i];
            }
        }
        for (long i = 0; i < count; i++) {
            sign[i] = total[i] >= 0.0f ? 1.0f : -1.0f;
            total[i] = -0.0f;
            divisor[i] = 0.0f;
        }
        for (long m = 0; m < s->models; m++) {
            float *restrict row = rows + m * width, share = shares[m];
            for (long i = 0; i < count; i++) {
                float part = row[i] * sign[i];
                part = part < 0.0f ? 0.0f : part;
                total[i] += part;
                divisor[i] += part > 0.0f ? share : 0.0f;
            }
        }
        int based = s->base != NULL;
        for (long i = 0; i < count; i++) {
            float mean = total[i];
            if (normalize) mean /= divisor[i] == 0.0f ? 1.0f : divisor[i];
            mean = mean * sign[i] * scale;
            total[i] = based ? mean + wide[i] : mean;
        }
        narrow(total, into, start, count, to);
    }
    return most;
}

/* to = round(merged + base), where there is a base. */
void cermet_finish(const float *restrict merged, const float *restrict base, long n,
                   void *restrict to, int into) {
    float total[STRIP];
    for (long start = 0; start < n; start += STRIP) {
        long count = least(STRIP, n - start);
        memcpy(total, merged + start, (size_t)count * sizeof(float));
        if (base)
            for (long i = 0; i < count; i++) total[i] += base[start + i];
        narrow(total, into, start, count, to);
    }
}
