/* The inner loops of merges: what is read is worked on in strips that stay in the first cache.
 *
 * They do the arithmetic of the torch code that they stand in for, operation by operation in
 * the same order, in float32. A product and a sum are fused (fmaf) exactly where torch's
 * `add(x, y, alpha)` fuses them, and nowhere else, so this file must be compiled with
 * -ffp-contract=off. Both give the same bits; `compiled.py` looks before it trusts them.
 */

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
#define ROOM (4 * STRIP) /* strips of all models together, while a sign is elected */

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
uint64_t cermet_digest(const char *restrict data, int64_t bytes, uint64_t offset,
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

/* See to it that the elements [start, start + count) of all are in memory. */
static inline void bring(Stored *s, long start, long count) {
    if (!s->files || start + count <= s->have) return;
    int64_t size = s->kind == FLOAT32 ? 4 : 2;
    int64_t bytes = least(s->chunk, s->n - start) * size;
    int64_t known = s->have > start ? (s->have - start) * size : 0; /* a strip that was cut */
    for (long i = 0; i < s->models + (s->base ? 1 : 0); i++) {
        char *own = s->room + i * s->chunk * size;
        fetch(s, i, s->at[i] + start * size, own, bytes);
        if (s->lanes)
            s->digests[i] += cermet_digest(own + known, bytes - known,
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
static inline void keep(Stored *s, const Kept *k, long m, long start, long count,
                        float *restrict row) {
    if (k->cuts) trim(k, m, start, count, row);
    long behind = (k->masks > 1 ? m * s->n : 0) + start;
    if (k->masks && k->bits) masked(row, count, k->bits, behind);
    if (k->masks && !k->bits)
        for (long i = 0; i < count; i++) row[i] *= k->mask[behind + i];
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

/* Population variance of a strip over the models; exactly 0 where they agree. */
static void varied(Stored *s, long start, long count, float *restrict to) {
    float wide[STRIP] = {0}, rows[ROOM], mean[STRIP];
    float share = (float)(1.0 / (double)s->models);
    long held = ROOM / STRIP - 1; /* models after the first whose strip is not read again */
    float *restrict first = rows;
    base_of(s, start, count, wide);
    delta(s, 0, start, count, wide, first, 0);
    for (long i = 0; i < count; i++) mean[i] = 0.0f;
    for (long m = 1; m < s->models; m++) {
        float *restrict row = rows + least(m, held) * STRIP;
        delta(s, m, start, count, wide, row, 0);
        for (long i = 0; i < count; i++) mean[i] = fmaf(row[i] - first[i], share, mean[i]);
    }
    for (long i = 0; i < count; i++) to[i] = mean[i] * mean[i] * share;
    for (long m = 1; m < s->models; m++) {
        float *restrict row = rows + least(m, held) * STRIP;
        if (s->models > held + 1 && m >= held) delta(s, m, start, count, wide, row, 0);
        for (long i = 0; i < count; i++) {
            float offset = (row[i] - first[i]) - mean[i];
            to[i] = fmaf(offset * offset, share, to[i]);
        }
    }
}

/* The bits of a strip that are made on the way. */
static void vary(Stored *s, const Kept *k, long start, long count) {
    if (!k->vary) return;
    float value[STRIP], mask[STRIP];
    long split = (long)k->until - start;
    split = split < 0 ? 0 : least(split, count);
    varied(s, start, count, value);
    for (long i = 0; i < split; i++) mask[i] = value[i] >= k->threshold;
    for (long i = split; i < count; i++) mask[i] = value[i] > k->threshold;
    packed(mask, count, start, k->bits);
}

/* deltas[m] = model m - base; the base widened goes to `wide`. */
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

void cermet_variance(Stored *s, float *restrict to) {
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
uint32_t cermet_tally(Stored *s, int statistic, long leaf, long brackets, Look *all) {
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

/* Sums that hardly depend on their length: eight rows of lanes one after another, what comes of
 * them as a binary tree, then the lanes by halves.
 */
typedef struct {
    float (*level)[LANE]; /* sums of 1, 2, 4, ... strips that wait for their partners */
    unsigned long strips;
} Tree;

static long levels(long leaf) {
    long found = 1;
    for (long strips = (leaf + STRIP - 1) / STRIP; strips > 1; strips = (strips + 1) / 2) found++;
    return found;
}

enum { PRODUCT, SIZE };

/* One strip more, of the products of x and y or the magnitudes of x; behind `count` it is 0. */
static inline __attribute__((always_inline)) void grown(Tree *tree, int what, float *x, float *y,
                                                        long count) {
    float sum[LANE];
    for (long i = count; i < STRIP; i++) x[i] = y[i] = 0.0f;
    for (long i = 0; i < LANE; i++) sum[i] = what == PRODUCT ? x[i] * y[i] : fabsf(x[i]);
    for (long at = LANE; at < STRIP; at += LANE)
        for (long i = 0; i < LANE; i++)
            sum[i] += what == PRODUCT ? x[at + i] * y[at + i] : fabsf(x[at + i]);
    long l = 0;
    for (; (tree->strips >> l) & 1; l++)
        for (long i = 0; i < LANE; i++) sum[i] = tree->level[l][i] + sum[i];
    memcpy(tree->level[l], sum, sizeof sum);
    tree->strips++;
}

static void grow(Tree *tree, int what, float *x, float *y, long count) {
    if (what == PRODUCT)
        grown(tree, PRODUCT, x, y, count);
    else
        grown(tree, SIZE, x, y, count);
}

static float felled(Tree *tree) {
    float total[LANE];
    int begun = 0;
    for (long l = 0; tree->strips >> l; l++) {
        if (!((tree->strips >> l) & 1)) continue;
        for (long i = 0; i < LANE; i++)
            total[i] = begun ? tree->level[l][i] + total[i] : tree->level[l][i];
        begun = 1;
    }
    tree->strips = 0;
    for (long half = LANE / 2; half; half /= 2)
        for (long i = 0; i < half; i++) total[i] += total[i + half];
    return total[0];
}

static Tree *planted(long trees, long leaf) {
    long each = levels(leaf);
    Tree *all = malloc((size_t)trees * sizeof(Tree));
    float(*room)[LANE] = malloc((size_t)(trees * each) * sizeof *room);
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

/* Sums over leaves of |delta|**power, and of what is kept of it: [2][models][leaves].
 *
 * Without `before` the first half is left as it is. The largest |delta|; NaN where memory is short.
 */
uint32_t cermet_norms(Stored *s, const Kept *k, int power, int before, long leaf,
                      float *restrict to) {
    uint32_t most = 0;
    long leaves = (s->n + leaf - 1) / leaf;
    Tree *trees = planted(2 * s->models, leaf);
    if (!trees) return NOT_A_NUMBER;
    float wide[STRIP], row[STRIP];
    int what = power == 1 ? SIZE : PRODUCT;
    for (long begin = 0, l = 0; begin < s->n; begin += leaf, l++) {
        long stop = least(begin + leaf, s->n);
        for (long start = begin; start < stop; start += STRIP) {
            long count = least(STRIP, stop - start);
            vary(s, k, start, count);
            base_of(s, start, count, wide);
            for (long m = 0; m < s->models; m++) {
                most = delta(s, m, start, count, wide, row, most);
                if (before) grow(trees + m, what, row, row, count);
                keep(s, k, m, start, count, row);
                grow(trees + s->models + m, what, row, row, count);
            }
        }
        for (long t = before ? 0 : s->models; t < 2 * s->models; t++)
            to[t * leaves + l] = felled(trees + t);
    }
    cleared(trees);
    return most;
}

/* Inner products of the deltas over leaves: [pairs][leaves], of (0,0), (0,1) .. (1,1) ..; as above. */
uint32_t cermet_gram(Stored *s, long leaf, float *restrict to) {
    uint32_t most = 0;
    long leaves = (s->n + leaf - 1) / leaf, pairs = s->models * (s->models + 1) / 2;
    Tree *trees = planted(pairs, leaf);
    float *rows = malloc((size_t)s->models * STRIP * sizeof(float));
    if (!trees || !rows) {
        if (trees) cleared(trees);
        free(rows);
        return NOT_A_NUMBER;
    }
    float wide[STRIP];
    for (long begin = 0, l = 0; begin < s->n; begin += leaf, l++) {
        long stop = least(begin + leaf, s->n);
        for (long start = begin; start < stop; start += STRIP) {
            long count = least(STRIP, stop - start), pair = 0;
            base_of(s, start, count, wide);
            for (long m = 0; m < s->models; m++) {
                most = delta(s, m, start, count, wide, rows + m * STRIP, most);
            }
            for (long a = 0; a < s->models; a++)
                for (long b = a; b < s->models; b++) {
                    float *x = rows + a * STRIP, *y = rows + b * STRIP;
                    grow(trees + pair++, PRODUCT, x, y, count);
                }
        }
        for (long t = 0; t < pairs; t++) to[t * leaves + l] = felled(trees + t);
    }
    cleared(trees);
    free(rows);
    return most;
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

/* As `cermet_chance`, of the draws that PCG64DXSM makes from a state on: words of four draws. */
void cermet_draw(const uint64_t *state, long n, float chance, long first, uint8_t *bits) {
    const uint64_t factor = 0xDA942042E4DD58B5u;
    unsigned __int128 at = (unsigned __int128)state[1] << 64 | state[0];
    const unsigned __int128 step = (unsigned __int128)state[3] << 64 | state[2];
    uint64_t words[STRIP / 4];
    int16_t draws[STRIP];
    for (long start = 0; start < n; start += STRIP) {
        long count = least(STRIP, n - start);
        for (long w = 0; w < (count + 3) / 4; w++) {
            uint64_t high = (uint64_t)(at >> 64), low = (uint64_t)at | 1;
            high ^= high >> 32, high *= factor;
            high ^= high >> 48, words[w] = high * low;
            at = at * factor + step;
        }
        memcpy(draws, words, sizeof draws); /* the first draw is in the lowest bits */
        cermet_chance(draws, count, chance, first + start, bits);
    }
}

/* |delta| of the first model as rows of `columns`, between -1 and infinity: [rows][columns + 2]. */
void cermet_bounded(Stored *s, long columns, float *restrict to) {
    float wide[STRIP];
    for (long row = 0; row < s->n / columns; row++) {
        float *restrict out = to + row * (columns + 2);
        out[0] = -1.0f, out[columns + 1] = INFINITY;
        for (long start = 0; start < columns; start += STRIP) {
            long count = least(STRIP, columns - start), from = row * columns + start;
            base_of(s, from, count, wide);
            delta(s, 0, from, count, wide, out + 1 + start, 0);
            for (long i = 0; i < count; i++) out[1 + start + i] = fabsf(out[1 + start + i]);
        }
    }
}

/* Bits from `first` on, of the first model: whether a draw is below the probability of its entry's rank in the row.
 *
 * ordered: what `cermet_bounded` made, each row sorted. The probability is `lowest` for the
 * smallest of a row and grows by `step` with each rank.
 */
void cermet_ranked(Stored *s, long columns, const float *restrict ordered,
                   const int16_t *restrict draws, float lowest, float step, long first,
                   uint8_t *bits) {
    int32_t rank[STRIP];
    float wide[STRIP], size[STRIP], bound[STRIP], mask[STRIP];
    long middle = columns / 2 + columns % 2;
    float last = (float)(columns + 1);
    for (long row = 0; row < s->n / columns; row++) {
        const float *restrict in_order = ordered + row * (columns + 2);
        for (long start = 0; start < columns; start += STRIP) {
            long count = least(STRIP, columns - start), from = row * columns + start;
            base_of(s, from, count, wide);
            delta(s, 0, from, count, wide, size, 0);
            /* the rank from which on each draw passes; one more for the bound in front */
            for (long i = 0; i < count; i++) {
                float needed = floorf((fraction(draws[from + i]) - lowest) / step) + 2.0f;
                needed = needed < 0.0f ? 0.0f : needed;
                rank[i] = (int32_t)(needed > last ? last : needed);
            }
            long split = middle - start;
            split = split < 0 ? 0 : least(split, count);
            for (long i = split; i < count; i++) rank[i] -= rank[i] > 0;
            for (long i = 0; i < count; i++) bound[i] = in_order[rank[i]];
            for (long i = 0; i < split; i++) mask[i] = fabsf(size[i]) >= bound[i];
            for (long i = split; i < count; i++) mask[i] = fabsf(size[i]) > bound[i];
            packed(mask, count, first + from, bits);
        }
    }
}
