/* Arithmetic of Python. */
#include <math.h>
#include <string.h>

#include "text/jinja_eval.h"

static const char *const symbols[] = {"+", "-", "*", "/", "//", "%", "** or pow()"};

static sp_status mismatch(spi_jinja *j, spi_jop op, const spi_jval *a, const spi_jval *b) {
    if (a->kind == SPI_J_UNDEFINED) return spi_jundefined(j, a);
    if (b->kind == SPI_J_UNDEFINED) return spi_jundefined(j, b);
    if (op == SPI_OP_ADD && a->kind == SPI_J_STRING)
        return spi_jfail(j, "can only concatenate str (not \"%s\") to str", spi_jtype(b));
    return spi_jfail(j, "unsupported operand type(s) for %s: '%s' and '%s'", symbols[op], spi_jtype(a),
                     spi_jtype(b));
}

static sp_status too_large(spi_jinja *j) {
    return spi_jlacks(j, "an integer of more than 64 bits");
}

static sp_status power(spi_jinja *j, int64_t base, int64_t exponent, spi_jval *out) {
    int64_t result = 1;
    if (exponent < 0) {
        if (base == 0) return spi_jfail(j, "0.0 cannot be raised to a negative power");
        *out = spi_jreal(pow((double)base, (double)exponent));
        return SP_OK;
    }
    if (base == 1 || base == 0 || base == -1) {
        *out = spi_jint(base == 0 ? exponent == 0 : base == 1 || exponent % 2 == 0 ? 1 : -1);
        return SP_OK;
    }
    for (int64_t i = 0; i < exponent; i++)
        if (__builtin_mul_overflow(result, base, &result)) return too_large(j);
    *out = spi_jint(result);
    return SP_OK;
}

static sp_status integers(spi_jinja *j, spi_jop op, int64_t a, int64_t b, spi_jval *out) {
    int64_t n = 0;
    const bool divides = op == SPI_OP_DIV || op == SPI_OP_FLOORDIV || op == SPI_OP_MOD;
    if (divides && b == 0) return spi_jfail(j, "division by zero");
    if (op == SPI_OP_POW) return power(j, a, b, out);
    if (op == SPI_OP_DIV) {
        *out = spi_jreal((double)a / (double)b);
        return SP_OK;
    }
    if (divides && b == -1) { /* the one division that may not fit */
        if (op == SPI_OP_FLOORDIV && __builtin_sub_overflow((int64_t)0, a, &n)) return too_large(j);
        *out = spi_jint(n);
        return SP_OK;
    }
    bool overflow = false;
    if (op == SPI_OP_ADD) overflow = __builtin_add_overflow(a, b, &n);
    else if (op == SPI_OP_SUB) overflow = __builtin_sub_overflow(a, b, &n);
    else if (op == SPI_OP_MUL) overflow = __builtin_mul_overflow(a, b, &n);
    else if (op == SPI_OP_FLOORDIV) n = a / b - (a % b != 0 && (a < 0) != (b < 0));
    else n = a % b + (a % b != 0 && (a < 0) != (b < 0) ? b : 0);
    if (overflow) return too_large(j);
    *out = spi_jint(n);
    return SP_OK;
}

static sp_status reals(spi_jinja *j, spi_jop op, double a, double b, spi_jval *out) {
    double x = 0;
    if (b == 0 && (op == SPI_OP_DIV || op == SPI_OP_FLOORDIV || op == SPI_OP_MOD))
        return spi_jfail(j, "float division by zero");
    if (op == SPI_OP_ADD) x = a + b;
    else if (op == SPI_OP_SUB) x = a - b;
    else if (op == SPI_OP_MUL) x = a * b;
    else if (op == SPI_OP_DIV) x = a / b;
    else if (op == SPI_OP_FLOORDIV) x = floor(a / b);
    else if (op == SPI_OP_POW) {
        if (a == 0 && b < 0) return spi_jfail(j, "0.0 cannot be raised to a negative power");
        x = pow(a, b);
        if (isfinite(a) && isfinite(b) && isinf(x)) return spi_jfail(j, "Numerical result out of range");
        if (isnan(x) && a < 0) return spi_jlacks(j, "a complex number");
    } else {
        x = fmod(a, b);
        if (x != 0 && (x < 0) != (b < 0)) x += b;
        if (x == 0) x = copysign(0, b);
    }
    *out = spi_jreal(x);
    return SP_OK;
}

