/* Statements, macros, and a rendering as a whole. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "text/jinja_eval.h"

/* ------------------------------------------------------------------ failures and limits */

sp_status(spi_jfail)(spi_jinja *j, const char *fmt, ...) {
    char text[4096];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return spi_fail(j->ctx, SP_ERR_DATA, "%s: line %d: %s", j->t->name, j->line, text);
}

sp_status(spi_jlacks)(spi_jinja *j, const char *what) {
    return spi_fail(j->ctx, SP_ERR_UNSUPPORTED, "%s: line %d: %s is not supported", j->t->name, j->line, what);
}

sp_status(spi_jmemory)(spi_jinja *j, size_t bytes) {
    return spi_fail_memory(j->ctx, bytes, j->t->name);
}

sp_status spi_jwork(spi_jinja *j, size_t bytes) {
    j->steps += 1 + bytes / 16;
    return j->steps > SPI_JINJA_STEPS ? spi_jlacks(j, "a template that takes so many steps") : SP_OK;
}

sp_status spi_jmake_undefined(spi_jinja *j, spi_jval *out, const char *fmt, ...) {
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    SPI_TRY(spi_jstring(j, text, strlen(text), out));
    out->kind = SPI_J_UNDEFINED;
    return SP_OK;
}

/* ------------------------------------------------------------------ names */

sp_status spi_jscope_push(spi_jinja *j, spi_jscope *parent) {
    void *scope;
    SPI_TRY(spi_jalloc(j, sizeof(spi_jscope), &scope));
    j->scope = scope;
    j->scope->parent = parent;
    return SP_OK;
}

sp_status spi_jscope_set(spi_jinja *j, int symbol, spi_jval value) {
    spi_jscope *s = j->scope;
    for (size_t i = 0; i < s->count; i++)
        if (s->symbols[i] == symbol) {
            s->values[i] = value;
            return SP_OK;
        }
    if (s->count == s->capacity) {
        const size_t capacity = s->capacity ? 2 * s->capacity : 4;
        void *symbols, *values;
        SPI_TRY(spi_jalloc(j, capacity * sizeof(int), &symbols));
        SPI_TRY(spi_jalloc(j, capacity * sizeof value, &values));
        if (s->count) memcpy(symbols, s->symbols, s->count * sizeof(int));
        if (s->count) memcpy(values, s->values, s->count * sizeof value);
        s->symbols = symbols;
        s->values = values;
        s->capacity = capacity;
    }
    s->symbols[s->count] = symbol;
    s->values[s->count++] = value;
    return SP_OK;
}

static sp_status assign_member(spi_jinja *j, const spi_jnode *target, spi_jval value) {
    spi_jval ns, key;
    spi_jnode name = *target;
    name.kind = SPI_N_NAME;
    name.name = j->t->symbols[target->symbol];
    SPI_TRY(spi_jinja_eval(j, &name, &ns));
    if (ns.kind != SPI_J_NAMESPACE) return spi_jfail(j, "cannot assign attribute on non-namespace object");
    if (target->name[0] == '_') return spi_jfail(j, "'%s' cannot be stored on a namespace", target->name);
    SPI_TRY(spi_jstring_at(j, target->name, strlen(target->name), &key));
    return spi_jdict_set(j, ns.dict, key, value);
}

sp_status spi_jassign(spi_jinja *j, const spi_jnode *target, spi_jval value) {
    spi_jlist *parts;
    if (target->kind == SPI_N_NAME) return spi_jscope_set(j, target->symbol, value);
    if (target->kind == SPI_N_NSREF) return assign_member(j, target, value);
    SPI_TRY(spi_jiterate(j, &value, &parts));
    if (parts->count > target->items.count)
        return spi_jfail(j, "too many values to unpack (expected %zu)", target->items.count);
    if (parts->count < target->items.count)
        return spi_jfail(j, "not enough values to unpack (expected %zu, got %zu)", target->items.count,
                         parts->count);
    for (size_t i = 0; i < parts->count; i++) SPI_TRY(spi_jassign(j, target->items.items[i], parts->items[i]));
    return SP_OK;
}

/* ------------------------------------------------------------------ macros */

