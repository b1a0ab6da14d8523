/* Expressions. */
#include "text/jinja_eval.h"

#include <math.h>
#include <string.h>

#include "text/utf8.h"

/* ------------------------------------------------------------------ names */

sp_status(spi_jundefined)(spi_jinja *j, const spi_jval *v) {
    return spi_jfail(j, "%s", v->string->text);
}

static sp_status eval_name(spi_jinja *j, const spi_jnode *node, spi_jval *out) {
    for (const spi_jscope *s = j->scope; s; s = s->parent)
        for (size_t i = s->count; i-- > 0;)
            if (s->symbols[i] == node->symbol) {
                *out = s->values[i];
                return SP_OK;
            }
    *out = j->globals[node->symbol];
    if (spi_jgiven(out)) return SP_OK;
    return spi_jmake_undefined(j, out, "'%s' is undefined", node->name);
}

/* What a message says of an object that lacks something. */
static const char *object_name(const spi_jval *v, char name[48]) {
    if (v->kind == SPI_J_NONE) return "None";
    snprintf(name, 48, "%s object", spi_jtype(v));
    return name;
}

sp_status spi_jinja_attribute(spi_jinja *j, const spi_jval *v, const char *name, spi_jval *out) {
    char object[48];
    if (v->kind == SPI_J_UNDEFINED) return spi_jundefined(j, v);
    if (v->kind == SPI_J_LOOP) return spi_jloop_member(j, v->loop, name, out);
    const char *method = spi_jmethod_name(v, name);
    if (method) {
        void *place;
        SPI_TRY(spi_jalloc(j, sizeof(spi_jmethod), &place));
        *out = (spi_jval){.kind = SPI_J_METHOD, .method = place};
        *out->method = (spi_jmethod){*v, method};
        return SP_OK;
    }
    if (v->kind == SPI_J_DICT || v->kind == SPI_J_NAMESPACE) {
        const spi_jval *found = spi_jdict_find(v->dict, name);
        SPI_TRY(spi_jwork(j, 4 * v->dict->count));
        if (found) {
            *out = *found;
            return SP_OK;
        }
    }
    return spi_jmake_undefined(j, out, "'%s' has no attribute '%s'", object_name(v, object), name);
}

/* Item n of a sequence, negative from its end; false where there is none. */
static sp_status index_sequence(spi_jinja *j, const spi_jval *v, int64_t n, spi_jval *out, bool *found) {
    size_t length, size;
    SPI_TRY(spi_jlength(j, v, &length));
    if (n < 0) n += (int64_t)length;
    *found = n >= 0 && (size_t)n < length;
    if (!*found) return SP_OK;
    if (v->kind != SPI_J_STRING) {
        *out = v->list->items[n];
        return SP_OK;
    }
    const size_t at = spi_joffset(v->string, (size_t)n);
    SPI_TRY(spi_jwork(j, v->string->chars == v->string->length ? 1 : at));
    spi_utf8_get(v->string->text + at, &size);
    SPI_TRY(spi_jstring(j, v->string->text + at, size, out));
    out->markup = v->markup;
    return SP_OK;
}

sp_status spi_jinja_item(spi_jinja *j, const spi_jval *v, const spi_jval *key, spi_jval *out) {
    bool found = false;
    int64_t n;
    char object[48];
    if (v->kind == SPI_J_UNDEFINED) return spi_jundefined(j, v);
    const bool sequence =
        v->kind == SPI_J_STRING || v->kind == SPI_J_LIST || v->kind == SPI_J_TUPLE || v->kind == SPI_J_RANGE;
    if (sequence && spi_jas_int(key, &n)) {
        SPI_TRY(index_sequence(j, v, n, out, &found));
    } else if (v->kind == SPI_J_DICT) {
        SPI_TRY(spi_jwork(j, 4 * v->dict->count));
        const spi_jval *value = spi_jdict_get(j, v->dict, key);
        found = value != NULL;
        if (value) *out = *value;
    }
    if (found) return SP_OK;
    if (key->kind == SPI_J_STRING) return spi_jinja_attribute(j, v, key->string->text, out);
    spi_buf text = {0};
    SPI_TRY(spi_jrepr(j, &text, key));
    const sp_status status =
        spi_jmake_undefined(j, out, "%s has no element %s", object_name(v, object), text.data ? text.data : "");
    spi_buf_free(&text);
    return status;
}

