/* Statements of Jinja, and the template as a whole. */
#include "text/jinja_parser.h"

#include <stdlib.h>
#include <string.h>

static sp_status parse_body(spi_jparser *p, const char *const *ends, spi_jnodes *out);

/* ------------------------------------------------------------------ shared with expressions */

sp_status(spi_jparse_expected)(spi_jparser *p, const char *what) {
    const spi_jtoken *t = p->token;
    const int length = (int)(t->length < 60 ? t->length : 60);
    if (t->kind == SPI_T_END)
        return spi_fail(p->ctx, SP_ERR_FORMAT, "%s: line %d: expected %s, found the end of the template",
                        p->t->name, t->line, what);
    return spi_fail(p->ctx, SP_ERR_FORMAT, "%s: line %d: expected %s, found %s'%.*s'", p->t->name, t->line,
                    what, t->kind == SPI_T_STRING ? "the string " : "", length, t->text);
}

bool spi_jparse_is(const spi_jparser *p, const char *text) {
    return (p->token->kind == SPI_T_OP || p->token->kind == SPI_T_NAME) && strcmp(p->token->text, text) == 0;
}

bool spi_jparse_skip(spi_jparser *p, const char *text) {
    const bool found = spi_jparse_is(p, text);
    p->token += found;
    return found;
}

sp_status spi_jparse_expect(spi_jparser *p, const char *text) {
    char what[24];
    if (spi_jparse_skip(p, text)) return SP_OK;
    snprintf(what, sizeof what, "'%s'", text);
    return spi_jparse_expected(p, what);
}

sp_status spi_jparse_node(spi_jparser *p, spi_jnode_kind kind, spi_jnode **out) {
    *out = spi_arena_alloc(&p->t->arena, sizeof **out);
    if (!*out) return spi_fail_memory(p->ctx, sizeof **out, p->t->name);
    (*out)->kind = kind;
    (*out)->line = p->token->line;
    (*out)->depth = 1;
    return SP_OK;
}

/* Arrays lie in the arena too: one that grows leaves its old self behind. */
sp_status spi_jparse_grow(spi_jparser *p, void **items, size_t *capacity, size_t count, size_t size) {
    if (count < *capacity) return SP_OK;
    const size_t wanted = *capacity ? 2 * *capacity : 4;
    void *grown = spi_arena_alloc(&p->t->arena, wanted * size);
    if (!grown) return spi_fail_memory(p->ctx, wanted * size, p->t->name);
    if (count) memcpy(grown, *items, count * size);
    *items = grown;
    *capacity = wanted;
    return SP_OK;
}

sp_status spi_jparse_add(spi_jparser *p, spi_jnodes *list, spi_jnode *node) {
    SPI_TRY(spi_jparse_grow(p, (void **)&list->items, &list->capacity, list->count, sizeof(spi_jnode *)));
    list->items[list->count++] = node;
    return SP_OK;
}

sp_status spi_jparse_symbol(spi_jparser *p, const char *name, int *out) {
    spi_jinja_template *t = p->t;
    for (size_t i = 0; i < t->symbol_count; i++) {
        if (strcmp(t->symbols[i], name) != 0) continue;
        *out = (int)i;
        return SP_OK;
    }
    if (!spi_grow((void **)&t->symbols, &t->symbol_capacity, t->symbol_count, sizeof *t->symbols))
        return spi_fail_memory(p->ctx, t->symbol_count * sizeof *t->symbols, t->name);
    *out = (int)t->symbol_count;
    t->symbols[t->symbol_count++] = name;
    return SP_OK;
}

sp_status spi_jparse_over(spi_jparser *p, spi_jnode *node, const spi_jnode *child) {
    if (child->depth >= node->depth) node->depth = child->depth + 1;
    return node->depth > SPI_JINJA_TREE_DEPTH ? spi_jparse_expected(p, "a simpler expression") : SP_OK;
}

/* ------------------------------------------------------------------ statements */

static sp_status expect_end(spi_jparser *p) {
    if (p->token->kind != SPI_T_BLOCK_END) return spi_jparse_expected(p, "'%}'");
    p->token++;
    return SP_OK;
}

/* The end of a tag and what follows, up to a tag that begins with one of `ends`. */
static sp_status parse_inner(spi_jparser *p, const char *const *ends, spi_jnodes *out) {
    spi_jparse_skip(p, ":");
    SPI_TRY(expect_end(p));
    return parse_body(p, ends, out);
}