sp_status spi_jinja_capture(spi_jinja *j, const spi_jnodes *body, spi_jscope *parent, spi_jval *out) {
    spi_jscope *scope = j->scope;
    spi_buf text = {0}, *printed = j->out;
    sp_status status = SP_OK;
    if (parent) status = spi_jscope_push(j, parent);
    j->out = &text;
    if (status == SP_OK) status = spi_jinja_exec(j, body);
    j->out = printed;
    j->scope = scope;
    if (status == SP_OK) return spi_jstring_take(j, &text, out);
    spi_buf_free(&text);
    return status;
}

static size_t find_name(const char *const *names, size_t count, const char *name) {
    size_t i = 0;
    while (i < count && strcmp(names[i], name) != 0) i++;
    return i;
}

/* What a macro takes beyond its parameters: all other arguments, and the block of a call. */
static sp_status bind_rest(spi_jinja *j, const spi_jmacro_node *m, const spi_jargs *args) {
    spi_jval rest, caller = {0};
    SPI_TRY(spi_jdict_new(j, &rest));
    for (size_t i = 0; i < args->named; i++) {
        spi_jval key;
        if (find_name(m->names, m->count, args->names[i]) < m->count) continue;
        if (strcmp(args->names[i], "caller") == 0 && m->takes_caller) {
            caller = args->values[i];
            continue;
        }
        if (!m->takes_kwargs)
            return spi_jfail(j, "macro '%s' takes no keyword argument '%s'", m->name, args->names[i]);
        SPI_TRY(spi_jstring_at(j, args->names[i], strlen(args->names[i]), &key));
        SPI_TRY(spi_jdict_set(j, rest.dict, key, args->values[i]));
    }
    if (m->takes_kwargs) SPI_TRY(spi_jscope_set(j, SPI_SYM_KWARGS, rest));
    if (m->takes_caller) {
        if (!spi_jgiven(&caller)) SPI_TRY(spi_jmake_undefined(j, &caller, "No caller defined"));
        SPI_TRY(spi_jscope_set(j, SPI_SYM_CALLER, caller));
    }
    if (args->count > m->count && !m->takes_varargs)
        return spi_jfail(j, "macro '%s' takes not more than %zu argument(s)", m->name, m->count);
    if (!m->takes_varargs) return SP_OK;
    SPI_TRY(spi_jlist_new(j, SPI_J_TUPLE, 0, &rest));
    for (size_t i = m->count; i < args->count; i++) SPI_TRY(spi_jlist_add(j, rest.list, args->items[i]));
    return spi_jscope_set(j, SPI_SYM_VARARGS, rest);
}

static sp_status bind_parameters(spi_jinja *j, const spi_jmacro_node *m, const spi_jargs *args) {
    const size_t required = m->count - m->defaults.count;
    for (size_t i = 0; i < m->count; i++) {
        spi_jval value;
        const size_t named = find_name(args->names, args->named, m->names[i]);
        if (i < args->count) value = args->items[i];
        else if (named < args->named) value = args->values[named];
        else if (i >= required) SPI_TRY(spi_jinja_eval(j, m->defaults.items[i - required], &value));
        else SPI_TRY(spi_jmake_undefined(j, &value, "parameter '%s' was not provided", m->names[i]));
        if (i < args->count && named < args->named)
            return spi_jfail(j, "macro '%s' takes no keyword argument '%s'", m->name, m->names[i]);
        SPI_TRY(spi_jscope_set(j, m->parameters[i], value));
    }
    return bind_rest(j, m, args);
}

static sp_status call_macro(spi_jinja *j, const spi_jmacro *macro, const spi_jargs *args, spi_jval *out) {
    spi_jscope *scope = j->scope;
    SPI_TRY(spi_jscope_push(j, macro->scope));
    SPI_TRY(bind_parameters(j, macro->node, args));
    SPI_TRY(spi_jinja_capture(j, &macro->node->body, NULL, out));
    j->scope = scope;
    return SP_OK;
}

static sp_status make_macro(spi_jinja *j, const spi_jmacro_node *node, spi_jval *out) {
    void *macro;
    SPI_TRY(spi_jalloc(j, sizeof(spi_jmacro), &macro));
    *out = (spi_jval){.kind = SPI_J_MACRO, .macro = macro};
    *out->macro = (spi_jmacro){node, j->scope};
    return SP_OK;
}

