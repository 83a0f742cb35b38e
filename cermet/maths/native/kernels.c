/* The inner loops of merges: what is read is worked on in strips that stay in the first cache.
 *
 * They do the arithmetic of the torch code that they stand in for, operation by operation in
 * the same order, in float32. A product and a sum are fused (fmaf) exactly where torch's
 * `add(x, y, alpha)` fuses them, and nowhere else, so this file must be compiled with
 * -ffp-contract=off. Both give the same bits; `compiled.py` looks before it trusts them.
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define STRIP 1024
#define MODELS 64        /* at most so many at once; callers see to it */
#define ROOM (4 * STRIP) /* strips of all models together, while a sign is elected */

#define NOT_A_NUMBER 0x7fc00000u

enum { FLOAT32 = 0, BFLOAT16 = 1 };
enum { VALUE = 0, MAGNITUDE = 1, VARIANCE = 2 };

/* Flat tensors of n elements, as they are stored; `base` is subtracted where there is one. */
typedef struct {
    int64_t models;
    const void *const *from;
    const void *base;
    int64_t kind, n;
} Stored;

/* What is kept of each delta: what passes cuts [models][cuts], without what passes the second
 * ones; or what bits [masks][n], or a mask of ones and zeros [masks][n], let through. */
typedef struct {
    int64_t cuts;
    const float *above, *inclusive;
    const int64_t *end;
    int64_t masks;
    const uint8_t *bits;
    const float *mask;
} Kept;

static inline long least(long a, long b) { return a < b ? a : b; }

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

/* One strip of one model, minus the strip of the base if there is one. */
static inline void delta(const Stored *s, long m, long start, long count,
                         const float *restrict wide, float *restrict row) {
    widen(s->from[m], s->kind, start, count, row);
    if (s->base)
        for (long i = 0; i < count; i++) row[i] -= wide[i];
}

static inline void base_of(const Stored *s, long start, long count, float *restrict wide) {
    if (s->base) widen(s->base, s->kind, start, count, wide);
}

/* The largest magnitude so far, as bits: they are ordered as magnitudes are, NaN above all. */
static inline uint32_t larger(const float *restrict values, long count, uint32_t most) {
    for (long i = 0; i < count; i++) {
        uint32_t size = as_bits(values[i]) & 0x7fffffff;
        most = size > most ? size : most;
    }
    return most;
}

/* 0 for values whose magnitude does not pass a cut: inclusive before `end`. */
static inline void trimmed(const float *restrict from, long start, long count, const Kept *k,
                           long cut, float *restrict to) {
    float above = k->above[cut], inclusive = k->inclusive[cut];
    long split = (long)k->end[cut] - start;
    split = split < 0 ? 0 : least(split, count);
    for (long i = 0; i < split; i++) to[i] = fabsf(from[i]) <= inclusive ? 0.0f : from[i];
    for (long i = split; i < count; i++) to[i] = fabsf(from[i]) <= above ? 0.0f : from[i];
}

/* Times the bits [first, first + count). */
static inline void masked(float *restrict row, long count, const uint8_t *bits, long first) {
    long i = 0;
#if defined(__AVX2__)
    if (first % 8 == 0) {
        const __m256i each = _mm256_setr_epi32(128, 64, 32, 16, 8, 4, 2, 1);
        const __m256 one = _mm256_set1_ps(1.0f);
        for (; i + 8 <= count; i += 8) {
            __m256i byte = _mm256_and_si256(_mm256_set1_epi32(bits[(first + i) / 8]), each);
            __m256 keep = _mm256_castsi256_ps(_mm256_cmpeq_epi32(byte, each));
            __m256 x = _mm256_mul_ps(_mm256_loadu_ps(row + i), _mm256_and_ps(keep, one));
            _mm256_storeu_ps(row + i, x);
        }
    }
#endif
    for (; i < count; i++) {
        long at = first + i;
        row[i] *= (float)((bits[at / 8] >> (7 - at % 8)) & 1);
    }
}

/* What is kept of one model's strip of deltas, in place. */
static inline void keep(const Stored *s, const Kept *k, long m, long start, long count,
                        float *restrict row) {
    if (k->cuts) {
        float first[STRIP];
        trimmed(row, start, count, k, m * k->cuts, first);
        if (k->cuts > 1) {
            float outlier[STRIP];
            trimmed(row, start, count, k, m * k->cuts + 1, outlier);
            for (long i = 0; i < count; i++) first[i] -= outlier[i];
        }
        memcpy(row, first, (size_t)count * sizeof(float));
    }
    long behind = (k->masks > 1 ? m * s->n : 0) + start;
    if (k->masks && k->bits) masked(row, count, k->bits, behind);
    if (k->masks && !k->bits)
        for (long i = 0; i < count; i++) row[i] *= k->mask[behind + i];
}