/* ------------------------------------------------------------------ slices */

/* slice.indices(): where to begin, how many, in which steps. */
static void slice_bounds(const int64_t part[3], const bool given[3], int64_t length, int64_t *start,
                         int64_t *count) {
    const int64_t step = given[2] ? part[2] : 1;
    const int64_t low = step < 0 ? -1 : 0, high = step < 0 ? length - 1 : length;
    int64_t bound[2] = {step < 0 ? high : low, step < 0 ? low : high};
    for (int i = 0; i < 2; i++) {
        if (!given[i]) continue;
        int64_t n = part[i];
        if (n < 0) n = n < -length ? low : n + length;
        bound[i] = n < low ? low : n > high ? high : n;
    }
    *start = bound[0];
    *count = 0;
    if (step > 0 && bound[1] > bound[0]) *count = (bound[1] - bound[0] - 1) / step + 1;
    if (step < 0 && bound[1] < bound[0]) *count = (bound[0] - bound[1] - 1) / -step + 1;
}

static sp_status slice_string(spi_jinja *j, const spi_jval *v, int64_t start, int64_t step, int64_t count,
                              spi_jval *out) {
    spi_buf text = {0};
    size_t size;
    if (step == 1) {
        const size_t from = spi_joffset(v->string, (size_t)start),
                     to = spi_joffset(v->string, (size_t)(start + count));
        spi_buf_append(&text, v->string->text + from, to - from);
    }
    size_t at = step == 1 || !count ? 0 : spi_joffset(v->string, (size_t)start);
    for (int64_t i = 0; step != 1 && i < count; i++) {
        spi_utf8_get(v->string->text + at, &size);
        spi_buf_append(&text, v->string->text + at, size);
        for (int64_t s = 0; s < step && i + 1 < count; s++) {
            spi_utf8_get(v->string->text + at, &size);
            at += size;
        }
        for (int64_t s = 0; s > step && i + 1 < count; s--) at = spi_utf8_last(v->string->text, at);
    }
    SPI_TRY(spi_jstring_take(j, &text, out));
    out->markup = v->markup;
    return SP_OK;
}

sp_status spi_jslice(spi_jinja *j, const spi_jval *v, const spi_jval part[3], spi_jval *out) {
    int64_t n[3] = {0}, start, count;
    bool given[3];
    size_t length;
    if (v->kind == SPI_J_UNDEFINED) return spi_jundefined(j, v);
    if (v->kind != SPI_J_STRING && v->kind != SPI_J_LIST && v->kind != SPI_J_TUPLE && v->kind != SPI_J_RANGE)
        return spi_jfail(j, "'%s' object cannot be sliced", spi_jtype(v));
    for (int i = 0; i < 3; i++) {
        given[i] = !spi_jnone(&part[i]);
        if (given[i] && !spi_jas_int(&part[i], &n[i]))
            return spi_jfail(j, "slice indices must be integers or None or have an __index__ method");
    }
    if (given[2] && n[2] == 0) return spi_jfail(j, "slice step cannot be zero");
    SPI_TRY(spi_jlength(j, v, &length));
    slice_bounds(n, given, (int64_t)length, &start, &count);
    const int64_t step = given[2] ? n[2] : 1;
    SPI_TRY(spi_jwork(j, v->kind == SPI_J_STRING ? v->string->length : 8 * (size_t)count));
    if (v->kind == SPI_J_STRING) return slice_string(j, v, start, step, count, out);
    SPI_TRY(spi_jlist_new(j, v->kind, (size_t)count, out));
    for (int64_t i = 0; i < count; i++) out->list->items[i] = v->list->items[start + i * step];
    out->list->count = (size_t)count;
    return SP_OK;
}

