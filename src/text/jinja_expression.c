/* Expressions of Jinja, by precedence: if, or, and, not, comparisons, + -, ~, * / // %, **, unary, postfix. */
#include <string.h>

#include "text/jinja_eval.h"
#include "text/jinja_parser.h"

static sp_status unary(spi_jparser *p, bool filters, spi_jnode **out);

/* ------------------------------------------------------------------ literals and names */

static sp_status parse_items(spi_jparser *p, spi_jnode_kind kind, const char *closing, spi_jnode **out) {
    spi_jnode *node, *item;
    SPI_TRY(spi_jparse_node(p, kind, &node));
    p->token++;
    for (bool first = true; !spi_jparse_is(p, closing); first = false) {
        if (!first) SPI_TRY(spi_jparse_expect(p, ","));
        if (spi_jparse_is(p, closing)) break;
        SPI_TRY(spi_jparse_expression(p, true, &item));
        SPI_TRY(spi_jparse_add(p, &node->items, item));
        SPI_TRY(spi_jparse_over(p, node, item));
        if (kind != SPI_N_DICT) continue;
        SPI_TRY(spi_jparse_expect(p, ":"));
        SPI_TRY(spi_jparse_expression(p, true, &item));
        SPI_TRY(spi_jparse_add(p, &node->items, item));
        SPI_TRY(spi_jparse_over(p, node, item));
    }
    p->token++;
    *out = node;
    return SP_OK;
}

/* Strings one behind the other are one string. */
static sp_status parse_strings(spi_jparser *p, spi_jnode *node) {
    const spi_jtoken *first = p->token;
    size_t length = 0;
    for (; p->token->kind == SPI_T_STRING; p->token++) length += p->token->length;
    char *text = spi_arena_alloc(&p->t->arena, length + 1);
    spi_jstr *string = spi_arena_alloc(&p->t->arena, sizeof *string);
    if (!text || !string) return spi_fail_memory(p->ctx, length, p->t->name);
    *string = (spi_jstr){text, length, SIZE_MAX};
    for (const spi_jtoken *t = first; t < p->token; t++) {
        memcpy(text, t->text, t->length);
        text += t->length;
    }
    node->value = (spi_jval){.kind = SPI_J_STRING, .string = string};
    return SP_OK;
}

/* A macro that says one of these names takes the rest of its arguments, or the block of a call. */
static void note_special(spi_jparser *p, int symbol) {
    if (!p->macro) return;
    p->macro->takes_caller |= symbol == SPI_SYM_CALLER;
    p->macro->takes_varargs |= symbol == SPI_SYM_VARARGS;
    p->macro->takes_kwargs |= symbol == SPI_SYM_KWARGS;
}

static sp_status parse_name(spi_jparser *p, spi_jnode **out) {
    static const char *const words[] = {"true", "True", "false", "False", "none", "None"};
    const char *name = p->token->text;
    spi_jnode *node;
    SPI_TRY(spi_jparse_node(p, SPI_N_CONST, &node));
    p->token++;
    *out = node;
    for (int i = 0; i < 6; i++) {
        if (strcmp(name, words[i]) != 0) continue;
        node->value = i < 4 ? spi_jbool(i < 2) : SPI_J_NULL;
        return SP_OK;
    }
    node->kind = SPI_N_NAME;
    node->name = name;
    SPI_TRY(spi_jparse_symbol(p, name, &node->symbol));
    note_special(p, node->symbol);
    return SP_OK;
}

sp_status spi_jparse_primary(spi_jparser *p, spi_jnode **out) {
    const spi_jtoken *token = p->token;
    if (token->kind == SPI_T_NAME) return parse_name(p, out);
    if (token->kind == SPI_T_STRING || token->kind == SPI_T_INT || token->kind == SPI_T_FLOAT) {
        SPI_TRY(spi_jparse_node(p, SPI_N_CONST, out));
        if (token->kind == SPI_T_STRING) return parse_strings(p, *out);
        (*out)->value = token->kind == SPI_T_INT ? spi_jint(token->integer) : spi_jreal(token->real);
        p->token++;
        return SP_OK;
    }
    if (spi_jparse_is(p, "(")) {
        p->token++;
        SPI_TRY(spi_jparse_tuple(p, true, true, out));
        return spi_jparse_expect(p, ")");
    }
    if (spi_jparse_is(p, "[")) return parse_items(p, SPI_N_LIST, "]", out);
    if (spi_jparse_is(p, "{")) return parse_items(p, SPI_N_DICT, "}", out);
    return spi_jparse_expected(p, "an expression");
}

