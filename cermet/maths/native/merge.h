/* Merged blocks: weighted sums and elections of what is kept of the deltas. */

#pragma once

#include "kept.h"
#include "result.h"

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
uint32_t cermet_sum(Stored *s, const Kept *k, const float *factors, Result *to) {
    uint32_t most = 0;
    float wide[STRIP], row[STRIP], total[STRIP], mask[STRIP];
    for (long start = 0; start < s->n; start += STRIP) {
        long count = least(STRIP, s->n - start);
        const float *one = shared(s, k, start, count, mask);
        base_of(s, start, count, wide);
        if (!k->cuts && !k->masks) most = plain_sum(s, factors, start, count, wide, total, most);
        for (long m = 0; (k->cuts || k->masks) && m < s->models; m++) {
            float factor = factors[m];
            most = delta(s, m, start, count, wide, row, most);
            keep(s, k, one, m, start, count, row);
            if (m)
                for (long i = 0; i < count; i++) total[i] = fmaf(row[i], factor, total[i]);
            else
                for (long i = 0; i < count; i++) total[i] = row[i] * factor;
        }
        if (s->base)
            for (long i = 0; i < count; i++) total[i] += wide[i];
        put(to, total, start, count);
    }
    empty(to, s->n);
    return most;
}

/* What an election is told of each model and of all. */
typedef struct {
    float votes[MODELS], factors[MODELS], shares[MODELS];
    int normalize;
    float scale;
} Vote;

/* All ones where a condition holds. */
static inline uint32_t all(int holds) { return holds ? ~0u : 0; }

/* Signs are turned and parts left out bit by bit, which compilers do better than `?:` on sums. */
static inline uint32_t turned_by(float total) { return total >= 0.0f ? 0 : 1u << 31; }

static inline float only(float value, uint32_t where) { return as_float(as_bits(value) & where); }

static inline float mean_of(float agreed, float divisor, uint32_t turn) {
    divisor = divisor == 0.0f ? 1.0f : divisor;
    return as_float(as_bits(agreed / divisor) ^ turn);
}

/* What is elected of a strip of rows, `width` apart, of so many models: on top of the base. */
static inline __attribute__((always_inline)) void elected(
    const Vote *restrict v, long models, const float *restrict rows, long width, long count,
    const float *restrict base, float *restrict to) {
    uint32_t divided = all(v->normalize);
    for (long i = 0; i < count; i++) {
        /* A sum that begins with -0 is its first term, whatever that is. */
        float total = -0.0f, agreed = -0.0f, divisor = 0.0f;
        for (long m = 0; m < models; m++) total += rows[m * width + i] * v->votes[m];
        uint32_t turn = turned_by(total);
        for (long m = 0; m < models; m++) {
            float part = as_float(as_bits(rows[m * width + i] * v->factors[m]) ^ turn);
            agreed += only(part, ~all(part < 0.0f));
            divisor += only(v->shares[m], all(part > 0.0f));
        }
        to[i] = mean_of(agreed, only(divisor, divided), turn) * v->scale + base[i];
    }
}

/* The same with the models outside: of a number that the compiler does not know. */
static void elected_of_many(const Vote *restrict v, long models, const float *restrict rows,
                            long width, long count, const float *restrict base,
                            float *restrict to) {
    uint32_t turn[STRIP], divided = all(v->normalize);
    float divisor[STRIP];
    for (long i = 0; i < count; i++) to[i] = -0.0f;
    for (long m = 0; m < models; m++)
        for (long i = 0; i < count; i++) to[i] += rows[m * width + i] * v->votes[m];
    for (long i = 0; i < count; i++) {
        turn[i] = turned_by(to[i]);
        to[i] = -0.0f;
        divisor[i] = 0.0f;
    }
    for (long m = 0; m < models; m++)
        for (long i = 0; i < count; i++) {
            float part = as_float(as_bits(rows[m * width + i] * v->factors[m]) ^ turn[i]);
            to[i] += only(part, ~all(part < 0.0f));
            divisor[i] += only(v->shares[m], all(part > 0.0f));
        }
    for (long i = 0; i < count; i++)
        to[i] = mean_of(to[i], only(divisor[i], divided), turn[i]) * v->scale + base[i];
}

/* to = round(base + scale * the sum, or mean by shares, of what has the sign of the total).
 *
 * The sign is that of the weighted deltas, or with `plain` of the deltas as they are.
 */
uint32_t cermet_elect(Stored *s, const Kept *k, const float *factors, const float *shares,
                      int plain, int normalize, float scale, Result *to) {
    uint32_t most = 0;
    float rows[ROOM], wide[STRIP], total[STRIP], mask[STRIP];
    long width = width_of(s->models);
    Vote v = {.normalize = normalize, .scale = scale};
    for (long m = 0; m < s->models; m++)
        v.votes[m] = plain ? 1.0f : factors[m], v.factors[m] = factors[m], v.shares[m] = shares[m];
    for (long i = 0; i < width; i++) wide[i] = -0.0f; /* changes nothing that it is added to */
    for (long start = 0; start < s->n; start += width) {
        long count = least(width, s->n - start);
        const float *one = shared(s, k, start, count, mask);
        base_of(s, start, count, wide);
        for (long m = 0; m < s->models; m++) {
            most = delta(s, m, start, count, wide, rows + m * width, most);
            keep(s, k, one, m, start, count, rows + m * width);
        }
        switch (s->models) {
        case 2: elected(&v, 2, rows, width, count, wide, total); break;
        case 3: elected(&v, 3, rows, width, count, wide, total); break;
        case 4: elected(&v, 4, rows, width, count, wide, total); break;
        default: elected_of_many(&v, s->models, rows, width, count, wide, total);
        }
        put(to, total, start, count);
    }
    empty(to, s->n);
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