static sp_status eval_item(spi_jinja *j, const spi_jnode *node, spi_jval *out) {
    spi_jval value, key, part[3] = {SPI_J_NULL, SPI_J_NULL, SPI_J_NULL};
    SPI_TRY(spi_jinja_eval(j, node->a, &value));
    if (node->b->kind != SPI_N_SLICE) {
        SPI_TRY(spi_jinja_eval(j, node->b, &key));
        j->line = node->line;
        return spi_jinja_item(j, &value, &key, out);
    }
    const spi_jnode *parts[3] = {node->b->a, node->b->b, node->b->c};
    for (int i = 0; i < 3; i++)
        if (parts[i]) SPI_TRY(spi_jinja_eval(j, parts[i], &part[i]));
    return spi_jslice(j, &value, part, out);
}

/* ------------------------------------------------------------------ operators of several operands */

static sp_status eval_items(spi_jinja *j, const spi_jnode *node, spi_jkind kind, spi_jval *out) {
    SPI_TRY(spi_jlist_new(j, kind, node->items.count, out));
    for (size_t i = 0; i < node->items.count; i++) {
        SPI_TRY(spi_jinja_eval(j, node->items.items[i], &out->list->items[i]));
        out->list->count++;
    }
    return SP_OK;
}

static sp_status eval_dict(spi_jinja *j, const spi_jnode *node, spi_jval *out) {
    SPI_TRY(spi_jdict_new(j, out));
    for (size_t i = 0; i < node->items.count; i += 2) {
        spi_jval key, value;
        SPI_TRY(spi_jinja_eval(j, node->items.items[i], &key));
        SPI_TRY(spi_jinja_eval(j, node->items.items[i + 1], &value));
        SPI_TRY(spi_jdict_set(j, out->dict, key, value));
    }
    return SP_OK;
}

static sp_status eval_concat(spi_jinja *j, const spi_jnode *node, spi_jval *out) {
    spi_buf text = {0};
    sp_status status = SP_OK;
    for (size_t i = 0; i < node->items.count && status == SP_OK; i++) {
        spi_jval part;
        status = spi_jinja_eval(j, node->items.items[i], &part);
        if (status == SP_OK) status = spi_jprint(j, &text, &part);
    }
    if (status == SP_OK) return spi_jstring_take(j, &text, out);
    spi_buf_free(&text);
    return status;
}

static sp_status compare_once(spi_jinja *j, spi_jop op, const spi_jval *a, const spi_jval *b, bool *out) {
    int order;
    switch (op) {
    case SPI_OP_EQ: *out = spi_jequal(j, a, b); return spi_jwork(j, 1);
    case SPI_OP_NE: *out = !spi_jequal(j, a, b); return spi_jwork(j, 1);
    case SPI_OP_IN: return spi_jcontains(j, b, a, out);
    case SPI_OP_NOT_IN:
        SPI_TRY(spi_jcontains(j, b, a, out));
        *out = !*out;
        return SP_OK;
    default: break;
    }
    SPI_TRY(spi_jcompare(j, a, b, &order));
    const bool nan = (a->kind == SPI_J_FLOAT && isnan(a->real)) || (b->kind == SPI_J_FLOAT && isnan(b->real));
    if (nan) *out = false;
    else if (op == SPI_OP_LT) *out = order < 0;
    else if (op == SPI_OP_LE) *out = order <= 0;
    else if (op == SPI_OP_GT) *out = order > 0;
    else *out = order >= 0;
    return SP_OK;
}

/* a < b < c is a < b and b < c. */
static sp_status eval_compare(spi_jinja *j, const spi_jnode *node, spi_jval *out) {
    spi_jval left, right;
    bool holds = true;
    SPI_TRY(spi_jinja_eval(j, node->a, &left));
    for (size_t i = 0; i < node->items.count && holds; i++) {
        SPI_TRY(spi_jinja_eval(j, node->items.items[i]->a, &right));
        j->line = node->line;
        SPI_TRY(compare_once(j, node->items.items[i]->op, &left, &right, &holds));
        left = right;
    }
    *out = spi_jbool(holds);
    return SP_OK;
}

