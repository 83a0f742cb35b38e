/* Sums over leaves of powers and of products. */

#pragma once

#include "kept.h"


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
    for (long i = 0; i < LANE; i++) { /* which stays in registers over all rows */
        sum[i] = what == PRODUCT ? x[i] * y[i] : fabsf(x[i]);
        for (long at = LANE; at < STRIP; at += LANE)
            sum[i] += what == PRODUCT ? x[at + i] * y[at + i] : fabsf(x[at + i]);
    }
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
    float wide[STRIP], row[STRIP], mask[STRIP];
    int what = power == 1 ? SIZE : PRODUCT;
    for (long begin = 0, l = 0; begin < s->n; begin += leaf, l++) {
        long stop = least(begin + leaf, s->n);
        for (long start = begin; start < stop; start += STRIP) {
            long count = least(STRIP, stop - start);
            const float *one = shared(s, k, start, count, mask);
            base_of(s, start, count, wide);
            for (long m = 0; m < s->models; m++) {
                most = delta(s, m, start, count, wide, row, most);
                if (before) grow(trees + m, what, row, row, count);
                keep(s, k, one, m, start, count, row);
                grow(trees + s->models + m, what, row, row, count);
            }
        }
        for (long t = before ? 0 : s->models; t < 2 * s->models; t++)
            to[t * leaves + l] = felled(trees + t);
    }
    cleared(trees);
    return most;
}

/* Inner products of the deltas over leaves: [pairs][leaves], of (0,0), (0,1) .. (1,1) ..;
 * as above. */
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