/* Likewise up to a tag of one word, which is taken but for its '%}'. */
static sp_status parse_block(spi_jparser *p, const char *end, spi_jnodes *out) {
    const char *const ends[] = {end, NULL};
    SPI_TRY(parse_inner(p, ends, out));
    p->token++;
    return SP_OK;
}

/* Behind "if" or "elif". */
static sp_status parse_if(spi_jparser *p, spi_jnode *node) {
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    SPI_TRY(spi_jparse_tuple(p, false, false, &node->a));
    SPI_TRY(spi_jparse_over(p, node, node->a));
    p->conditional++;
    while (true) {
        SPI_TRY(parse_inner(p, ends, &node->body));
        if (!spi_jparse_is(p, "elif")) break;
        spi_jnode *next;
        SPI_TRY(spi_jparse_node(p, SPI_N_IF, &next));
        p->token++;
        SPI_TRY(spi_jparse_tuple(p, false, false, &next->a));
        SPI_TRY(spi_jparse_add(p, &node->other, next));
        node = next;
    }
    if (spi_jparse_skip(p, "else")) SPI_TRY(parse_block(p, "endif", &node->other));
    else p->token++;
    p->conditional--;
    return SP_OK;
}

static sp_status parse_for(spi_jparser *p, spi_jnode *node) {
    static const char *const ends[] = {"else", "endfor", NULL};
    SPI_TRY(spi_jparse_target(p, false, &node->a));
    SPI_TRY(spi_jparse_expect(p, "in"));
    SPI_TRY(spi_jparse_tuple(p, false, false, &node->b));
    if (spi_jparse_skip(p, "if")) SPI_TRY(spi_jparse_expression(p, true, &node->c));
    if (spi_jparse_is(p, "recursive"))
        return spi_fail(p->ctx, SP_ERR_UNSUPPORTED, "%s: line %d: 'recursive' is not supported", p->t->name,
                        p->token->line);
    p->loops++;
    SPI_TRY(parse_inner(p, ends, &node->body));
    p->loops--;
    if (spi_jparse_skip(p, "else")) return parse_block(p, "endfor", &node->other);
    p->token++;
    return SP_OK;
}

static sp_status parse_set(spi_jparser *p, spi_jnode *node) {
    SPI_TRY(spi_jparse_target(p, true, &node->a));
    if (spi_jparse_skip(p, "=")) return spi_jparse_tuple(p, true, false, &node->b);
    node->kind = SPI_N_SET_BLOCK;
    SPI_TRY(spi_jparse_filters(p, NULL, false, &node->b));
    return parse_block(p, "endset", &node->body);
}

/* (name, name=default, ...) */
static sp_status parse_parameters(spi_jparser *p, spi_jmacro_node *m) {
    spi_jnode *value;
    SPI_TRY(spi_jparse_expect(p, "("));
    while (!spi_jparse_is(p, ")")) {
        if (m->count) SPI_TRY(spi_jparse_expect(p, ","));
        if (p->token->kind != SPI_T_NAME) return spi_jparse_expected(p, "the name of a parameter");
        SPI_TRY(spi_jparse_grow(p, (void **)&m->parameters, &m->capacity, m->count, sizeof *m->parameters));
        SPI_TRY(spi_jparse_grow(p, (void **)&m->names, &m->name_capacity, m->count, sizeof *m->names));
        m->names[m->count] = p->token->text;
        SPI_TRY(spi_jparse_symbol(p, p->token->text, &m->parameters[m->count++]));
        p->token++;
        if (spi_jparse_skip(p, "=")) {
            SPI_TRY(spi_jparse_expression(p, true, &value));
            SPI_TRY(spi_jparse_add(p, &m->defaults, value));
        } else if (m->defaults.count) {
            return spi_jparse_expected(p, "a default value");
        }
    }
    p->token++;
    return SP_OK;
}

