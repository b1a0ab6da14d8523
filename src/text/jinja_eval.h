/* One rendering of a Jinja template: the state that the evaluator's files share, and what they call of each
 * other. */
#ifndef SPI_TEXT_JINJA_EVAL_H
#define SPI_TEXT_JINJA_EVAL_H

#include "text/jinja.h"
#include "text/jinja_node.h"

#define SPI_JINJA_DEPTH 1500
#define SPI_JINJA_STEPS 50000000
#define SPI_JINJA_MEMORY ((size_t)256 << 20)
#define SPI_JINJA_TEXT ((size_t)64 << 20)

/* Names that were set, in one block that has names of its own. */
typedef struct spi_jscope {
    struct spi_jscope *parent;
    int *symbols;     /* [count] */
    spi_jval *values; /* [count] */
    size_t count, capacity;
} spi_jscope;

typedef struct spi_jmacro {
    const spi_jmacro_node *node;
    spi_jscope *scope; /* where it was defined */
} spi_jmacro;

typedef struct spi_jinja {
    sp_context *ctx;
    const spi_jinja_template *t;
    spi_arena arena;
    size_t memory, steps; /* used so far */
    int depth, line;
    int64_t now;
    spi_jval *globals; /* [symbol_count]: what the caller gives and what Jinja has */
    spi_jscope *scope;
    spi_jval subject; /* of a block's filters: the block's text */
    spi_buf *out;
    spi_jinja_output *main; /* `out` is its text where nothing is being captured */
} spi_jinja;

/* "FILE: line N: ..." with SP_ERR_DATA. */
sp_status spi_jfail(spi_jinja *j, const char *fmt, ...) SP_PRINTF(2, 3);
sp_status spi_jlacks(spi_jinja *j, const char *what); /* SP_ERR_UNSUPPORTED: "... is not supported" */
sp_status spi_jmemory(spi_jinja *j, size_t bytes);    /* out of memory */
/* The failure that using an undefined value is. */
sp_status spi_jundefined(spi_jinja *j, const spi_jval *v);
#ifdef __clang_analyzer__
/* As for spi_fail: these never return SP_OK. */
#define spi_jfail(j, ...) (spi_jfail(j, __VA_ARGS__), SP_ERR_DATA)
#define spi_jlacks(j, what) (spi_jlacks(j, what), SP_ERR_UNSUPPORTED)
#define spi_jmemory(j, bytes) (spi_jmemory(j, bytes), SP_ERR_MEMORY)
#define spi_jundefined(j, v) (spi_jundefined(j, v), SP_ERR_DATA)
#endif
/* Counts work of about `bytes` bytes against the limit of steps. */
sp_status spi_jwork(spi_jinja *j, size_t bytes);

/* ------------------------------------------------------------------ evaluation */

sp_status spi_jinja_eval(spi_jinja *j, const spi_jnode *node, spi_jval *out);
sp_status spi_jinja_exec(spi_jinja *j, const spi_jnodes *body);
/* Like exec; SPI_J_BREAK or SPI_J_CONTINUE in *jump where the body ended by one. */
typedef enum spi_jjump { SPI_J_NO_JUMP = 0, SPI_J_BREAK, SPI_J_CONTINUE } spi_jjump;
sp_status spi_jinja_run(spi_jinja *j, const spi_jnodes *body, spi_jjump *jump);
/* The text that a body prints, with names of its own. */
sp_status spi_jinja_capture(spi_jinja *j, const spi_jnodes *body, spi_jscope *parent, spi_jval *out);

sp_status spi_jscope_push(spi_jinja *j, spi_jscope *parent);
sp_status spi_jscope_set(spi_jinja *j, int symbol, spi_jval value);
/* Assigns to a target: names, members of namespaces, tuples of such. */
sp_status spi_jassign(spi_jinja *j, const spi_jnode *target, spi_jval value);

/* value.name, value[key] */
sp_status spi_jinja_attribute(spi_jinja *j, const spi_jval *v, const char *name, spi_jval *out);
sp_status spi_jinja_item(spi_jinja *j, const spi_jval *v, const spi_jval *key, spi_jval *out);
sp_status spi_jslice(spi_jinja *j, const spi_jval *v, const spi_jval part[3], spi_jval *out);
sp_status spi_jbinary(spi_jinja *j, spi_jop op, const spi_jval *a, const spi_jval *b, spi_jval *out);
sp_status spi_jmake_undefined(spi_jinja *j, spi_jval *out, const char *fmt, ...) SP_PRINTF(3, 4);