static sp_status add_strings(spi_jinja *j, const spi_jval *a, const spi_jval *b, spi_jval *out) {
    spi_jval left = *a, right = *b;
    if (a->markup && !b->markup) SPI_TRY(spi_jescape(j, b, &right));
    if (b->markup && !a->markup) SPI_TRY(spi_jescape(j, a, &left));
    spi_buf text = {0};
    spi_buf_append(&text, left.string->text, left.string->length);
    spi_buf_append(&text, right.string->text, right.string->length);
    SPI_TRY(spi_jstring_take(j, &text, out));
    out->markup = a->markup || b->markup;
    return SP_OK;
}

static sp_status add_lists(spi_jinja *j, const spi_jval *a, const spi_jval *b, spi_jval *out) {
    const size_t n = a->list->count, m = b->list->count;
    SPI_TRY(spi_jwork(j, 8 * (n + m)));
    SPI_TRY(spi_jlist_new(j, a->kind, n + m, out));
    if (n) memcpy(out->list->items, a->list->items, n * sizeof *a);
    if (m) memcpy(out->list->items + n, b->list->items, m * sizeof *a);
    out->list->count = n + m;
    return SP_OK;
}

static sp_status repeat(spi_jinja *j, const spi_jval *v, int64_t times, spi_jval *out) {
    if (times < 0) times = 0;
    const size_t size = v->kind == SPI_J_STRING ? v->string->length : v->list->count * sizeof *v;
    if (size && (size_t)times > SPI_JINJA_MEMORY / size) return spi_jlacks(j, "a value of more than 256 MiB");
    SPI_TRY(spi_jwork(j, size * (size_t)times));
    if (v->kind != SPI_J_STRING) {
        SPI_TRY(spi_jlist_new(j, v->kind, v->list->count * (size_t)times, out));
        for (int64_t i = 0; size && i < times; i++) {
            memcpy(out->list->items + out->list->count, v->list->items, size);
            out->list->count += v->list->count;
        }
        return SP_OK;
    }
    spi_buf text = {0};
    for (int64_t i = 0; size && i < times; i++) spi_buf_append(&text, v->string->text, size);
    SPI_TRY(spi_jstring_take(j, &text, out));
    out->markup = v->markup;
    return SP_OK;
}

static bool repeats(const spi_jval *v) {
    return v->kind == SPI_J_STRING || v->kind == SPI_J_LIST || v->kind == SPI_J_TUPLE;
}

sp_status spi_jbinary(spi_jinja *j, spi_jop op, const spi_jval *a, const spi_jval *b, spi_jval *out) {
    int64_t x, y;
    if (spi_jas_int(a, &x) && spi_jas_int(b, &y)) return integers(j, op, x, y, out);
    if (spi_jis_number(a) && spi_jis_number(b)) return reals(j, op, spi_jas_real(a), spi_jas_real(b), out);
    if (op == SPI_OP_ADD && a->kind == SPI_J_STRING && b->kind == SPI_J_STRING)
        return add_strings(j, a, b, out);
    if (op == SPI_OP_ADD && a->kind == b->kind && (a->kind == SPI_J_LIST || a->kind == SPI_J_TUPLE))
        return add_lists(j, a, b, out);
    if (op == SPI_OP_MUL && repeats(a) && spi_jas_int(b, &y)) return repeat(j, a, y, out);
    if (op == SPI_OP_MUL && repeats(b) && spi_jas_int(a, &x)) return repeat(j, b, x, out);
    if (op == SPI_OP_MOD && a->kind == SPI_J_STRING) return spi_jpercent(j, a, b, out);
    return mismatch(j, op, a, b);
}
