/* Chat templates as other modules see them: messages as JSON values, and which bytes assistants said. */
#ifndef SPI_TEXT_CHAT_TEMPLATE_H
#define SPI_TEXT_CHAT_TEMPLATE_H

#include "text/jinja.h"

/* One rendering. */
typedef struct spi_chat {
    const json_t *messages;  /* an array of objects */
    const json_t *tools;     /* an array, or NULL */
    const json_t *variables; /* an object, or NULL */
    bool add_generation_prompt;
    const char *name; /* of the template, or NULL */
    int64_t now;      /* for strftime_now, seconds since 1970; 0: the clock */
} spi_chat;

/* Renders. Start *out with {0}, free it in every case. Errors as of sp_chat_render. */
sp_status spi_chat_render(const sp_chat_template *chat, const spi_chat *what, spi_jinja_output *out);

#endif
