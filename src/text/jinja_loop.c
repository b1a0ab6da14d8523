/* {% for %}: items are taken one ahead at most, so that a condition sees what the body before it did. */
#include <string.h>

#include "text/jinja_eval.h"

typedef struct spi_jloop {
    const spi_jnode *node;
    spi_jlist *items; /* all there are, those that the condition leaves out too */
    size_t at;        /* the next of them to look at */
    int64_t index0;
    spi_jval before, current, after; /* SPI_J_MISSING where there is none, or not yet */
    spi_jlist *rest;                 /* once the length was asked for: what is still to come */
    size_t rest_at;
    int64_t length; /* -1: not yet known */
    spi_jval changed;
    spi_jscope *scope; /* around the loop */
} spi_jloop;

/* Whether the loop's condition holds for an item. */
static sp_status passes(spi_jinja *j, const spi_jloop *loop, spi_jval item, bool *out) {
    spi_jscope *scope = j->scope;
    spi_jval test;
    *out = true;
    if (!loop->node->c) return SP_OK;
    SPI_TRY(spi_jscope_push(j, loop->scope));
    SPI_TRY(spi_jassign(j, loop->node->a, item));
    SPI_TRY(spi_jinja_eval(j, loop->node->c, &test));
    *out = spi_jtruth(j, &test);
    j->scope = scope;
    return SP_OK;
}

/* The next item, SPI_J_MISSING behind the last. */
static sp_status take(spi_jinja *j, spi_jloop *loop, spi_jval *out) {
    *out = (spi_jval){0};
    if (loop->rest) {
        if (loop->rest_at < loop->rest->count) *out = loop->rest->items[loop->rest_at++];
        return SP_OK;
    }
    while (loop->at < loop->items->count) {
        bool good;
        const spi_jval item = loop->items->items[loop->at++];
        SPI_TRY(passes(j, loop, item, &good));
        if (!good) continue;
        *out = item;
        return SP_OK;
    }
    return SP_OK;
}

static sp_status peek(spi_jinja *j, spi_jloop *loop) {
    return spi_jgiven(&loop->after) ? SP_OK : take(j, loop, &loop->after);
}

static sp_status know_length(spi_jinja *j, spi_jloop *loop) {
    spi_jval rest, item;
    if (loop->length >= 0) return SP_OK;
    SPI_TRY(spi_jlist_new(j, SPI_J_LIST, 0, &rest));
    while (true) {
        SPI_TRY(take(j, loop, &item));
        if (!spi_jgiven(&item)) break;
        SPI_TRY(spi_jlist_add(j, rest.list, item));
    }
    loop->rest = rest.list;
    loop->length = loop->index0 + 1 + spi_jgiven(&loop->after) + (int64_t)rest.list->count;
    return SP_OK;
}

static sp_status neighbour(spi_jinja *j, const spi_jval *item, const char *why, spi_jval *out) {
    *out = *item;
    return spi_jgiven(item) ? SP_OK : spi_jmake_undefined(j, out, "%s", why);
}

sp_status spi_jloop_member(spi_jinja *j, spi_jloop *loop, const char *name, spi_jval *out) {
    if (!strcmp(name, "index")) *out = spi_jint(loop->index0 + 1);
    else if (!strcmp(name, "index0")) *out = spi_jint(loop->index0);
    else if (!strcmp(name, "first")) *out = spi_jbool(loop->index0 == 0);
    else if (!strcmp(name, "depth")) *out = spi_jint(1);
    else if (!strcmp(name, "depth0")) *out = spi_jint(0);
    else if (!strcmp(name, "last")) {
        SPI_TRY(peek(j, loop));
        *out = spi_jbool(!spi_jgiven(&loop->after));
    } else if (!strcmp(name, "previtem")) {
        return neighbour(j, &loop->before, "there is no previous item", out);
    } else if (!strcmp(name, "nextitem")) {
        SPI_TRY(peek(j, loop));
        return neighbour(j, &loop->after, "there is no next item", out);
    } else if (!strcmp(name, "length") || !strcmp(name, "revindex") || !strcmp(name, "revindex0")) {
        SPI_TRY(know_length(j, loop));
        const int64_t from = !strcmp(name, "length") ? 0 : loop->index0 + !strcmp(name, "revindex0");
        *out = spi_jint(loop->length - from);
    } else if (!strcmp(name, "cycle") || !strcmp(name, "changed")) {
        void *place;
        SPI_TRY(spi_jalloc(j, sizeof(spi_jmethod), &place));
        *out = (spi_jval){.kind = SPI_J_METHOD, .method = place};
        *out->method = (spi_jmethod){{.kind = SPI_J_LOOP, .loop = loop},
                                     *name == 'c' && name[1] == 'y' ? "cycle" : "changed"};
    } else {
        return spi_jmake_undefined(j, out, "'LoopContext object' has no attribute '%s'", name);
    }
    return SP_OK;
}

sp_status spi_jloop_call(spi_jinja *j, spi_jloop *loop, const char *name, const spi_jargs *args,
                         spi_jval *out) {
    if (!strcmp(name, "cycle")) {
        if (!args->count) return spi_jfail(j, "no items for cycling given");
        *out = args->items[(size_t)loop->index0 % args->count];
        return SP_OK;
    }
    spi_jval now;
    SPI_TRY(spi_jlist_new(j, SPI_J_TUPLE, 0, &now));
    for (size_t i = 0; i < args->count; i++) SPI_TRY(spi_jlist_add(j, now.list, args->items[i]));
    *out = spi_jbool(!spi_jgiven(&loop->changed) || !spi_jequal(j, &loop->changed, &now));
    loop->changed = now;
    return SP_OK;
}

/* Moves to the next item; *more is false behind the last. */
static sp_status step(spi_jinja *j, spi_jloop *loop, bool *more) {
    spi_jval next = loop->after;
    if (!spi_jgiven(&next)) SPI_TRY(take(j, loop, &next));
    loop->after = (spi_jval){0};
    *more = spi_jgiven(&next);
    if (!*more) return SP_OK;
    loop->before = loop->current;
    loop->current = next;
    loop->index0++;
    return SP_OK;
}

sp_status spi_jloop_run(spi_jinja *j, const spi_jnode *node, spi_jjump *outer) {
    void *place;
    spi_jval items;
    spi_jjump jump = SPI_J_NO_JUMP;
    bool more = true;
    SPI_TRY(spi_jinja_eval(j, node->b, &items));
    SPI_TRY(spi_jalloc(j, sizeof(spi_jloop), &place));
    spi_jloop *loop = place;
    *loop = (spi_jloop){.node = node, .index0 = -1, .length = -1, .scope = j->scope};
    SPI_TRY(spi_jiterate(j, &items, &loop->items));
    while (jump != SPI_J_BREAK) {
        SPI_TRY(step(j, loop, &more));
        if (!more) break;
        jump = SPI_J_NO_JUMP;
        SPI_TRY(spi_jscope_push(j, loop->scope));
        SPI_TRY(spi_jscope_set(j, SPI_SYM_LOOP, (spi_jval){.kind = SPI_J_LOOP, .loop = loop}));
        SPI_TRY(spi_jassign(j, node->a, loop->current));
        SPI_TRY(spi_jinja_run(j, &node->body, &jump));
        j->scope = loop->scope;
    }
    if (loop->index0 >= 0) return SP_OK;
    SPI_TRY(spi_jscope_push(j, loop->scope));
    SPI_TRY(spi_jinja_run(j, &node->other, outer));
    j->scope = loop->scope;
    return SP_OK;
}
