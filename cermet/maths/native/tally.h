/* Order statistics: what one pass tells of brackets of values. */

#pragma once

#include "kept.h"

uint32_t cermet_variance(Stored *s, float *restrict to) {
    uint32_t most = 0;
    for (long start = 0; start < s->n; start += STRIP)
        most = varied(s, start, least(STRIP, s->n - start), to + start, most);
    return most;
}

/* What one pass tells of one bracket [low, high], leaf by leaf; `one`: low is high. */
typedef struct {
    int64_t row, cap;
    float low, high;
    int64_t above, nonzero, taken;
    int64_t *top, *inside, *bottom;
    float *kept;
} Look;

static void look(Look *b, const float *restrict strip, long count, long leaf) {
    float low = b->low, high = b->high;
    int one = low == high;
    int32_t a = 0, t = 0, d = 0, w = 0, z = 0;
    for (long i = 0; i < count; i++) {
        float x = strip[i];
        a += x > high;
        t += x == high;
        d += x == low;
        z += x != 0.0f;
        w += (x > low) & (x < high);
    }
    b->nonzero += z;
    b->bottom[leaf] += low > -INFINITY ? d : 0;
    if (high < INFINITY) {
        b->above += a;
        b->top[leaf] += one ? 0 : t;
    } else {
        w += one ? 0 : t; /* without an upper bound infinity is inside as well */
    }
    if (one || !w) return;
    b->inside[leaf] += w;
    long i = 0, taken = b->taken, cap = b->cap;
    if (taken >= cap) return;
#if defined(__AVX2__)
    __m256 from = _mm256_set1_ps(low), to = _mm256_set1_ps(high);
    for (; i + 8 <= count; i += 8) {
        __m256 x = _mm256_loadu_ps(strip + i);
        int lanes = _mm256_movemask_ps(_mm256_and_ps(_mm256_cmp_ps(x, from, _CMP_GT_OQ),
                                                     _mm256_cmp_ps(x, to, _CMP_LT_OQ)));
        for (; lanes && taken < cap; lanes &= lanes - 1)
            b->kept[taken++] = strip[i + __builtin_ctz((unsigned)lanes)];
    }
#endif
    for (; i < count && taken < cap; i++)
        if (strip[i] > low && strip[i] < high) b->kept[taken++] = strip[i];
    b->taken = taken;
}

/* Every bracket of every row of a statistic, in one pass; the largest magnitude that was seen. */
uint32_t cermet_tally(Stored *s, int statistic, long leaf, long brackets, Look *all) {
    uint32_t most = 0;
    float wide[STRIP], row[STRIP];
    for (long begin = 0, l = 0; begin < s->n; begin += leaf, l++) {
        long stop = least(begin + leaf, s->n);
        for (long start = begin; start < stop; start += STRIP) {
            long count = least(STRIP, stop - start);
            if (statistic == VARIANCE)
                varied(s, start, count, row, 0);
            else
                base_of(s, start, count, wide);
            for (long m = 0; m < (statistic == VARIANCE ? 1 : s->models); m++) {
                if (statistic != VARIANCE)
                    most = delta(s, m, start, count, wide, row, most);
                else
                    for (long i = 0; i < count; i++) most = larger(row[i], most);
                if (statistic == MAGNITUDE)
                    for (long i = 0; i < count; i++) row[i] = fabsf(row[i]);
                for (long b = 0; b < brackets; b++)
                    if (all[b].row == m) look(all + b, row, count, l);
            }
        }
    }
    return most;
}
