/* The tree of a Jinja template. Nodes lie in the template's arena. */
#ifndef SPI_TEXT_JINJA_NODE_H
#define SPI_TEXT_JINJA_NODE_H

#include "text/jinja_value.h"

typedef enum spi_jnode_kind {
    /* expressions */
    SPI_N_CONST,   /* value */
    SPI_N_NAME,    /* symbol */
    SPI_N_TUPLE,   /* items */
    SPI_N_LIST,    /* items */
    SPI_N_DICT,    /* items: key, value, key, value, ... */
    SPI_N_COND,    /* b if a else c; c may be NULL */
    SPI_N_OR,      /* a, b */
    SPI_N_AND,     /* a, b */
    SPI_N_NOT,     /* a */
    SPI_N_COMPARE, /* a, then items: SPI_N_OPERAND each with op and a */
    SPI_N_OPERAND,
    SPI_N_BINARY, /* a op b */
    SPI_N_CONCAT, /* items */
    SPI_N_NEG,    /* a */
    SPI_N_POS,    /* a */
    SPI_N_ATTR,   /* a.name */
    SPI_N_ITEM,   /* a[b] */
    SPI_N_SLICE,  /* a:b:c, each may be NULL */
    SPI_N_CALL,   /* a(args) */
    SPI_N_FILTER, /* a | name(args); a is NULL where a block's text comes in */
    SPI_N_TEST,   /* a is name(args) */
    SPI_N_NSREF,  /* symbol.name, as a target */
    /* statements */
    SPI_N_TEXT,         /* value */
    SPI_N_PRINT,        /* a */
    SPI_N_IF,           /* a, body, other */
    SPI_N_FOR,          /* target a in b if c: body, other */
    SPI_N_SET,          /* a = b */
    SPI_N_SET_BLOCK,    /* a = body, through the filter b if it is not NULL */
    SPI_N_MACRO,        /* macro */
    SPI_N_CALL_BLOCK,   /* call a with macro as caller */
    SPI_N_FILTER_BLOCK, /* body through b */
    SPI_N_WITH,         /* items: target, value, target, value, ...; body */
    SPI_N_GENERATION,   /* body */
    SPI_N_BREAK,
    SPI_N_CONTINUE
} spi_jnode_kind;

typedef enum spi_jop {
    SPI_OP_ADD,
    SPI_OP_SUB,
    SPI_OP_MUL,
    SPI_OP_DIV,
    SPI_OP_FLOORDIV,
    SPI_OP_MOD,
    SPI_OP_POW,
    SPI_OP_EQ,
    SPI_OP_NE,
    SPI_OP_LT,
    SPI_OP_LE,
    SPI_OP_GT,
    SPI_OP_GE,
    SPI_OP_IN,
    SPI_OP_NOT_IN
} spi_jop;

typedef struct spi_jnode spi_jnode;

typedef struct spi_jnodes {
    spi_jnode **items; /* [count] */
    size_t count, capacity;
} spi_jnodes;

/* f(positional, name=keyword, *star, **stars) */
typedef struct spi_jcall_args {
    spi_jnodes positional, keywords;
    const char **names; /* [keywords.count] */
    size_t name_capacity;
    spi_jnode *star, *stars; /* or NULL */
} spi_jcall_args;

typedef struct spi_jmacro_node {
    const char *name;
    int symbol;          /* -1: a call block's body */
    int *parameters;     /* [count] symbols */
    const char **names;  /* [count] */
    spi_jnodes defaults; /* of the last parameters */
    size_t count, capacity, name_capacity;
    bool takes_varargs, takes_kwargs, takes_caller;
    spi_jnodes body;
} spi_jmacro_node;

struct spi_jnode {
    spi_jnode_kind kind;
    spi_jop op;
    int line, depth, symbol;
    const char *name;
    const void *call; /* of a filter or test: what carries it out; NULL: unknown */
    spi_jval value;
    spi_jnode *a, *b, *c;
    spi_jnodes items, body, other;
    spi_jcall_args *args; /* or NULL */
    spi_jmacro_node *macro;
};

/* Symbols that the evaluator asks for by itself; the parser makes them first, in this order. */
enum { SPI_SYM_LOOP = 0, SPI_SYM_CALLER, SPI_SYM_VARARGS, SPI_SYM_KWARGS, SPI_SYM_COUNT };

struct spi_jinja_template {
    sp_context *ctx;
    spi_arena arena;
    const char *name; /* of the file, for messages */
    spi_jnodes body;
    const char **symbols; /* [symbol_count] */
    size_t symbol_count, symbol_capacity;
};

#endif