/* A macro's or a call block's parameters and body. */
static sp_status parse_macro_body(spi_jparser *p, spi_jmacro_node *m, bool parameters, const char *end,
                                  spi_jnode *call) {
    spi_jmacro_node *outer = p->macro;
    const int loops = p->loops;
    p->macro = m;
    if (parameters) SPI_TRY(parse_parameters(p, m));
    if (call) {
        p->macro = outer;
        SPI_TRY(spi_jparse_expression(p, true, &call->a));
        if (call->a->kind != SPI_N_CALL) return spi_jparse_expected(p, "a call");
        p->macro = m;
    }
    p->loops = 0;
    SPI_TRY(parse_block(p, end, &m->body));
    p->loops = loops;
    p->macro = outer;
    if (outer) { /* what a body inside says, its surroundings must know */
        outer->takes_caller |= m->takes_caller && call;
        outer->takes_varargs |= m->takes_varargs && call;
        outer->takes_kwargs |= m->takes_kwargs && call;
    }
    return SP_OK;
}

static sp_status new_macro(spi_jparser *p, spi_jnode *node) {
    node->macro = spi_arena_alloc(&p->t->arena, sizeof *node->macro);
    if (!node->macro) return spi_fail_memory(p->ctx, sizeof *node->macro, p->t->name);
    node->macro->symbol = -1;
    return SP_OK;
}

static sp_status parse_macro(spi_jparser *p, spi_jnode *node) {
    SPI_TRY(new_macro(p, node));
    if (p->token->kind != SPI_T_NAME) return spi_jparse_expected(p, "the name of a macro");
    node->macro->name = p->token->text;
    SPI_TRY(spi_jparse_symbol(p, p->token->text, &node->macro->symbol));
    p->token++;
    return parse_macro_body(p, node->macro, true, "endmacro", NULL);
}

static sp_status parse_call_block(spi_jparser *p, spi_jnode *node) {
    SPI_TRY(new_macro(p, node));
    node->macro->name = "caller";
    return parse_macro_body(p, node->macro, spi_jparse_is(p, "("), "endcall", node);
}

static sp_status parse_with(spi_jparser *p, spi_jnode *node) {
    spi_jnode *item;
    for (bool first = true; p->token->kind != SPI_T_BLOCK_END; first = false) {
        if (!first) SPI_TRY(spi_jparse_expect(p, ","));
        if (p->token->kind != SPI_T_NAME) return spi_jparse_expected(p, "a name to assign to");
        SPI_TRY(spi_jparse_primary(p, &item));
        SPI_TRY(spi_jparse_add(p, &node->items, item));
        SPI_TRY(spi_jparse_expect(p, "="));
        SPI_TRY(spi_jparse_expression(p, true, &item));
        SPI_TRY(spi_jparse_add(p, &node->items, item));
    }
    return parse_block(p, "endwith", &node->body);
}

static sp_status parse_filter_block(spi_jparser *p, spi_jnode *node) {
    SPI_TRY(spi_jparse_filters(p, NULL, true, &node->b));
    return parse_block(p, "endfilter", &node->body);
}

static sp_status parse_generation(spi_jparser *p, spi_jnode *node) {
    const int loops = p->loops;
    p->loops = 0;
    SPI_TRY(parse_block(p, "endgeneration", &node->body));
    p->loops = loops;
    return SP_OK;
}

static sp_status parse_jump(spi_jparser *p, spi_jnode *node) {
    (void)node;
    if (p->loops) return SP_OK;
    p->token--;
    return spi_jparse_expected(p, "a loop around it");
}

typedef struct statement {
    const char *word;
    spi_jnode_kind kind;
    sp_status (*parse)(spi_jparser *p, spi_jnode *node); /* from behind the word up to '%}' */
} statement;

static const statement statements[] = {
    {"if", SPI_N_IF, parse_if},
    {"for", SPI_N_FOR, parse_for},
    {"set", SPI_N_SET, parse_set},
    {"macro", SPI_N_MACRO, parse_macro},
    {"call", SPI_N_CALL_BLOCK, parse_call_block},
    {"filter", SPI_N_FILTER_BLOCK, parse_filter_block},
    {"with", SPI_N_WITH, parse_with},
    {"generation", SPI_N_GENERATION, parse_generation},
    {"break", SPI_N_BREAK, parse_jump},
    {"continue", SPI_N_CONTINUE, parse_jump},
};

/* A tag that ends or continues something, which is not open. */
static bool closes(const char *word) {
    return strncmp(word, "end", 3) == 0 || strcmp(word, "else") == 0 || strcmp(word, "elif") == 0;
}