/* {% call f(...) %}: f gets the block as `caller`. */
static sp_status exec_call_block(spi_jinja *j, const spi_jnode *node) {
    static const char name[] = "caller";
    spi_jval caller, value;
    SPI_TRY(make_macro(j, node->macro, &caller));
    spi_jnode constant = {.kind = SPI_N_CONST, .line = node->line, .value = caller};
    spi_jcall_args args = *node->a->args;
    const size_t n = args.keywords.count;
    void *names, *items;
    SPI_TRY(spi_jalloc(j, (n + 1) * sizeof(char *), &names));
    SPI_TRY(spi_jalloc(j, (n + 1) * sizeof(spi_jnode *), &items));
    if (n) memcpy(names, args.names, n * sizeof(char *));
    if (n) memcpy(items, args.keywords.items, n * sizeof(spi_jnode *));
    args.names = names;
    args.keywords = (spi_jnodes){items, n + 1, n + 1};
    args.names[n] = name;
    args.keywords.items[n] = &constant;
    spi_jnode call = *node->a;
    call.args = &args;
    SPI_TRY(spi_jinja_eval(j, &call, &value));
    return spi_jprint(j, j->out, &value);
}

sp_status spi_jinja_call(spi_jinja *j, const spi_jval *callee, const spi_jargs *args, spi_jval *out) {
    switch (callee->kind) {
    case SPI_J_UNDEFINED: return spi_jundefined(j, callee);
    case SPI_J_MACRO: return call_macro(j, callee->macro, args, out);
    case SPI_J_FUNCTION: return spi_jglobal_call(j, callee->function, args, out);
    case SPI_J_METHOD: return spi_jmethod_call(j, callee->method, args, out);
    case SPI_J_JOINER: /* nothing the first time, the separator afterwards */
        if (callee->list->at++) *out = callee->list->items[0];
        else return spi_jstring_at(j, "", 0, out);
        return SP_OK;
    default: return spi_jfail(j, "'%s' object is not callable", spi_jtype(callee));
    }
}

/* ------------------------------------------------------------------ statements */

static sp_status exec_if(spi_jinja *j, const spi_jnode *node, spi_jjump *jump) {
    spi_jval test;
    SPI_TRY(spi_jinja_eval(j, node->a, &test));
    return spi_jinja_run(j, spi_jtruth(j, &test) ? &node->body : &node->other, jump);
}

static sp_status exec_set_block(spi_jinja *j, const spi_jnode *node) {
    spi_jval value;
    SPI_TRY(spi_jinja_capture(j, &node->body, j->scope, &value));
    j->subject = value;
    if (node->b) SPI_TRY(spi_jinja_eval(j, node->b, &value));
    if (node->kind == SPI_N_SET_BLOCK) return spi_jassign(j, node->a, value);
    return spi_jprint(j, j->out, &value);
}

static sp_status exec_with(spi_jinja *j, const spi_jnode *node, spi_jjump *jump) {
    spi_jscope *scope = j->scope;
    spi_jval values;
    SPI_TRY(spi_jlist_new(j, SPI_J_LIST, 0, &values));
    for (size_t i = 1; i < node->items.count; i += 2) { /* values see the names outside */
        spi_jval value;
        SPI_TRY(spi_jinja_eval(j, node->items.items[i], &value));
        SPI_TRY(spi_jlist_add(j, values.list, value));
    }
    SPI_TRY(spi_jscope_push(j, scope));
    for (size_t i = 0; i < values.list->count; i++)
        SPI_TRY(spi_jassign(j, node->items.items[2 * i], values.list->items[i]));
    SPI_TRY(spi_jinja_run(j, &node->body, jump));
    j->scope = scope;
    return SP_OK;
}

static sp_status exec_generation(spi_jinja *j, const spi_jnode *node) {
    spi_jinja_output *main = j->main;
    spi_jval text;
    const size_t start = main->text.length;
    SPI_TRY(spi_jinja_capture(j, &node->body, j->scope, &text));
    SPI_TRY(spi_jprint(j, j->out, &text));
    if (j->out != &main->text) return SP_OK; /* in a text that may end up anywhere */
    if (!spi_grow((void **)&main->spans, &main->span_capacity, main->span_count, sizeof *main->spans))
        return spi_jmemory(j, sizeof *main->spans);
    main->spans[main->span_count++] = (spi_span){start, main->text.length};
    return SP_OK;
}