/* deltas[m] = model m - base; the base widened goes to `wide`. */
uint32_t cermet_deltas(const Stored *s, float *restrict deltas, float *restrict wide) {
    uint32_t most = 0;
    for (long start = 0; start < s->n; start += STRIP) {
        long count = least(STRIP, s->n - start);
        base_of(s, start, count, wide + start);
        for (long m = 0; m < s->models; m++) {
            float *restrict row = deltas + m * s->n + start;
            delta(s, m, start, count, wide + start, row);
            most = larger(row, count, most);
        }
    }
    return most;
}

/* to = round(base + sum of factor[m] * kept delta m); the largest magnitude of the deltas. */
uint32_t cermet_sum(const Stored *s, const Kept *k, const float *factors, void *restrict to,
                    int into) {
    uint32_t most = 0;
    float wide[STRIP], row[STRIP], total[STRIP];
    for (long start = 0; start < s->n; start += STRIP) {
        long count = least(STRIP, s->n - start);
        base_of(s, start, count, wide);
        for (long m = 0; m < s->models; m++) {
            float factor = factors[m];
            delta(s, m, start, count, wide, row);
            most = larger(row, count, most);
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
uint32_t cermet_elect(const Stored *s, const Kept *k, const float *factors, const float *shares,
                      int plain, int normalize, float scale, void *restrict to, int into) {
    uint32_t most = 0;
    float rows[ROOM], wide[STRIP], total[STRIP], sign[STRIP], divisor[STRIP];
    long width = s->models <= ROOM / STRIP ? STRIP : ROOM / s->models / 64 * 64;
    for (long start = 0; start < s->n; start += width) {
        long count = least(width, s->n - start);
        base_of(s, start, count, wide);
        /* A sum that begins with -0 is its first term, whatever that is. */
        for (long i = 0; i < count; i++) total[i] = -0.0f;
        for (long m = 0; m < s->models; m++) {
            float *restrict row = rows + m * width, factor = factors[m];
            delta(s, m, start, count, wide, row);
            most = larger(row, count, most);
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
        if (normalize)
            for (long i = 0; i < count; i++)
                total[i] /= divisor[i] == 0.0f ? 1.0f : divisor[i];
        for (long i = 0; i < count; i++) total[i] = total[i] * sign[i] * scale;
        if (s->base)
            for (long i = 0; i < count; i++) total[i] += wide[i];
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

/* Population variance of a strip over the models; exactly 0 where they agree. */
static void varied(const Stored *s, long start, long count, float *restrict to) {
    float wide[STRIP], rows[ROOM], mean[STRIP];
    float share = (float)(1.0 / (double)s->models);
    long held = ROOM / STRIP - 1; /* models after the first whose strip is not read again */
    float *restrict first = rows;
    base_of(s, start, count, wide);
    delta(s, 0, start, count, wide, first);
    for (long i = 0; i < count; i++) mean[i] = 0.0f;
    for (long m = 1; m < s->models; m++) {
        float *restrict row = rows + least(m, held) * STRIP;
        delta(s, m, start, count, wide, row);
        for (long i = 0; i < count; i++) mean[i] = fmaf(row[i] - first[i], share, mean[i]);
    }
    for (long i = 0; i < count; i++) to[i] = mean[i] * mean[i] * share;
    for (long m = 1; m < s->models; m++) {
        float *restrict row = rows + least(m, held) * STRIP;
        if (s->models > held + 1 && m >= held) delta(s, m, start, count, wide, row);
        for (long i = 0; i < count; i++) {
            float offset = (row[i] - first[i]) - mean[i];
            to[i] = fmaf(offset * offset, share, to[i]);
        }
    }
}

void cermet_variance(const Stored *s, float *restrict to) {
    for (long start = 0; start < s->n; start += STRIP)
        varied(s, start, least(STRIP, s->n - start), to + start);
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
uint32_t cermet_tally(const Stored *s, int statistic, long leaf, long brackets, Look *all) {
    uint32_t most = 0;
    float wide[STRIP], row[STRIP];
    for (long begin = 0, l = 0; begin < s->n; begin += leaf, l++) {
        long stop = least(begin + leaf, s->n);
        for (long start = begin; start < stop; start += STRIP) {
            long count = least(STRIP, stop - start);
            if (statistic == VARIANCE)
                varied(s, start, count, row);
            else
                base_of(s, start, count, wide);
            for (long m = 0; m < (statistic == VARIANCE ? 1 : s->models); m++) {
                if (statistic != VARIANCE) delta(s, m, start, count, wide, row);
                most = larger(row, count, most);
                if (statistic == MAGNITUDE)
                    for (long i = 0; i < count; i++) row[i] = fabsf(row[i]);
                for (long b = 0; b < brackets; b++)
                    if (all[b].row == m) look(all + b, row, count, l);
            }
        }
    }
    return most;
}

/* Sums in pairs: rows of STRIP lanes as a binary tree, then the lanes by halves. */
typedef struct {
    float (*level)[STRIP]; /* sums of 1, 2, 4, ... rows that wait for their partners */
    unsigned long rows;
} Tree;

static long levels(long leaf) {
    long found = 1;
    for (long rows = (leaf + STRIP - 1) / STRIP; rows > 1; rows = (rows + 1) / 2) found++;
    return found;
}

/* One row more, of which the lanes from `count` on are 0; it is used up. */
static void grow(Tree *tree, float *restrict row, long count) {
    for (long i = count; i < STRIP; i++) row[i] = 0.0f;
    long at = 0;
    for (; (tree->rows >> at) & 1; at++)
        for (long i = 0; i < STRIP; i++) row[i] = tree->level[at][i] + row[i];
    memcpy(tree->level[at], row, sizeof tree->level[at]);
    tree->rows++;
}

static float felled(Tree *tree) {
    float total[STRIP];
    int begun = 0;
    for (long at = 0; tree->rows >> at; at++) {
        if (!((tree->rows >> at) & 1)) continue;
        for (long i = 0; i < STRIP; i++)
            total[i] = begun ? tree->level[at][i] + total[i] : tree->level[at][i];
        begun = 1;
    }
    tree->rows = 0;
    for (long half = STRIP / 2; half; half /= 2)
        for (long i = 0; i < half; i++) total[i] += total[i + half];
    return total[0];
}

static Tree *planted(long trees, long leaf) {
    long each = levels(leaf);
    Tree *all = malloc((size_t)trees * sizeof(Tree));
    float(*room)[STRIP] = malloc((size_t)(trees * each) * sizeof *room);
    if (!all || !room) {
        free(all), free(room);
        return NULL;
    }
    for (long t = 0; t < trees; t++) all[t] = (Tree){room + t * each, 0};
    return all;
}

static void cleared(Tree *trees) {
    free(trees[0].level);
    free(trees);
}

static inline void powered(const float *restrict from, long count, int power, float *restrict to) {
    if (power == 1)
        for (long i = 0; i < count; i++) to[i] = fabsf(from[i]);
    else
        for (long i = 0; i < count; i++) to[i] = from[i] * from[i];
}

/* Sums over leaves of |delta|**power, and of what is kept of it: [2][models][leaves].
 *
 * Without `before` the first half is left as it is. The largest |delta|; NaN where memory is short.
 */
uint32_t cermet_norms(const Stored *s, const Kept *k, int power, int before, long leaf,
                      float *restrict to) {
    uint32_t most = 0;
    long leaves = (s->n + leaf - 1) / leaf;
    Tree *trees = planted(2 * s->models, leaf);
    if (!trees) return NOT_A_NUMBER;
    float wide[STRIP], row[STRIP], size[STRIP];
    for (long begin = 0, l = 0; begin < s->n; begin += leaf, l++) {
        long stop = least(begin + leaf, s->n);
        for (long start = begin; start < stop; start += STRIP) {
            long count = least(STRIP, stop - start);
            base_of(s, start, count, wide);
            for (long m = 0; m < s->models; m++) {
                delta(s, m, start, count, wide, row);
                most = larger(row, count, most);
                if (before) {
                    powered(row, count, power, size);
                    grow(trees + m, size, count);
                }
                keep(s, k, m, start, count, row);
                powered(row, count, power, size);
                grow(trees + s->models + m, size, count);
            }
        }
        for (long t = before ? 0 : s->models; t < 2 * s->models; t++)
            to[t * leaves + l] = felled(trees + t);
    }
    cleared(trees);
    return most;
}

/* Inner products of the deltas over leaves: [pairs][leaves], of (0,0), (0,1) .. (1,1) ..; as above. */
uint32_t cermet_gram(const Stored *s, long leaf, float *restrict to) {
    uint32_t most = 0;
    long leaves = (s->n + leaf - 1) / leaf, pairs = s->models * (s->models + 1) / 2;
    Tree *trees = planted(pairs, leaf);
    float *rows = malloc((size_t)s->models * STRIP * sizeof(float));
    if (!trees || !rows) {
        if (trees) cleared(trees);
        free(rows);
        return NOT_A_NUMBER;
    }
    float wide[STRIP], product[STRIP];
    for (long begin = 0, l = 0; begin < s->n; begin += leaf, l++) {
        long stop = least(begin + leaf, s->n);
        for (long start = begin; start < stop; start += STRIP) {
            long count = least(STRIP, stop - start), pair = 0;
            base_of(s, start, count, wide);
            for (long m = 0; m < s->models; m++) {
                delta(s, m, start, count, wide, rows + m * STRIP);
                most = larger(rows + m * STRIP, count, most);
            }
            for (long a = 0; a < s->models; a++)
                for (long b = a; b < s->models; b++) {
                    const float *restrict x = rows + a * STRIP, *restrict y = rows + b * STRIP;
                    for (long i = 0; i < count; i++) product[i] = x[i] * y[i];
                    grow(trees + pair++, product, count);
                }
        }
        for (long t = 0; t < pairs; t++) to[t * leaves + l] = felled(trees + t);
    }
    cleared(trees);
    free(rows);
    return most;
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

void cermet_pack(const float *restrict mask, long n, uint8_t *bits) { packed(mask, n, 0, bits); }

void cermet_unpack(const uint8_t *restrict bits, long n, float *restrict mask) {
    for (long i = 0; i < n; i++) mask[i] = 1.0f;
    masked(mask, n, bits, 0);
}

static inline float fraction(int16_t draw) {
    return ((float)draw + 32768.0f) * (1.0f / 65536.0f);
}

/* Draws of 16 bits as numbers in [0, 1), in the order of their signed reading. */
void cermet_uniform(const int16_t *restrict draws, long n, float *restrict to) {
    for (long i = 0; i < n; i++) to[i] = fraction(draws[i]);
}

/* Bits of n draws from `first` on: whether each is below the chance. */
void cermet_chance(const int16_t *restrict draws, long n, float chance, long first,
                   uint8_t *bits) {
    float mask[STRIP];
    for (long start = 0; start < n; start += STRIP) {
        long count = least(STRIP, n - start);
        for (long i = 0; i < count; i++) mask[i] = fraction(draws[start + i]) < chance;
        packed(mask, count, first + start, bits);
    }
}

/* Bits of the elements whose variance over the models passes a threshold. */
void cermet_above(const Stored *s, float threshold, long end, uint8_t *bits) {
    float value[STRIP], mask[STRIP];
    for (long start = 0; start < s->n; start += STRIP) {
        long count = least(STRIP, s->n - start), split = end - start;
        split = split < 0 ? 0 : least(split, count);
        varied(s, start, count, value);
        for (long i = 0; i < split; i++) mask[i] = value[i] >= threshold;
        for (long i = split; i < count; i++) mask[i] = value[i] > threshold;
        packed(mask, count, start, bits);
    }
}

/* |delta| of one model as rows of `columns`, between -1 and infinity: [rows][columns + 2]. */
void cermet_bounded(const Stored *s, long m, long columns, float *restrict to) {
    float wide[STRIP];
    for (long row = 0; row < s->n / columns; row++) {
        float *restrict out = to + row * (columns + 2);
        out[0] = -1.0f, out[columns + 1] = INFINITY;
        for (long start = 0; start < columns; start += STRIP) {
            long count = least(STRIP, columns - start), at = row * columns + start;
            base_of(s, at, count, wide);
            delta(s, m, at, count, wide, out + 1 + start);
            for (long i = 0; i < count; i++) out[1 + start + i] = fabsf(out[1 + start + i]);
        }
    }
}

/* Bits from `first` on: whether a draw is below the probability of its entry's rank in the row.
 *
 * ordered: what `cermet_bounded` made, each row sorted. The probability is `lowest` for the
 * smallest of a row and grows by `step` with each rank.
 */
void cermet_ranked(const Stored *s, long m, long columns, const float *restrict ordered,
                   const int16_t *restrict draws, float lowest, float step, long first,
                   uint8_t *bits) {
    int32_t rank[STRIP];
    float wide[STRIP], size[STRIP], bound[STRIP], mask[STRIP];
    long middle = columns / 2 + columns % 2;
    float last = (float)(columns + 1);
    for (long row = 0; row < s->n / columns; row++) {
        const float *restrict in_order = ordered + row * (columns + 2);
        for (long start = 0; start < columns; start += STRIP) {
            long count = least(STRIP, columns - start), at = row * columns + start;
            base_of(s, at, count, wide);
            delta(s, m, at, count, wide, size);
            /* the rank from which on each draw passes; one more for the bound in front */
            for (long i = 0; i < count; i++) {
                float needed = floorf((fraction(draws[at + i]) - lowest) / step) + 2.0f;
                needed = needed < 0.0f ? 0.0f : needed;
                rank[i] = (int32_t)(needed > last ? last : needed);
            }
            long split = middle - start;
            split = split < 0 ? 0 : least(split, count);
            for (long i = split; i < count; i++) rank[i] -= rank[i] > 0;
            for (long i = 0; i < count; i++) bound[i] = in_order[rank[i]];
            for (long i = 0; i < split; i++) mask[i] = fabsf(size[i]) >= bound[i];
            for (long i = split; i < count; i++) mask[i] = fabsf(size[i]) > bound[i];
            packed(mask, count, first + at, bits);
        }
    }
}