static bool tuple_ends(const spi_jparser *p) {
    return p->token->kind == SPI_T_PRINT_END || p->token->kind == SPI_T_BLOCK_END || spi_jparse_is(p, ")");
}

sp_status spi_jparse_tuple(spi_jparser *p, bool condition, bool parenthesized, spi_jnode **out) {
    spi_jnode *node, *item = NULL;
    bool tuple = false;
    SPI_TRY(spi_jparse_node(p, SPI_N_TUPLE, &node));
    while (true) {
        if (item) SPI_TRY(spi_jparse_expect(p, ","));
        if (tuple_ends(p)) break;
        SPI_TRY(spi_jparse_expression(p, condition, &item));
        SPI_TRY(spi_jparse_add(p, &node->items, item));
        SPI_TRY(spi_jparse_over(p, node, item));
        if (!spi_jparse_is(p, ",")) break;
        tuple = true;
    }
    if (!item && !parenthesized) return spi_jparse_expected(p, "an expression");
    *out = tuple || !item ? node : item;
    return SP_OK;
}

static sp_status parse_target_part(spi_jparser *p, bool members, spi_jnode **out) {
    if (p->token->kind == SPI_T_OP && spi_jparse_skip(p, "(")) {
        SPI_TRY(spi_jparse_target(p, members, out));
        return spi_jparse_expect(p, ")");
    }
    if (p->token->kind != SPI_T_NAME) return spi_jparse_expected(p, "a name to assign to");
    SPI_TRY(parse_name(p, out));
    if ((*out)->kind != SPI_N_NAME) {
        p->token--;
        return spi_jparse_expected(p, "a name to assign to");
    }
    if (!members || !spi_jparse_skip(p, ".")) return SP_OK;
    if (p->token->kind != SPI_T_NAME) return spi_jparse_expected(p, "a name");
    (*out)->kind = SPI_N_NSREF;
    (*out)->name = p->token->text;
    p->token++;
    return SP_OK;
}

sp_status spi_jparse_target(spi_jparser *p, bool members, spi_jnode **out) {
    spi_jnode *node, *item;
    if (++p->nesting > SPI_JINJA_NESTING) return spi_jparse_expected(p, "less nesting");
    SPI_TRY(parse_target_part(p, members, &item));
    p->nesting--;
    *out = item;
    if (!spi_jparse_is(p, ",")) return SP_OK;
    SPI_TRY(spi_jparse_node(p, SPI_N_TUPLE, &node));
    SPI_TRY(spi_jparse_add(p, &node->items, item));
    while (spi_jparse_skip(p, ",")) {
        if (p->token->kind != SPI_T_NAME && !spi_jparse_is(p, "(")) break;
        if (spi_jparse_is(p, "in")) break;
        SPI_TRY(parse_target_part(p, members, &item));
        SPI_TRY(spi_jparse_add(p, &node->items, item));
    }
    *out = node;
    return SP_OK;
}

/* ------------------------------------------------------------------ calls, members, filters, tests */

static sp_status parse_argument(spi_jparser *p, spi_jcall_args *args) {
    spi_jnode *value;
    const bool star = spi_jparse_is(p, "*");
    if (star || spi_jparse_is(p, "**")) {
        if (args->stars || (star && args->star)) return spi_jparse_expected(p, "another argument");
        p->token++;
        return spi_jparse_expression(p, true, star ? &args->star : &args->stars);
    }
    if (p->token->kind == SPI_T_NAME && p->token[1].kind == SPI_T_OP && !strcmp(p->token[1].text, "=")) {
        if (args->stars) return spi_jparse_expected(p, "')'");
        SPI_TRY(spi_jparse_grow(p, (void **)&args->names, &args->name_capacity, args->keywords.count,
                                sizeof *args->names));
        args->names[args->keywords.count] = p->token->text;
        p->token += 2;
        SPI_TRY(spi_jparse_expression(p, true, &value));
        return spi_jparse_add(p, &args->keywords, value);
    }
    if (args->star || args->stars || args->keywords.count) return spi_jparse_expected(p, "a named argument");
    SPI_TRY(spi_jparse_expression(p, true, &value));
    return spi_jparse_add(p, &args->positional, value);
}