/* ------------------------------------------------------------------ calls */

typedef struct spi_jargs {
    const spi_jval *items; /* [count] */
    size_t count;
    const char *const *names; /* [named] */
    const spi_jval *values;   /* [named] */
    size_t named;
} spi_jargs;

sp_status spi_jinja_call(spi_jinja *j, const spi_jval *callee, const spi_jargs *args, spi_jval *out);
/* Sorts arguments into parameters named in `names` (NULL-ended); SPI_J_MISSING where none was given. */
sp_status spi_jbind(spi_jinja *j, const char *function, const spi_jargs *args, const char *const *names,
                    spi_jval *out);
/* Arguments as such: strings, integers, flags, with a default where they are missing. */
sp_status spi_jarg_int(spi_jinja *j, const char *function, const spi_jval *v, int64_t fallback, int64_t *out);

/* Global functions (jinja_globals.c): their number by name, -1 if there is none. */
int spi_jglobal(const char *name);
sp_status spi_jglobal_call(spi_jinja *j, int function, const spi_jargs *args, spi_jval *out);
/* Methods of strings, lists and dictionaries; NULL where a value has none of that name. */
const char *spi_jmethod_name(const spi_jval *v, const char *name);
sp_status spi_jmethod_call(spi_jinja *j, const spi_jmethod *m, const spi_jargs *args, spi_jval *out);
sp_status spi_jstring_method(spi_jinja *j, const spi_jmethod *m, const spi_jargs *args, spi_jval *out);
const char *spi_jstring_method_name(const char *name);
/* loop.name */
sp_status spi_jloop_member(spi_jinja *j, struct spi_jloop *loop, const char *name, spi_jval *out);
sp_status spi_jloop_call(spi_jinja *j, struct spi_jloop *loop, const char *name, const spi_jargs *args,
                         spi_jval *out);
/* A {% break %} of the loop around it comes back in *outer. */
sp_status spi_jloop_run(spi_jinja *j, const spi_jnode *node, spi_jjump *outer);

typedef sp_status (*spi_jfilter_fn)(spi_jinja *j, const spi_jval *v, const spi_jargs *args, spi_jval *out);
typedef sp_status (*spi_jtest_fn)(spi_jinja *j, const spi_jval *v, const spi_jargs *args, bool *out);
typedef struct spi_jfilter {
    const char *name;
    spi_jfilter_fn call;
} spi_jfilter;
typedef struct spi_jtest {
    const char *name;
    spi_jtest_fn call;
} spi_jtest;
/* By name, NULL if there is none. */
const spi_jfilter *spi_jinja_filter(const char *name);
const spi_jtest *spi_jinja_test(const char *name);
/* Filters of text (jinja_filters.c) and of sequences (jinja_sequences.c); ends with a row without a name. */
extern const spi_jfilter spi_jtext_filters[];
extern const spi_jfilter spi_jsequence_filters[];

/* ------------------------------------------------------------------ text */

bool spi_jspace(int32_t c); /* str.isspace of Python */
/* str.strip: white space or any of the characters; ends: 1 left, 2 right, 3 both. */
sp_status spi_jstrip(spi_jinja *j, const spi_jval *s, const spi_jval *chars, int ends, spi_jval *out);
typedef enum spi_jcase { SPI_J_UPPER, SPI_J_LOWER, SPI_J_CAPITALIZE, SPI_J_TITLE, SPI_J_SWAP } spi_jcase;
sp_status spi_jrecase(spi_jinja *j, const spi_jval *s, spi_jcase how, spi_jval *out);
/* At most `most` replacements; negative: all. */
sp_status spi_jreplace(spi_jinja *j, const spi_jval *s, const spi_jval *from, const spi_jval *to, int64_t most,
                       spi_jval *out);
sp_status spi_jescape(spi_jinja *j, const spi_jval *s, spi_jval *out);
/* format % values */
sp_status spi_jpercent(spi_jinja *j, const spi_jval *format, const spi_jval *values, spi_jval *out);
/* str.format */
sp_status spi_jformat(spi_jinja *j, const spi_jval *format, const spi_jargs *args, spi_jval *out);
/* Offset of character n, which may be the end. */
size_t spi_joffset(const spi_jstr *s, size_t n);
/* The first place of `what` in text [from, length), SIZE_MAX if there is none. */
size_t spi_jfind(const char *text, size_t length, size_t from, const char *what, size_t size);

#endif
