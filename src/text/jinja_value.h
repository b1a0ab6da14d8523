/*
 * Values of a Jinja template as Python has them: None, booleans, numbers, strings of Unicode characters, lists,
 * tuples, dictionaries in the order of insertion, and the objects of Jinja. All memory belongs to the arena of
 * one rendering; values are passed by copy, what they point to is shared and, but for namespaces, never
 * changed.
 */
#ifndef SPI_TEXT_JINJA_VALUE_H
#define SPI_TEXT_JINJA_VALUE_H

#include "base/json.h"

typedef enum spi_jkind {
    SPI_J_MISSING = 0, /* an argument that was not given; never seen by a template */
    SPI_J_UNDEFINED,
    SPI_J_NONE,
    SPI_J_BOOL,
    SPI_J_INT,
    SPI_J_FLOAT,
    SPI_J_STRING,
    SPI_J_LIST,
    SPI_J_TUPLE,
    SPI_J_DICT,
    SPI_J_VIEW, /* dict_keys, dict_values, dict_items */
    SPI_J_RANGE,
    SPI_J_ITERATOR, /* what a generator yields; read once */
    SPI_J_NAMESPACE,
    SPI_J_LOOP,
    SPI_J_MACRO,
    SPI_J_FUNCTION,
    SPI_J_METHOD,
    SPI_J_CYCLER,
    SPI_J_JOINER
} spi_jkind;

/* Well-formed UTF-8, followed by a NUL. */
typedef struct spi_jstr {
    const char *text;
    size_t length; /* bytes */
    size_t chars;  /* characters; SIZE_MAX: not yet counted */
} spi_jstr;

typedef struct spi_jlist spi_jlist;
typedef struct spi_jdict spi_jdict;

typedef struct spi_jval {
    spi_jkind kind;
    bool markup; /* of a string: marked safe, so that plain text joined to it by + is escaped */
    union {
        bool truth;
        int64_t integer;
        double real;
        spi_jstr *string; /* of SPI_J_UNDEFINED: why */
        spi_jlist *list;  /* also of cyclers and joiners */
        spi_jdict *dict;  /* also of namespaces */
        struct spi_jloop *loop;
        struct spi_jmacro *macro;
        struct spi_jmethod *method;
        int function; /* its place in the table of global functions */
    };
} spi_jval;

struct spi_jlist {
    spi_jval *items; /* [count] */
    size_t count, capacity;
    size_t at;        /* of an iterator or cycler: what comes next */
    const char *name; /* of a view: "dict_keys", ...; of a range: unused */
};

typedef struct spi_jpair {
    spi_jval key, value;
} spi_jpair;

struct spi_jdict {
    spi_jpair *pairs; /* [count] */
    size_t count, capacity;
};

/* A method of a value: `receiver`.name */
typedef struct spi_jmethod {
    spi_jval receiver;
    const char *name;
} spi_jmethod;

struct spi_jinja;

#define SPI_J_NULL ((spi_jval){.kind = SPI_J_NONE})

static inline spi_jval spi_jbool(bool truth) {
    return (spi_jval){.kind = SPI_J_BOOL, .truth = truth};
}

static inline spi_jval spi_jint(int64_t n) {
    return (spi_jval){.kind = SPI_J_INT, .integer = n};
}

static inline spi_jval spi_jreal(double x) {
    return (spi_jval){.kind = SPI_J_FLOAT, .real = x};
}

static inline bool spi_jgiven(const spi_jval *v) {
    return v->kind != SPI_J_MISSING;
}

static inline bool spi_jnone(const spi_jval *v) {
    return v->kind == SPI_J_NONE || v->kind == SPI_J_MISSING;
}

/* What has items one after the other in `list`. */
static inline bool spi_jlisted(const spi_jval *v) {
    return v->kind == SPI_J_LIST || v->kind == SPI_J_TUPLE || v->kind == SPI_J_VIEW || v->kind == SPI_J_RANGE ||
           v->kind == SPI_J_ITERATOR;
}

