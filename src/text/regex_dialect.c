#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/regex_dialect.h"

#include <pcre2.h>
#include <stdio.h>
#include <string.h>

/* White_Space: PCRE2's \s lacks U+0085 in some versions and has U+180E. */
#define SPACES \
    "\\t-\\r\\x{20}\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"
/* PCRE2's \w lacks marks before 10.43, and has other numbers (No), which Oniguruma's lacks. */
#define WORDS                                                                                        \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}" \
    "\\x{1F170}-\\x{1F189}"
/* Outside of a class Oniguruma's \w has these six numbers as well. */
#define WORDS_ALONE "\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}"
#define HEX_DIGITS "0-9A-Fa-f"

/* What `\letter` stands for in a class, or NULL where PCRE2 means the same by it. */
static const char *members_of(char letter) {
    switch (letter) {
    case 's':
    case 'S': return SPACES;
    case 'w':
    case 'W': return WORDS;
    case 'h':
    case 'H': return HEX_DIGITS;
    default: return NULL;
    }
}

/* What [:name:] stands for, likewise. */
static const char *members_of_posix(const char *name, size_t length) {
    static const char *const named[][2] = {
        {"[:space:]", SPACES},
        {"[:word:]", WORDS},
        {"[:punct:]", "\\p{P}\\p{S}"},
#if PCRE2_MAJOR > 10 || PCRE2_MINOR >= 40
        {"[:alpha:]", "\\p{Alphabetic}"},
        {"[:alnum:]", "\\p{Alphabetic}\\p{Nd}"},
#endif
    };
    for (size_t i = 0; i < sizeof named / sizeof *named; i++)
        if (strlen(named[i][0]) == length && memcmp(named[i][0], name, length) == 0) return named[i][1];
    return NULL;
}

static bool is_negated(char letter) {
    return letter == 'S' || letter == 'W' || letter == 'H';
}

/* Whether PCRE2 knows `name` as a script; before 10.40 it does not know the prefix, nor need it. */
static bool is_script(const char *name, size_t length) {
    char pattern[64];
    int error;
    PCRE2_SIZE offset;
    snprintf(pattern, sizeof pattern, "\\p{sc:%.*s}", (int)(length < 40 ? length : 40), name);
    pcre2_code *code =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &error, &offset, NULL);
    pcre2_code_free(code);
    return code != NULL;
}

/*
 * Appends the escape at `regex` if it means the same in a class and outside of one, and returns its length. A
 * script by itself means its own characters; by PCRE2's default also those that it shares with others.
 */
static size_t copy_escape(spi_buf *out, const char *regex, size_t length) {
    const char *close = length > 3 && (regex[1] == 'p' || regex[1] == 'P') && regex[2] == '{'
                            ? memchr(regex, '}', length)
                            : NULL;
    if (!close) {
        const size_t taken = length < 2 ? length : 2;
        spi_buf_append(out, regex, taken);
        return taken;
    }
    const size_t taken = (size_t)(close + 1 - regex);
    const bool script = is_script(regex + 3, taken - 4);
    spi_buf_printf(out, "\\%c{%s", regex[1], script ? "sc:" : "");
    spi_buf_append(out, regex + 3, taken - 3);
    return taken;
}

/* A class's members, and the alternatives to it: PCRE2 has no negated set of several in a class. */
typedef struct class {
    spi_buf members, alternatives;
} class;

/* Adds the member at `regex` and returns its length; 0 where it is a class itself. */
static size_t take_member(class *c, const char *regex, size_t length) {
    const char *expanded = regex[0] == '\\' && length > 1 ? members_of(regex[1]) : NULL;
    if (expanded && is_negated(regex[1])) {
        spi_buf_printf(&c->alternatives, "%s[^%s]", c->alternatives.length ? "|" : "", expanded);
        return 2;
    }
    if (expanded) {
        spi_buf_puts(&c->members, expanded);
        return 2;
    }
    if (regex[0] == '\\') return copy_escape(&c->members, regex, length);
    if (length > 1 && regex[0] == '&' && regex[1] == '&') return 0;
    size_t taken = 1;
    if (regex[0] == '[') { /* [:alpha:] or a nested class */
        const char *close = length > 1 && regex[1] == ':' ? memmem(regex, length, ":]", 2) : NULL;
        if (!close) return 0;
        taken = (size_t)(close + 2 - regex);
        expanded = members_of_posix(regex, taken);
    }
    if (expanded) spi_buf_puts(&c->members, expanded);
    else spi_buf_append(&c->members, regex, taken);
    return taken;
}

/* [a\S] becomes (?:[a]|[^ ]), and [^a\S] becomes (?:(?![a]|[^ ])(?s:.)). */
static void write_class(spi_buf *out, const class *c, bool negated) {
    const char *members = c->members.data ? c->members.data : "";
    if (!c->alternatives.length) {
        spi_buf_printf(out, "[%s%s]", negated ? "^" : "", members);
        return;
    }
    spi_buf_puts(out, negated ? "(?:(?!" : "(?:");
    if (c->members.length) spi_buf_printf(out, "[%s]|", members);
    spi_buf_puts(out, c->alternatives.data);
    spi_buf_puts(out, negated ? ")(?s:.))" : ")");
}

/* The class at `regex`, whose length comes back; 0 where it cannot be translated. */
static size_t translate_class(spi_buf *out, const char *regex, size_t length) {
    class c = {{0}, {0}};
    const bool negated = length > 1 && regex[1] == '^';
    const size_t start = negated ? 2 : 1;
    size_t at = start;
    size_t taken = 1;
    /* A ']' that comes first is a member. */
    for (; taken && at < length && (at == start || regex[at] != ']'); at += taken)
        taken = take_member(&c, regex + at, length - at);
    if (at < length) write_class(out, &c, negated);
    else spi_buf_append(out, regex, at = length); /* it has no end: PCRE2 will say so */
    out->failed |= c.members.failed || c.alternatives.failed;
    spi_buf_free(&c.members);
    spi_buf_free(&c.alternatives);
    return taken ? at + (at < length) : 0;
}

bool spi_regex_translate(spi_buf *out, const char *regex, size_t length) {
    for (size_t at = 0, taken; at < length; at += taken) {
        const char *members = regex[at] == '\\' && at + 1 < length ? members_of(regex[at + 1]) : NULL;
        taken = 1;
        if (members) {
            const bool word = regex[at + 1] == 'w' || regex[at + 1] == 'W';
            spi_buf_printf(out, "[%s%s%s]", is_negated(regex[at + 1]) ? "^" : "", members,
                           word ? WORDS_ALONE : "");
            taken = 2;
        } else if (regex[at] == '\\') {
            taken = copy_escape(out, regex + at, length - at);
        } else if (regex[at] == '[') {
            taken = translate_class(out, regex + at, length - at);
            if (!taken) return false;
        } else {
            spi_buf_putc(out, regex[at]);
        }
    }
    return true;
}