static sp_status parse_statement(spi_jparser *p, spi_jnodes *out) {
    const spi_jtoken *word = p->token;
    spi_jnode *node;
    if (word->kind != SPI_T_NAME) return spi_jparse_expected(p, "a statement");
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++) {
        if (strcmp(statements[i].word, word->text) != 0) continue;
        SPI_TRY(spi_jparse_node(p, statements[i].kind, &node));
        p->token++;
        SPI_TRY(statements[i].parse(p, node));
        SPI_TRY(spi_jparse_add(p, out, node));
        return expect_end(p);
    }
    if (closes(word->text)) return spi_jparse_expected(p, "a statement");
    return spi_fail(p->ctx, SP_ERR_UNSUPPORTED, "%s: line %d: the statement '%s' is not supported", p->t->name,
                    word->line, word->text);
}

/* ------------------------------------------------------------------ the whole */

static bool is_end(const spi_jparser *p, const char *const *ends) {
    for (; ends && *ends; ends++)
        if (spi_jparse_is(p, *ends)) return true;
    return false;
}

static sp_status parse_text(spi_jparser *p, spi_jnodes *out) {
    spi_jnode *node;
    spi_jstr *string = spi_arena_alloc(&p->t->arena, sizeof *string);
    if (!string) return spi_fail_memory(p->ctx, sizeof *string, p->t->name);
    *string = (spi_jstr){p->token->text, p->token->length, SIZE_MAX};
    SPI_TRY(spi_jparse_node(p, SPI_N_TEXT, &node));
    node->value = (spi_jval){.kind = SPI_J_STRING, .string = string};
    p->token++;
    return spi_jparse_add(p, out, node);
}

static sp_status parse_print(spi_jparser *p, spi_jnodes *out) {
    spi_jnode *node;
    SPI_TRY(spi_jparse_node(p, SPI_N_PRINT, &node));
    p->token++;
    SPI_TRY(spi_jparse_tuple(p, true, false, &node->a));
    if (p->token->kind != SPI_T_PRINT_END) return spi_jparse_expected(p, "'}}'");
    p->token++;
    return spi_jparse_add(p, out, node);
}

/* Up to a tag that begins with one of `ends`, which becomes the current token; to the end where it is NULL. */
static sp_status parse_body(spi_jparser *p, const char *const *ends, spi_jnodes *out) {
    if (++p->nesting > SPI_JINJA_NESTING) return spi_jparse_expected(p, "less nesting");
    while (p->token->kind != SPI_T_END) {
        if (p->token->kind == SPI_T_DATA) {
            SPI_TRY(parse_text(p, out));
        } else if (p->token->kind == SPI_T_PRINT_BEGIN) {
            SPI_TRY(parse_print(p, out));
        } else {
            p->token++;
            if (is_end(p, ends)) break;
            SPI_TRY(parse_statement(p, out));
        }
    }
    p->nesting--;
    if (p->token->kind != SPI_T_END || !ends) return SP_OK;
    char what[40];
    snprintf(what, sizeof what, "'%s'", ends[1] ? ends[ends[2] ? 2 : 1] : ends[0]);
    return spi_jparse_expected(p, what);
}

static sp_status parse(spi_jparser *p, const char *text, size_t length) {
    static const char *const first[SPI_SYM_COUNT] = {"loop", "caller", "varargs", "kwargs"};
    int symbol;
    for (int i = 0; i < SPI_SYM_COUNT; i++) SPI_TRY(spi_jparse_symbol(p, first[i], &symbol));
    SPI_TRY(spi_jinja_lex(p->ctx, &p->t->arena, p->t->name, text, length, &p->tokens));
    p->token = p->tokens.items;
    const sp_status status = parse_body(p, NULL, &p->t->body);
    free(p->tokens.items);
    return status;
}

sp_status spi_jinja_parse(sp_context *ctx, const char *name, const char *text, size_t length,
                          spi_jinja_template **out) {
    *out = NULL;
    spi_jinja_template *t = calloc(1, sizeof *t);
    if (!t) return spi_fail_memory(ctx, sizeof *t, name);
    t->ctx = ctx;
    t->name = spi_arena_strdup(&t->arena, name);
    spi_jparser p = {.ctx = ctx, .t = t};
    const sp_status status = t->name ? parse(&p, text, length) : spi_fail_memory(ctx, strlen(name), name);
    if (status == SP_OK) *out = t;
    else spi_jinja_free(t);
    return status;
}

void spi_jinja_free(spi_jinja_template *t) {
    if (!t) return;
    free(t->symbols);
    spi_arena_free(&t->arena);
    free(t);
}
