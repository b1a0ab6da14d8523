#include <math.h>

#include "model/arch.h"

#define TWO_PI 6.283185307179586

/* transformers.modeling_rope_utils, one function a kind. Frequencies are rounded to f32 where Transformers
 * holds them in f32, because the angles of far positions magnify that rounding. */

static float base_frequency(double theta, int i, int dim) {
    return (float)(1.0 / pow(theta, (double)(2 * i) / dim));
}

static float llama3_frequency(const spi_rope_spec *r, float freq) {
    const double original = (double)r->original_max_positions;
    const double wavelength = TWO_PI / freq;
    if (wavelength > original / r->low_freq_factor) return (float)(freq / r->factor);
    if (wavelength < original / r->high_freq_factor) return freq;
    const double smooth =
        (original / wavelength - r->low_freq_factor) / (r->high_freq_factor - r->low_freq_factor);
    return (float)((1 - smooth) * freq / r->factor + smooth * freq);
}

/* The dimension whose wavelength turns `rotations` times over the original context. */
static double yarn_correction_dim(const spi_rope_spec *r, double rotations, int dim) {
    return dim * log((double)r->original_max_positions / (rotations * TWO_PI)) / (2 * log(r->theta));
}

static float yarn_frequency(const spi_rope_spec *r, int i, int dim) {
    double low = yarn_correction_dim(r, r->beta_fast, dim), high = yarn_correction_dim(r, r->beta_slow, dim);
    if (r->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, dim - 1);
    if (low == high) high += 0.001;
    const double ramp = fmin(fmax((i - low) / (high - low), 0), 1);
    const double freq = base_frequency(r->theta, i, dim);
    return (float)(freq / r->factor * ramp + freq * (1 - ramp));
}

static double yarn_mscale(double factor, double mscale) {
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static double attention_factor(const spi_rope_spec *r) {
    const bool longrope = r->kind == SPI_ROPE_LONGROPE;
    if (r->kind != SPI_ROPE_YARN && !longrope) return 1;
    if (r->attention_factor != 0) return r->attention_factor;
    if (longrope) return r->factor <= 1 ? 1 : sqrt(1 + log(r->factor) / log((double)r->original_max_positions));
    if (r->mscale != 0 && r->mscale_all_dim != 0)
        return yarn_mscale(r->factor, r->mscale) / yarn_mscale(r->factor, r->mscale_all_dim);
    return yarn_mscale(r->factor, 1);
}

/* The base of dynamic NTK scaling grows with the sequence beyond the trained length. */
static double dynamic_theta(const spi_arch *arch, const spi_rope_spec *r, int64_t length, double dim) {
    const double max = (double)arch->max_positions;
    const double n = length > arch->max_positions ? (double)length : max;
    const double grown = r->factor * n / max - (r->factor - 1);
    return r->theta * pow(grown, dim / (dim - 2));
}

static float longrope_frequency(const spi_rope_spec *r, int64_t length, int i, int dim) {
    const float factor = length > r->original_max_positions ? r->long_factor[i] : r->short_factor[i];
    return 1.0f / (factor * (float)pow(r->theta, (double)(2 * i) / dim));
}

static float frequency(const spi_arch *arch, const spi_rope_spec *r, int64_t length, int i, int dim) {
    switch (r->kind) {
    case SPI_ROPE_LINEAR: return (float)(base_frequency(r->theta, i, dim) / r->factor);
    case SPI_ROPE_DYNAMIC: return base_frequency(dynamic_theta(arch, r, length, dim), i, dim);
    case SPI_ROPE_NTK_ALPHA: return base_frequency(r->theta * pow(r->alpha, dim / (dim - 2.0)), i, dim);
    case SPI_ROPE_YARN: return yarn_frequency(r, i, dim);
    case SPI_ROPE_LLAMA3: return llama3_frequency(r, base_frequency(r->theta, i, dim));
    case SPI_ROPE_LONGROPE: return longrope_frequency(r, length, i, dim);
    case SPI_ROPE_DEFAULT: break;
    }
    return base_frequency(r->theta, i, dim);
}

/* ------------------------------------------------------------------ tables */

static int rotated(const spi_arch *arch, const spi_rope_spec *r) {
    return (int)(arch->head_dim * r->partial);
}

int32_t spi_rotary_dim(const spi_arch *arch, const spi_rope_spec *r) {
    return (rotated(arch, r) + 1) / 2 * 2;
}

bool spi_rope_same(const spi_arch *arch, const spi_rope_spec *r, int64_t length, int64_t other) {
    if (r->kind == SPI_ROPE_LONGROPE)
        return (length > r->original_max_positions) == (other > r->original_max_positions);
    /* Up to the trained length the dynamic base does not move. */
    return r->kind != SPI_ROPE_DYNAMIC || length == other ||
           (length <= arch->max_positions && other <= arch->max_positions);
}

bool spi_arch_rope_same(const spi_arch *arch, int64_t length, int64_t other) {
    return spi_rope_same(arch, &arch->rope, length, other) &&
           (!arch->two_ropes || spi_rope_same(arch, &arch->sliding_rope, length, other));
}

static bool moves(const spi_rope_spec *r) {
    return r->kind == SPI_ROPE_DYNAMIC || r->kind == SPI_ROPE_LONGROPE;
}

bool spi_arch_rope_moves(const spi_arch *arch) {
    return moves(&arch->rope) || (arch->two_ropes && moves(&arch->sliding_rope));
}

void spi_rope_tables(const spi_arch *arch, const spi_rope_spec *r, int64_t length, int64_t count,
                     float *cos_table, float *sin_table) {
    const int half = spi_rotary_dim(arch, r) / 2;
    const double scale = attention_factor(r);
    for (int i = 0; i < half; i++) {
        const float freq = frequency(arch, r, length, i, rotated(arch, r));
        for (int64_t p = 0; p < count; p++) {
            const double angle = (float)p * freq; /* rounded to f32, as there */
            cos_table[p * half + i] = (float)(cos(angle) * scale);
            sin_table[p * half + i] = (float)(sin(angle) * scale);
        }
    }
}