/* The arguments from '(' to ')'. */
static sp_status parse_arguments(spi_jparser *p, spi_jnode *node) {
    spi_jcall_args *args = spi_arena_alloc(&p->t->arena, sizeof *args);
    if (!args) return spi_fail_memory(p->ctx, sizeof *args, p->t->name);
    node->args = args;
    SPI_TRY(spi_jparse_expect(p, "("));
    for (bool first = true; !spi_jparse_is(p, ")"); first = false) {
        if (!first) SPI_TRY(spi_jparse_expect(p, ","));
        if (spi_jparse_is(p, ")")) break;
        SPI_TRY(parse_argument(p, args));
    }
    p->token++;
    for (size_t i = 0; i < args->positional.count; i++)
        SPI_TRY(spi_jparse_over(p, node, args->positional.items[i]));
    for (size_t i = 0; i < args->keywords.count; i++)
        SPI_TRY(spi_jparse_over(p, node, args->keywords.items[i]));
    if (args->star) SPI_TRY(spi_jparse_over(p, node, args->star));
    if (args->stars) SPI_TRY(spi_jparse_over(p, node, args->stars));
    return SP_OK;
}

/* A node of one operand, which is what `*inner` was. */
static sp_status wrap(spi_jparser *p, spi_jnode_kind kind, spi_jnode **inner) {
    spi_jnode *node;
    SPI_TRY(spi_jparse_node(p, kind, &node));
    node->a = *inner;
    if (*inner) SPI_TRY(spi_jparse_over(p, node, *inner));
    *inner = node;
    return SP_OK;
}

sp_status spi_jparse_call(spi_jparser *p, spi_jnode **node) {
    SPI_TRY(wrap(p, SPI_N_CALL, node));
    return parse_arguments(p, *node);
}

/* What stands between the brackets: an expression or a slice. */
static sp_status parse_subscript(spi_jparser *p, spi_jnode **out) {
    spi_jnode *part[3] = {0};
    int colons = 0;
    if (!spi_jparse_is(p, ":")) SPI_TRY(spi_jparse_expression(p, true, &part[0]));
    while (colons < 2 && spi_jparse_skip(p, ":")) {
        colons++;
        if (spi_jparse_is(p, ":") || spi_jparse_is(p, "]")) continue;
        SPI_TRY(spi_jparse_expression(p, true, &part[colons]));
    }
    *out = part[0];
    if (!colons) return SP_OK;
    SPI_TRY(spi_jparse_node(p, SPI_N_SLICE, out));
    (*out)->a = part[0];
    (*out)->b = part[1];
    (*out)->c = part[2];
    for (int i = 0; i < 3; i++)
        if (part[i]) SPI_TRY(spi_jparse_over(p, *out, part[i]));
    return SP_OK;
}

static sp_status parse_member(spi_jparser *p, spi_jnode **node) {
    if (spi_jparse_skip(p, "[")) {
        SPI_TRY(wrap(p, SPI_N_ITEM, node));
        SPI_TRY(parse_subscript(p, &(*node)->b));
        SPI_TRY(spi_jparse_over(p, *node, (*node)->b));
        return spi_jparse_expect(p, "]");
    }
    p->token++;
    const spi_jtoken *token = p->token;
    SPI_TRY(wrap(p, token->kind == SPI_T_INT ? SPI_N_ITEM : SPI_N_ATTR, node));
    if (token->kind == SPI_T_INT) {
        SPI_TRY(spi_jparse_node(p, SPI_N_CONST, &(*node)->b));
        (*node)->b->value = spi_jint(token->integer);
    } else if (token->kind == SPI_T_NAME) {
        (*node)->name = token->text;
    } else {
        return spi_jparse_expected(p, "a name or a number");
    }
    p->token++;
    return SP_OK;
}

sp_status spi_jparse_postfix(spi_jparser *p, spi_jnode **node) {
    while (true) {
        if (spi_jparse_is(p, ".") || spi_jparse_is(p, "[")) SPI_TRY(parse_member(p, node));
        else if (spi_jparse_is(p, "(")) SPI_TRY(spi_jparse_call(p, node));
        else return SP_OK;
    }
}

/* The name of a filter or test, and what carries it out. */
static sp_status parse_callee(spi_jparser *p, spi_jnode *node, bool filter) {
    if (p->token->kind != SPI_T_NAME) return spi_jparse_expected(p, filter ? "a filter" : "a test");
    node->name = p->token->text;
    node->call = filter ? (const void *)spi_jinja_filter(node->name) : (const void *)spi_jinja_test(node->name);
    if (!node->call && !p->conditional)
        return spi_fail(p->ctx, SP_ERR_UNSUPPORTED, "%s: line %d: no %s is named '%s'", p->t->name,
                        p->token->line, filter ? "filter" : "test", node->name);
    p->token++;
    return SP_OK;
}