/* ------------------------------------------------------------------ making values */

/* Memory of the rendering, zeroed, counted against its limit. */
sp_status spi_jalloc(struct spi_jinja *j, size_t bytes, void **out);
/* A copy of the bytes. */
sp_status spi_jstring(struct spi_jinja *j, const char *text, size_t length, spi_jval *out);
/* The bytes where they are, which must live as long as the rendering. */
sp_status spi_jstring_at(struct spi_jinja *j, const char *text, size_t length, spi_jval *out);
/* The buffer's text; frees the buffer in every case. */
sp_status spi_jstring_take(struct spi_jinja *j, spi_buf *text, spi_jval *out);
sp_status spi_jlist_new(struct spi_jinja *j, spi_jkind kind, size_t capacity, spi_jval *out);
sp_status spi_jlist_add(struct spi_jinja *j, spi_jlist *list, spi_jval item);
sp_status spi_jdict_new(struct spi_jinja *j, spi_jval *out);
/* Sets or replaces; an unhashable key fails. */
sp_status spi_jdict_set(struct spi_jinja *j, spi_jdict *dict, spi_jval key, spi_jval value);
/* The value under a key, NULL if there is none. */
const spi_jval *spi_jdict_get(struct spi_jinja *j, const spi_jdict *dict, const spi_jval *key);
const spi_jval *spi_jdict_find(const spi_jdict *dict, const char *name);
/* Strings stay where they are: `json` must outlive the rendering. */
sp_status spi_jval_from_json(struct spi_jinja *j, const json_t *json, spi_jval *out);

/* ------------------------------------------------------------------ what Python asks of values */

/* Whether it can be a key: no list or dictionary, and no tuple with one. */
bool spi_jhashable(const spi_jval *v);
/* "str", "dict", ... */
const char *spi_jtype(const spi_jval *v);
/* The characters of a string. */
size_t spi_jchars(spi_jstr *s);
bool spi_jtruth(struct spi_jinja *j, const spi_jval *v);
bool spi_jequal(struct spi_jinja *j, const spi_jval *a, const spi_jval *b);
/* *order < 0, 0 or > 0; a TypeError where Python has no order. */
sp_status spi_jcompare(struct spi_jinja *j, const spi_jval *a, const spi_jval *b, int *order);
bool spi_jis_number(const spi_jval *v);
/* The value as an integer, of a number that is one or a boolean. */
bool spi_jas_int(const spi_jval *v, int64_t *out);
double spi_jas_real(const spi_jval *v);
/* len(); a TypeError where there is none. */
sp_status spi_jlength(struct spi_jinja *j, const spi_jval *v, size_t *out);
/* list(): the items that a loop would see; a TypeError for what cannot be iterated. Uses iterators up. */
sp_status spi_jiterate(struct spi_jinja *j, const spi_jval *v, spi_jlist **out);
/* item in container */
sp_status spi_jcontains(struct spi_jinja *j, const spi_jval *container, const spi_jval *item, bool *out);

/* ------------------------------------------------------------------ printing (jinja_print.c) */

/* Appends str(v) or repr(v). */
sp_status spi_jprint(struct spi_jinja *j, spi_buf *out, const spi_jval *v);
sp_status spi_jrepr(struct spi_jinja *j, spi_buf *out, const spi_jval *v);
/* str(v) as a string value; a string is itself, marked or not. */
sp_status spi_jtext(struct spi_jinja *j, const spi_jval *v, spi_jval *out);
/* repr of a float. */
void spi_jprint_real(spi_buf *out, double x);

typedef struct spi_jdump {
    bool ascii, sort_keys;
    bool indented;
    const char *indent;     /* one level's */
    const char *item, *key; /* separators */
} spi_jdump;
/* json.dumps */
sp_status spi_jdump_json(struct spi_jinja *j, spi_buf *out, const spi_jval *v, const spi_jdump *how);

#endif
