/*
 * Conversations as examples to learn from: which tokens of a rendered conversation are an assistant's.
 *
 * For the answer messages[i] let A be the text of the messages before it with the generation prompt, B the text
 * up to and with it. Where B begins with A, and the text of the whole conversation with B, for every answer,
 * all of it is one example and bytes [|A|, |B|) are learnt. Else (templates that leave the reasoning of earlier
 * answers out) there is one example for each answer: A as the prompt and the rest of B, which is what the model
 * sees when it is asked. Where B does not begin with A itself, what both have in common is the prompt. Spans of
 * templates with
 * {% generation %} blocks come from those.
 */
#ifndef SPI_TEXT_CONVERSATION_H
#define SPI_TEXT_CONVERSATION_H

#include "text/chat_template.h"

typedef struct spi_chat_source {
    sp_context *ctx;
    const sp_tokenizer *tok;
    sp_chat_template *chat;
    json_t *variables; /* or NULL */
} spi_chat_source;

/* The template and variables of the options. Close it in every case. */
sp_status spi_chat_source_open(sp_context *ctx, const sp_tokenizer *tok, const sp_dataset_options *opts,
                               spi_chat_source *out);
void spi_chat_source_close(spi_chat_source *source);

/* One example. Everything lives only during the call that hands it over. */
typedef struct spi_turns {
    const int32_t *ids;  /* [count] */
    const uint8_t *mask; /* [count], nonzero: an assistant's */
    size_t count;
    size_t prompt_count; /* ids before the last answer */
    const char *prompt;  /* their text; of no conversation without an answer */
    size_t prompt_length;
    const char *answer; /* the last answer, without special tokens; NULL: there is none */
    size_t answer_length;
} spi_turns;

typedef sp_status (*spi_conversation_fn)(void *user, const spi_turns *turns);

/*
 * Hands over the examples of a conversation. `tools` may be NULL.
 *
 * The whole text is encoded at once, as apply_chat_template does. A span begins at a token: its byte is found
 * by encoding the text before it, whose ids must be the first ones of the whole. Where a token reaches over the
 * boundary, the pieces between the boundaries are encoded each by itself, since a model that is asked starts
 * from the ids of the prompt alone.
 */
sp_status spi_conversation_read(const spi_chat_source *source, const json_t *messages, const json_t *tools,
                                spi_conversation_fn fn, void *user);

#endif