static sp_status exec_one(spi_jinja *j, const spi_jnode *node, spi_jjump *jump) {
    spi_jval value;
    switch (node->kind) {
    case SPI_N_TEXT: return spi_jprint(j, j->out, &node->value);
    case SPI_N_PRINT: SPI_TRY(spi_jinja_eval(j, node->a, &value)); return spi_jprint(j, j->out, &value);
    case SPI_N_IF: return exec_if(j, node, jump);
    case SPI_N_FOR: return spi_jloop_run(j, node, jump);
    case SPI_N_SET: SPI_TRY(spi_jinja_eval(j, node->b, &value)); return spi_jassign(j, node->a, value);
    case SPI_N_SET_BLOCK:
    case SPI_N_FILTER_BLOCK: return exec_set_block(j, node);
    case SPI_N_MACRO:
        SPI_TRY(make_macro(j, node->macro, &value));
        return spi_jscope_set(j, node->macro->symbol, value);
    case SPI_N_CALL_BLOCK: return exec_call_block(j, node);
    case SPI_N_WITH: return exec_with(j, node, jump);
    case SPI_N_GENERATION: return exec_generation(j, node);
    case SPI_N_BREAK:
    case SPI_N_CONTINUE: *jump = node->kind == SPI_N_BREAK ? SPI_J_BREAK : SPI_J_CONTINUE; return SP_OK;
    default: return spi_fail(j->ctx, SP_ERR_INTERNAL, "%s: line %d: no statement", j->t->name, node->line);
    }
}

sp_status spi_jinja_run(spi_jinja *j, const spi_jnodes *body, spi_jjump *jump) {
    if (++j->depth > SPI_JINJA_DEPTH) return spi_jlacks(j, "a template that calls itself so deeply");
    for (size_t i = 0; i < body->count && *jump == SPI_J_NO_JUMP; i++) {
        j->line = body->items[i]->line;
        SPI_TRY(exec_one(j, body->items[i], jump));
    }
    j->depth--;
    return SP_OK;
}

sp_status spi_jinja_exec(spi_jinja *j, const spi_jnodes *body) {
    spi_jjump jump = SPI_J_NO_JUMP;
    return spi_jinja_run(j, body, &jump);
}

/* ------------------------------------------------------------------ the whole */

static sp_status fill_globals(spi_jinja *j, const json_t *const *variables, size_t count) {
    void *globals;
    SPI_TRY(spi_jalloc(j, j->t->symbol_count * sizeof(spi_jval), &globals));
    j->globals = globals;
    for (size_t i = 0; i < j->t->symbol_count; i++) {
        const char *name = j->t->symbols[i];
        const json_t *found = NULL;
        for (size_t v = 0; v < count; v++)
            if (json_object_get(variables[v], name)) found = json_object_get(variables[v], name);
        const int function = spi_jglobal(name);
        if (found) SPI_TRY(spi_jval_from_json(j, found, &j->globals[i]));
        else if (function >= 0) j->globals[i] = (spi_jval){.kind = SPI_J_FUNCTION, .function = function};
    }
    return spi_jscope_push(j, NULL);
}

sp_status spi_jinja_render(const spi_jinja_template *t, const json_t *const *variables, size_t count,
                           int64_t now, spi_jinja_output *out) {
    spi_jinja j = {.ctx = t->ctx,
                   .t = t,
                   .line = 1,
                   .now = now < 0 ? (int64_t)time(NULL) : now,
                   .out = &out->text,
                   .main = out};
    sp_status status = fill_globals(&j, variables, count);
    if (status == SP_OK) status = spi_jinja_exec(&j, &t->body);
    if (status == SP_OK) spi_buf_append(&out->text, "", 0);
    if (status == SP_OK && out->text.failed) status = spi_jmemory(&j, out->text.length);
    spi_arena_free(&j.arena);
    return status;
}

void spi_jinja_output_free(spi_jinja_output *out) {
    spi_buf_free(&out->text);
    free(out->spans);
    *out = (spi_jinja_output){0};
}