static sp_status eval_sign(spi_jinja *j, const spi_jnode *node, spi_jval *out) {
    spi_jval v;
    int64_t n;
    SPI_TRY(spi_jinja_eval(j, node->a, &v));
    if (v.kind == SPI_J_UNDEFINED) return spi_jundefined(j, &v);
    if (!spi_jis_number(&v))
        return spi_jfail(j, "bad operand type for unary %c: '%s'", node->kind == SPI_N_NEG ? '-' : '+',
                         spi_jtype(&v));
    if (!spi_jas_int(&v, &n)) *out = spi_jreal(node->kind == SPI_N_NEG ? -v.real : v.real);
    else if (node->kind == SPI_N_POS) *out = spi_jint(n);
    else if (n == INT64_MIN) return spi_jlacks(j, "an integer of more than 64 bits");
    else *out = spi_jint(-n);
    return SP_OK;
}

static sp_status eval_condition(spi_jinja *j, const spi_jnode *node, spi_jval *out) {
    spi_jval test;
    SPI_TRY(spi_jinja_eval(j, node->a, &test));
    if (spi_jtruth(j, &test)) return spi_jinja_eval(j, node->b, out);
    if (node->c) return spi_jinja_eval(j, node->c, out);
    return spi_jmake_undefined(
        j, out, "the inline if-expression on line %d evaluated to false and no else section was defined.",
        node->line);
}

/* Python's `and` and `or`: an operand, not a boolean. */
static sp_status eval_logic(spi_jinja *j, const spi_jnode *node, spi_jval *out) {
    SPI_TRY(spi_jinja_eval(j, node->a, out));
    if (spi_jtruth(j, out) == (node->kind == SPI_N_OR)) return SP_OK;
    return spi_jinja_eval(j, node->b, out);
}

/* ------------------------------------------------------------------ calls */

/* name=value, and the members of what stands behind **. */
static sp_status eval_named(spi_jinja *j, const spi_jcall_args *from, spi_jargs *out) {
    const size_t own = from->keywords.count;
    spi_jval stars = {0};
    void *names, *values;
    if (from->stars) {
        SPI_TRY(spi_jinja_eval(j, from->stars, &stars));
        if (stars.kind != SPI_J_DICT) return spi_jfail(j, "argument after ** must be a mapping");
    }
    const size_t count = own + (from->stars ? stars.dict->count : 0);
    if (!count) return SP_OK;
    SPI_TRY(spi_jalloc(j, count * sizeof(char *), &names));
    SPI_TRY(spi_jalloc(j, count * sizeof(spi_jval), &values));
    const char **name = names;
    spi_jval *value = values;
    for (size_t i = 0; i < count; i++) {
        const spi_jpair *pair = i < own ? NULL : &stars.dict->pairs[i - own];
        if (pair && pair->key.kind != SPI_J_STRING) return spi_jfail(j, "keywords must be strings");
        name[i] = pair ? pair->key.string->text : from->names[i];
        if (pair) value[i] = pair->value;
        else SPI_TRY(spi_jinja_eval(j, from->keywords.items[i], &value[i]));
    }
    out->names = name;
    out->values = value;
    out->named = count;
    return SP_OK;
}

/* Evaluates arguments; those behind * and ** join the others. */
static sp_status eval_args(spi_jinja *j, const spi_jcall_args *from, spi_jargs *out) {
    spi_jval positional, value;
    spi_jlist *rest;
    *out = (spi_jargs){0};
    if (!from) return SP_OK;
    SPI_TRY(spi_jlist_new(j, SPI_J_LIST, from->positional.count, &positional));
    for (size_t i = 0; i < from->positional.count; i++) {
        SPI_TRY(spi_jinja_eval(j, from->positional.items[i], &value));
        SPI_TRY(spi_jlist_add(j, positional.list, value));
    }
    if (from->star) {
        SPI_TRY(spi_jinja_eval(j, from->star, &value));
        SPI_TRY(spi_jiterate(j, &value, &rest));
        for (size_t i = 0; i < rest->count; i++) SPI_TRY(spi_jlist_add(j, positional.list, rest->items[i]));
    }
    out->items = positional.list->items;
    out->count = positional.list->count;
    return eval_named(j, from, out);
}