sp_status spi_jparse_filters(spi_jparser *p, spi_jnode *subject, bool named, spi_jnode **out) {
    *out = subject;
    while (named || spi_jparse_is(p, "|")) {
        if (!named) p->token++;
        named = false;
        SPI_TRY(wrap(p, SPI_N_FILTER, out));
        SPI_TRY(parse_callee(p, *out, true));
        if (spi_jparse_is(p, "(")) SPI_TRY(parse_arguments(p, *out));
    }
    return SP_OK;
}

/* Whether the current token begins the argument of a test that is written without parentheses. */
static bool bare_argument(const spi_jparser *p) {
    if (p->token->kind == SPI_T_STRING || p->token->kind == SPI_T_INT || p->token->kind == SPI_T_FLOAT)
        return true;
    if (p->token->kind == SPI_T_NAME)
        return !spi_jparse_is(p, "else") && !spi_jparse_is(p, "or") && !spi_jparse_is(p, "and");
    return spi_jparse_is(p, "[") || spi_jparse_is(p, "{");
}

static sp_status parse_test(spi_jparser *p, spi_jnode **node) {
    p->token++;
    const bool negated = spi_jparse_skip(p, "not");
    SPI_TRY(wrap(p, SPI_N_TEST, node));
    SPI_TRY(parse_callee(p, *node, false));
    if (spi_jparse_is(p, "(")) {
        SPI_TRY(parse_arguments(p, *node));
    } else if (bare_argument(p)) {
        if (spi_jparse_is(p, "is")) return spi_jparse_expected(p, "no second test");
        spi_jcall_args *args = spi_arena_alloc(&p->t->arena, sizeof *args);
        if (!args) return spi_fail_memory(p->ctx, sizeof *args, p->t->name);
        (*node)->args = args;
        spi_jnode *argument;
        SPI_TRY(spi_jparse_primary(p, &argument));
        SPI_TRY(spi_jparse_postfix(p, &argument));
        SPI_TRY(spi_jparse_add(p, &args->positional, argument));
        SPI_TRY(spi_jparse_over(p, *node, argument));
    }
    return negated ? wrap(p, SPI_N_NOT, node) : SP_OK;
}

/* ------------------------------------------------------------------ operators */

static sp_status unary(spi_jparser *p, bool filters, spi_jnode **out) {
    if (++p->nesting > SPI_JINJA_NESTING) return spi_jparse_expected(p, "less nesting");
    const bool minus = spi_jparse_is(p, "-");
    if (minus || spi_jparse_is(p, "+")) {
        p->token++;
        SPI_TRY(unary(p, false, out));
        SPI_TRY(wrap(p, minus ? SPI_N_NEG : SPI_N_POS, out));
    } else {
        SPI_TRY(spi_jparse_primary(p, out));
    }
    SPI_TRY(spi_jparse_postfix(p, out));
    while (filters) {
        if (spi_jparse_is(p, "|")) SPI_TRY(spi_jparse_filters(p, *out, false, out));
        else if (spi_jparse_is(p, "is")) SPI_TRY(parse_test(p, out));
        else if (spi_jparse_is(p, "(")) SPI_TRY(spi_jparse_call(p, out));
        else break;
    }
    p->nesting--;
    return SP_OK;
}

typedef struct operator_name {
    const char *text;
    spi_jop op;
    int level; /* binds tighter the higher; 1: comparisons */
} operator_name;

static const operator_name operators[] = {
    {"==", SPI_OP_EQ, 1},  {"!=", SPI_OP_NE, 1}, {"<", SPI_OP_LT, 1},        {"<=", SPI_OP_LE, 1},
    {">", SPI_OP_GT, 1},   {">=", SPI_OP_GE, 1}, {"+", SPI_OP_ADD, 2},       {"-", SPI_OP_SUB, 2},
    {"*", SPI_OP_MUL, 4},  {"/", SPI_OP_DIV, 4}, {"//", SPI_OP_FLOORDIV, 4}, {"%", SPI_OP_MOD, 4},
    {"**", SPI_OP_POW, 5},
};

static const operator_name *find_operator(const spi_jparser *p, int level) {
    if (p->token->kind != SPI_T_OP) return NULL;
    for (size_t i = 0; i < sizeof operators / sizeof *operators; i++)
        if (operators[i].level == level && !strcmp(operators[i].text, p->token->text)) return &operators[i];
    return NULL;
}

/* Level 3: all operands of ~ are joined at once. */
static sp_status concat(spi_jparser *p, spi_jnode **out);

