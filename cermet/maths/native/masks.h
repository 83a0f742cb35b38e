/* Masks as bits: packed, unpacked and drawn. */

#pragma once

#include "kept.h"

void cermet_pack(const float *restrict mask, long n, uint8_t *bits) { packed(mask, n, 0, bits); }

void cermet_unpack(const uint8_t *restrict bits, long n, float *restrict mask) {
    unpacked(bits, 0, n, mask);
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
