/* What the two halves of the Jinja parser share: statements (jinja_parser.c) and expressions. */
#ifndef SPI_TEXT_JINJA_PARSER_H
#define SPI_TEXT_JINJA_PARSER_H

#include "text/jinja.h"
#include "text/jinja_lexer.h"
#include "text/jinja_node.h"

/* Levels of nesting in a template's text, and nodes above one another in its tree. */
#define SPI_JINJA_NESTING 150
#define SPI_JINJA_TREE_DEPTH 600

typedef struct spi_jparser {
    sp_context *ctx;
    spi_jinja_template *t;
    spi_jtokens tokens;
    const spi_jtoken *token; /* the current one */
    int nesting;
    int conditional; /* inside an if: an unknown filter or test may never be reached, so it fails when it is */
    int loops;       /* around the current token, within one macro */
    spi_jmacro_node *macro; /* around the current token, or NULL */
} spi_jparser;

/* SP_ERR_FORMAT: "FILE: line N: expected WHAT, found 'TOKEN'". */
sp_status spi_jparse_expected(spi_jparser *p, const char *what);
#ifdef __clang_analyzer__
#define spi_jparse_expected(p, what) (spi_jparse_expected(p, what), SP_ERR_FORMAT) /* as for spi_fail */
#endif
bool spi_jparse_is(const spi_jparser *p, const char *text); /* an operator or a name */
bool spi_jparse_skip(spi_jparser *p, const char *text);
sp_status spi_jparse_expect(spi_jparser *p, const char *text);
sp_status spi_jparse_node(spi_jparser *p, spi_jnode_kind kind, spi_jnode **out);
sp_status spi_jparse_add(spi_jparser *p, spi_jnodes *list, spi_jnode *node);
/* Room for one more element of an array in the arena. */
sp_status spi_jparse_grow(spi_jparser *p, void **items, size_t *capacity, size_t count, size_t size);
/* The number of a name. */
sp_status spi_jparse_symbol(spi_jparser *p, const char *name, int *out);
/* Takes a child's depth into account; fails where the tree gets too deep. */
sp_status spi_jparse_over(spi_jparser *p, spi_jnode *node, const spi_jnode *child);

/* An expression; without `condition` none with `if`. */
sp_status spi_jparse_expression(spi_jparser *p, bool condition, spi_jnode **out);
/* One expression or, with commas, a tuple; ends before "in" where `until_in`. */
sp_status spi_jparse_tuple(spi_jparser *p, bool condition, bool parenthesized, spi_jnode **out);
/* What can be assigned to: a name, a tuple of such, with `members` also namespace.member. */
sp_status spi_jparse_target(spi_jparser *p, bool members, spi_jnode **out);
/* Filters from the current '|', or from a filter's name where `named`; `subject` may be NULL. */
sp_status spi_jparse_filters(spi_jparser *p, spi_jnode *subject, bool named, spi_jnode **out);
sp_status spi_jparse_primary(spi_jparser *p, spi_jnode **out);
sp_status spi_jparse_postfix(spi_jparser *p, spi_jnode **node);
sp_status spi_jparse_call(spi_jparser *p, spi_jnode **node);

#endif