static sp_status eval_call(spi_jinja *j, const spi_jnode *node, spi_jval *out) {
    spi_jval callee;
    spi_jargs args;
    SPI_TRY(spi_jinja_eval(j, node->a, &callee));
    SPI_TRY(eval_args(j, node->args, &args));
    j->line = node->line;
    return spi_jinja_call(j, &callee, &args, out);
}

/* A filter or test. */
static sp_status eval_filter(spi_jinja *j, const spi_jnode *node, spi_jval *out) {
    spi_jval subject = j->subject;
    spi_jargs args;
    if (node->a) SPI_TRY(spi_jinja_eval(j, node->a, &subject));
    SPI_TRY(eval_args(j, node->args, &args));
    j->line = node->line;
    if (!node->call) {
        spi_jfail(j, "no %s is named '%s'", node->kind == SPI_N_FILTER ? "filter" : "test", node->name);
        return SP_ERR_UNSUPPORTED;
    }
    if (node->kind == SPI_N_FILTER) return ((const spi_jfilter *)node->call)->call(j, &subject, &args, out);
    bool holds;
    SPI_TRY(((const spi_jtest *)node->call)->call(j, &subject, &args, &holds));
    *out = spi_jbool(holds);
    return SP_OK;
}

/* ------------------------------------------------------------------ all of them */

static sp_status eval(spi_jinja *j, const spi_jnode *node, spi_jval *out) {
    spi_jval a, b;
    switch (node->kind) {
    case SPI_N_CONST: *out = node->value; return SP_OK;
    case SPI_N_NAME: return eval_name(j, node, out);
    case SPI_N_TUPLE: return eval_items(j, node, SPI_J_TUPLE, out);
    case SPI_N_LIST: return eval_items(j, node, SPI_J_LIST, out);
    case SPI_N_DICT: return eval_dict(j, node, out);
    case SPI_N_COND: return eval_condition(j, node, out);
    case SPI_N_OR:
    case SPI_N_AND: return eval_logic(j, node, out);
    case SPI_N_NOT:
        SPI_TRY(spi_jinja_eval(j, node->a, &a));
        *out = spi_jbool(!spi_jtruth(j, &a));
        return SP_OK;
    case SPI_N_COMPARE: return eval_compare(j, node, out);
    case SPI_N_BINARY:
        SPI_TRY(spi_jinja_eval(j, node->a, &a));
        SPI_TRY(spi_jinja_eval(j, node->b, &b));
        j->line = node->line;
        return spi_jbinary(j, node->op, &a, &b, out);
    case SPI_N_CONCAT: return eval_concat(j, node, out);
    case SPI_N_NEG:
    case SPI_N_POS: return eval_sign(j, node, out);
    case SPI_N_ATTR:
        SPI_TRY(spi_jinja_eval(j, node->a, &a));
        j->line = node->line;
        return spi_jinja_attribute(j, &a, node->name, out);
    case SPI_N_ITEM: return eval_item(j, node, out);
    case SPI_N_SLICE: return spi_jlacks(j, "a slice among several subscripts");
    case SPI_N_CALL: return eval_call(j, node, out);
    case SPI_N_FILTER:
    case SPI_N_TEST: return eval_filter(j, node, out);
    default: return spi_fail(j->ctx, SP_ERR_INTERNAL, "%s: line %d: no expression", j->t->name, node->line);
    }
}

sp_status spi_jinja_eval(spi_jinja *j, const spi_jnode *node, spi_jval *out) {
    j->line = node->line;
    SPI_TRY(spi_jwork(j, 16));
    if (++j->depth > SPI_JINJA_DEPTH) return spi_jlacks(j, "a template that calls itself so deeply");
    const sp_status status = eval(j, node, out);
    j->depth--;
    return status;
}
