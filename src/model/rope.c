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
    if (r->kind != SPI_ROPE_YARN) return 1;
    if (r->attention_factor != 0) return r->attention_factor;
    if (r->mscale != 0 && r->mscale_all_dim != 0)
        return yarn_mscale(r->factor, r->mscale) / yarn_mscale(r->factor, r->mscale_all_dim);
    return yarn_mscale(r->factor, 1);
}

/* dynamic NTK: the base grows with the sequence beyond the trained length. */
static double dynamic_theta(const spi_arch *arch, int64_t length) {
    const double max = (double)arch->max_positions;
    const double n = length > arch->max_positions ? (double)length : max;
    const double grown = arch->rope.factor * n / max - (arch->rope.factor - 1);
    const double dim = arch->head_dim;
    return arch->rope.theta * pow(grown, dim / (dim - 2));
}

static float frequency(const spi_arch *arch, int64_t length, int i) {
    const spi_rope_spec *r = &arch->rope;
    const int dim = arch->head_dim;
    switch (r->kind) {
    case SPI_ROPE_LINEAR: return (float)(base_frequency(r->theta, i, dim) / r->factor);
    case SPI_ROPE_DYNAMIC: return base_frequency(dynamic_theta(arch, length), i, dim);
    case SPI_ROPE_YARN: return yarn_frequency(r, i, dim);
    case SPI_ROPE_LLAMA3: return llama3_frequency(r, base_frequency(r->theta, i, dim));
    case SPI_ROPE_DEFAULT: break;
    }
    return base_frequency(r->theta, i, dim);
}

void spi_rope_tables(const spi_arch *arch, int64_t length, int64_t count, float *cos_table, float *sin_table) {
    const int half = arch->head_dim / 2;
    const double scale = attention_factor(&arch->rope);
    for (int i = 0; i < half; i++) {
        const float freq = frequency(arch, length, i);
        for (int64_t p = 0; p < count; p++) {
            const float angle = (float)p * freq;
            cos_table[p * half + i] = (float)(cos(angle) * scale);
            sin_table[p * half + i] = (float)(sin(angle) * scale);
        }
    }
}
