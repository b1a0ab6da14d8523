/*
 * Jinja templates as Transformers sets jinja2 up for chats: ImmutableSandboxedEnvironment(trim_blocks=True,
 * lstrip_blocks=True) with loop controls, {% generation %}, raise_exception, strftime_now, and its own tojson.
 * What a template uses and this interpreter lacks is an error with the file, the line and the token.
 */
#ifndef SPI_TEXT_JINJA_H
#define SPI_TEXT_JINJA_H

#include "base/json.h"

typedef struct spi_jinja_template spi_jinja_template;

/*
 * Parses `length` bytes of template; `name` stands for its file in messages. SP_ERR_FORMAT for syntax errors,
 * SP_ERR_UNSUPPORTED for statements, filters and tests that are not there.
 */
sp_status spi_jinja_parse(sp_context *ctx, const char *name, const char *text, size_t length,
                          spi_jinja_template **out);
void spi_jinja_free(spi_jinja_template *t);

/* Bytes [start, end) of a rendered text. */
typedef struct spi_span {
    size_t start, end;
} spi_span;

typedef struct spi_jinja_output {
    spi_buf text;
    spi_span *spans; /* [span_count] of {% generation %} blocks */
    size_t span_count, span_capacity;
} spi_jinja_output;

/*
 * Renders with the members of the objects `variables` [count] (a later one wins) as variables. `now` is what
 * strftime_now tells, seconds since 1970; negative: the clock. Start *out with {0}, free it in every case.
 * SP_ERR_DATA where the template itself fails (raise_exception, an undefined value used); SP_ERR_UNSUPPORTED at
 * a limit: 1500 levels, 50 million steps, 256 MiB of values, 64 MiB of text.
 */
sp_status spi_jinja_render(const spi_jinja_template *t, const json_t *const *variables, size_t count,
                           int64_t now, spi_jinja_output *out);
void spi_jinja_output_free(spi_jinja_output *out);

#endif