static sp_status binary(spi_jparser *p, int level, spi_jnode **out) {
    if (level == 3) return concat(p, out);
    if (level == 6) return unary(p, true, out);
    SPI_TRY(binary(p, level + 1, out));
    for (const operator_name *op; (op = find_operator(p, level));) {
        SPI_TRY(wrap(p, SPI_N_BINARY, out));
        (*out)->op = op->op;
        p->token++;
        SPI_TRY(binary(p, level + 1, &(*out)->b));
        SPI_TRY(spi_jparse_over(p, *out, (*out)->b));
    }
    return SP_OK;
}

static sp_status concat(spi_jparser *p, spi_jnode **out) {
    spi_jnode *node, *item;
    SPI_TRY(binary(p, 4, out));
    if (!spi_jparse_is(p, "~")) return SP_OK;
    SPI_TRY(spi_jparse_node(p, SPI_N_CONCAT, &node));
    SPI_TRY(spi_jparse_add(p, &node->items, *out));
    SPI_TRY(spi_jparse_over(p, node, *out));
    while (spi_jparse_skip(p, "~")) {
        SPI_TRY(binary(p, 4, &item));
        SPI_TRY(spi_jparse_add(p, &node->items, item));
        SPI_TRY(spi_jparse_over(p, node, item));
    }
    *out = node;
    return SP_OK;
}

/* The comparison at the current token, which is taken. */
static bool take_comparison(spi_jparser *p, spi_jop *op) {
    const operator_name *found = find_operator(p, 1);
    if (found) {
        p->token++;
        *op = found->op;
        return true;
    }
    if (spi_jparse_skip(p, "in")) {
        *op = SPI_OP_IN;
        return true;
    }
    if (!spi_jparse_is(p, "not") || p->token[1].kind != SPI_T_NAME || strcmp(p->token[1].text, "in") != 0)
        return false;
    p->token += 2;
    *op = SPI_OP_NOT_IN;
    return true;
}

static sp_status compare(spi_jparser *p, spi_jnode **out) {
    spi_jnode *operand;
    spi_jop op;
    SPI_TRY(binary(p, 2, out));
    for (bool first = true; take_comparison(p, &op); first = false) {
        if (first) SPI_TRY(wrap(p, SPI_N_COMPARE, out));
        SPI_TRY(spi_jparse_node(p, SPI_N_OPERAND, &operand));
        operand->op = op;
        SPI_TRY(binary(p, 2, &operand->a));
        SPI_TRY(spi_jparse_add(p, &(*out)->items, operand));
        SPI_TRY(spi_jparse_over(p, *out, operand->a));
    }
    return SP_OK;
}

static sp_status negation(spi_jparser *p, spi_jnode **out) {
    int nots = 0;
    while (spi_jparse_is(p, "not")) {
        p->token++;
        nots++;
    }
    SPI_TRY(compare(p, out));
    while (nots-- > 0) SPI_TRY(wrap(p, SPI_N_NOT, out));
    return SP_OK;
}

static sp_status conjunction(spi_jparser *p, spi_jnode **out) {
    SPI_TRY(negation(p, out));
    while (spi_jparse_skip(p, "and")) {
        SPI_TRY(wrap(p, SPI_N_AND, out));
        SPI_TRY(negation(p, &(*out)->b));
        SPI_TRY(spi_jparse_over(p, *out, (*out)->b));
    }
    return SP_OK;
}

static sp_status disjunction(spi_jparser *p, spi_jnode **out) {
    SPI_TRY(conjunction(p, out));
    while (spi_jparse_skip(p, "or")) {
        SPI_TRY(wrap(p, SPI_N_OR, out));
        SPI_TRY(conjunction(p, &(*out)->b));
        SPI_TRY(spi_jparse_over(p, *out, (*out)->b));
    }
    return SP_OK;
}

sp_status spi_jparse_expression(spi_jparser *p, bool condition, spi_jnode **out) {
    if (++p->nesting > SPI_JINJA_NESTING) return spi_jparse_expected(p, "less nesting");
    SPI_TRY(disjunction(p, out));
    while (condition && spi_jparse_skip(p, "if")) {
        spi_jnode *node;
        SPI_TRY(spi_jparse_node(p, SPI_N_COND, &node));
        node->b = *out;
        p->conditional++;
        SPI_TRY(disjunction(p, &node->a));
        if (spi_jparse_skip(p, "else")) SPI_TRY(spi_jparse_expression(p, true, &node->c));
        p->conditional--;
        SPI_TRY(spi_jparse_over(p, node, node->a));
        SPI_TRY(spi_jparse_over(p, node, node->b));
        if (node->c) SPI_TRY(spi_jparse_over(p, node, node->c));
        *out = node;
    }
    p->nesting--;
    return SP_OK;
}
