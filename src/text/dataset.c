#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "text/conversation.h"
#include "text/label_set.h"
#include "text/records.h"

typedef struct example {
    size_t start, length, prompt_length;
    const char *prompt, *completion; /* in `texts`, or NULL */
    int32_t label;                   /* of classification; -1: none */
} example;

/* Examples lie end to end in `ids` and `mask`. */
struct sp_dataset {
    int32_t *ids;  /* [tokens] */
    uint8_t *mask; /* [tokens] */
    size_t tokens, token_capacity;
    example *examples; /* [count] */
    size_t count, example_capacity;
    int64_t label_tokens;
    spi_arena texts;
    spi_label_set labels;
};

/* Which columns a file's records are made of; the first record decides. */
typedef enum columns {
    COLUMNS_UNKNOWN = 0,
    COLUMNS_TEXT,
    COLUMNS_PAIR,
    COLUMNS_MESSAGES,
    COLUMNS_LABELLED
} columns;

typedef struct loader {
    sp_context *ctx;
    const sp_tokenizer *tok;
    const char *name; /* of the file */
    sp_dataset_options opts;
    sp_dataset *ds;
    int32_t eos; /* -1: close no example */
    columns columns;
    int64_t seen, cut, dropped; /* examples */
    spi_chat_source chat;       /* of records with messages */
} loader;

void sp_dataset_options_default(sp_dataset_options *opts) {
    *opts = (sp_dataset_options){
        .size = sizeof *opts,
        .format = SP_DATA_AUTO,
        .text_column = "text",
        .prompt_column = "prompt",
        .completion_column = "completion",
        .max_seq_length = 1024,
        .append_eos = true,
        .messages_column = "messages",
    };
}

/* ------------------------------------------------------------------ building */

/* Room for `extra` tokens and one more, so that the arrays are there even where an example is empty. */
static bool reserve_tokens(sp_dataset *ds, size_t extra) {
    const size_t need = ds->tokens + extra;
    if (need < ds->token_capacity) return true;
    size_t capacity = ds->token_capacity ? ds->token_capacity : 1024;
    while (capacity <= need) capacity *= 2;
    int32_t *ids = realloc(ds->ids, capacity * sizeof *ids);
    if (ids) ds->ids = ids;
    uint8_t *mask = realloc(ds->mask, capacity);
    if (mask) ds->mask = mask;
    if (!ids || !mask) return false;
    ds->token_capacity = capacity;
    return true;
}

static sp_status append_tokens(sp_context *ctx, sp_dataset *ds, const int32_t *ids, size_t count, bool learnt) {
    if (!reserve_tokens(ds, count)) {
        spi_fail_memory(ctx, count * (sizeof *ids + 1), "the tokens of a dataset");
        return SP_ERR_MEMORY;
    }
    if (count) memcpy(ds->ids + ds->tokens, ids, count * sizeof *ids);
    memset(ds->mask + ds->tokens, learnt, count);
    ds->tokens += count;
    return SP_OK;
}

/* Tokens to learn among those of an example; its first has no predecessor and is never one. */
static int64_t settle_mask(sp_dataset *ds, size_t start, size_t length) {
    int64_t labels = 0;
    ds->mask[start] = 0;
    for (size_t i = start; i < start + length; i++) labels += ds->mask[i] != 0;
    return labels;
}

static sp_status push_example(sp_context *ctx, sp_dataset *ds, const example *e) {
    if (!spi_grow((void **)&ds->examples, &ds->example_capacity, ds->count, sizeof *e))
        return spi_fail_memory(ctx, ds->count * sizeof *e, "the examples of a dataset");
    ds->examples[ds->count++] = *e;
    return SP_OK;
}

static bool is_full(const loader *l) {
    return l->opts.max_samples > 0 && l->ds->count >= (size_t)l->opts.max_samples;
}

/* Tokenizes one field and appends its ids; *count and *last, the last id or -1, tell what they were. */
static sp_status append_text(loader *l, int64_t line, const char *text, size_t length, bool special,
                             bool learnt, size_t *count, int32_t *last) {
    int32_t *ids = NULL;
    sp_status status = sp_tokenizer_encode(l->tok, text, length, special, &ids, count);
    if (status != SP_OK) return spi_fail_prefix(l->ctx, status, "%s: line %" PRId64, l->name, line);
    *last = *count ? ids[*count - 1] : -1;
    status = append_tokens(l->ctx, l->ds, ids, *count, learnt);
    sp_ids_free(ids);
    return status;
}

static sp_status append_eos(loader *l, int32_t last) {
    if (l->eos < 0 || last == l->eos) return SP_OK;
    return append_tokens(l->ctx, l->ds, &l->eos, 1, true);
}

/* ------------------------------------------------------------------ records */

static const spi_field *find_column(const spi_record *record, const char *name) {
    return name ? spi_record_find(record, name) : NULL;
}

/* "FILE: line N: expected WANTED, found the columns ..." */
static sp_status fail_columns(loader *l, const spi_record *record, const char *wanted) {
    spi_buf found = {0};
    for (size_t i = 0; i < record->count; i++)
        spi_buf_printf(&found, "%s\"%s\"", i ? ", " : "", record->fields[i].name);
    const sp_status status =
        spi_fail(l->ctx, SP_ERR_DATA, "%s: line %" PRId64 ": expected %s, found %s%s", l->name, record->line,
                 wanted, found.length ? "the columns " : "no columns", found.length ? found.data : "");
    spi_buf_free(&found);
    return status;
}

static sp_status choose_columns(loader *l, const spi_record *record) {
    const sp_dataset_options *o = &l->opts;
    if (o->label_column) {
        l->columns = COLUMNS_LABELLED; /* get_text and get_label say what is missing */
        return SP_OK;
    }
    if (find_column(record, o->prompt_column) && find_column(record, o->completion_column))
        l->columns = COLUMNS_PAIR;
    else if (find_column(record, o->messages_column)) l->columns = COLUMNS_MESSAGES;
    else if (find_column(record, o->text_column)) l->columns = COLUMNS_TEXT;
    if (l->columns != COLUMNS_UNKNOWN) return SP_OK;
    spi_buf wanted = {0};
    if (o->prompt_column && o->completion_column)
        spi_buf_printf(&wanted, "\"%s\" and \"%s\"", o->prompt_column, o->completion_column);
    if (o->text_column) spi_buf_printf(&wanted, "%s\"%s\"", wanted.length ? ", or " : "", o->text_column);
    if (o->messages_column)
        spi_buf_printf(&wanted, "%s\"%s\"", wanted.length ? ", or " : "", o->messages_column);
    const sp_status status = fail_columns(l, record, wanted.length ? wanted.data : "the name of a column");
    spi_buf_free(&wanted);
    return status;
}

/* The text in a column that the file's first record had. */
static sp_status get_text(loader *l, const spi_record *record, const char *column, const spi_field **out) {
    *out = find_column(record, column);
    if (!*out) {
        spi_buf wanted = {0};
        spi_buf_printf(&wanted, "\"%s\"", column);
        const sp_status status = fail_columns(l, record, wanted.length ? wanted.data : column);
        spi_buf_free(&wanted);
        return status;
    }
    if ((*out)->text) return SP_OK;
    return spi_fail(l->ctx, SP_ERR_DATA, "%s: line %" PRId64 ": \"%s\": expected a string, found %s", l->name,
                    record->line, column, (*out)->kind);
}

/* Cuts what was appended from `e->start` on to the longest length; takes it back if nothing in it is learnt. */
static sp_status finish_example(loader *l, example *e, const spi_field *prompt, const spi_field *answer) {
    sp_dataset *ds = l->ds;
    const size_t limit = (size_t)l->opts.max_seq_length;
    e->length = ds->tokens - e->start;
    l->seen++;
    if (e->length > limit) {
        e->length = limit;
        l->cut++;
    }
    const int64_t labels = settle_mask(ds, e->start, e->length);
    ds->tokens = e->start + (labels ? e->length : 0);
    if (!labels) {
        l->dropped++;
        return SP_OK;
    }
    ds->label_tokens += labels;
    if (prompt) {
        if (e->prompt_length > e->length) e->prompt_length = e->length;
        e->prompt = spi_arena_strndup(&ds->texts, prompt->text, prompt->length);
        e->completion = spi_arena_strndup(&ds->texts, answer->text, answer->length);
        if (!e->prompt || !e->completion)
            return spi_fail_memory(l->ctx, prompt->length + answer->length, "the texts of a dataset");
    }
    return push_example(l->ctx, ds, e);
}

/* ------------------------------------------------------------------ labelled texts */

/* The place of the record's label among those known so far. */
static sp_status get_label(loader *l, const spi_record *record, int32_t *out) {
    const char *column = l->opts.label_column;
    const spi_field *field = find_column(record, column);
    char number[24], where[512];
    if (!field) return get_text(l, record, column, &field);
    snprintf(number, sizeof number, "%" JSON_INTEGER_FORMAT, json_integer_value(field->json));
    const char *name = field->text ? field->text : number;
    if (!field->text && !json_is_integer(field->json))
        return spi_fail(l->ctx, SP_ERR_DATA,
                        "%s: line %" PRId64 ": \"%s\": expected a string or an integer, found %s", l->name,
                        record->line, column, field->kind);
    snprintf(where, sizeof where, "%s: line %" PRId64 ": \"%s\"", l->name, record->line, column);
    if (field->text && strlen(field->text) != field->length)
        return spi_fail(l->ctx, SP_ERR_DATA, "%s: expected a label, found one with a NUL character", where);
    return spi_label_set_find(l->ctx, &l->ds->labels, where, name, out);
}

/* A text with the tokenizer's special tokens, and its label, which is all that is learnt. */
static sp_status add_labelled(loader *l, const spi_record *record) {
    sp_dataset *ds = l->ds;
    const size_t limit = (size_t)l->opts.max_seq_length;
    example e = {.start = ds->tokens};
    const spi_field *text;
    size_t count;
    int32_t last;
    SPI_TRY(get_text(l, record, l->opts.text_column, &text));
    SPI_TRY(get_label(l, record, &e.label));
    SPI_TRY(append_text(l, record->line, text->text, text->length, true, false, &count, &last));
    l->seen++;
    l->cut += count > limit;
    l->dropped += count == 0;
    e.length = count < limit ? count : limit;
    ds->tokens = e.start + e.length;
    if (count == 0) return SP_OK;
    ds->label_tokens++;
    return push_example(l->ctx, ds, &e);
}

/* Numbers the labels when all have been seen. */
static sp_status settle_labels(loader *l) {
    sp_dataset *ds = l->ds;
    if (ds->labels.given) return SP_OK;
    int32_t *places = calloc(ds->labels.count + 1, sizeof *places);
    if (!places) return spi_fail_memory(l->ctx, ds->labels.count * sizeof *places, "label names");
    const sp_status status = spi_label_set_settle(l->ctx, &ds->labels, l->name, places);
    for (size_t i = 0; status == SP_OK && i < ds->count; i++)
        ds->examples[i].label = places[ds->examples[i].label];
    free(places);
    return status;
}

/* ------------------------------------------------------------------ messages */

/* One example of a conversation, an spi_conversation_fn. */
static sp_status add_turns(void *user, const spi_turns *turns) {
    loader *l = user;
    example e = {.start = l->ds->tokens, .prompt_length = turns->prompt_count, .label = -1};
    const spi_field prompt = {.text = turns->prompt, .length = turns->prompt_length};
    const spi_field answer = {.text = turns->answer, .length = turns->answer_length};
    if (is_full(l)) return SP_OK;
    SPI_TRY(append_tokens(l->ctx, l->ds, turns->ids, turns->count, true));
    if (!l->opts.train_on_prompt && turns->count) memcpy(l->ds->mask + e.start, turns->mask, turns->count);
    return finish_example(l, &e, turns->answer ? &prompt : NULL, &answer);
}

static sp_status add_messages(loader *l, const spi_record *record) {
    const char *column = l->opts.messages_column;
    const spi_field *messages = find_column(record, column);
    const spi_field *tools = find_column(record, "tools");
    if (!messages || !messages->json || !json_is_array(messages->json))
        return spi_fail(l->ctx, SP_ERR_DATA, "%s: line %" PRId64 ": \"%s\": expected an array, found %s",
                        l->name, record->line, column, messages ? messages->kind : "nothing");
    const json_t *given = tools && tools->json && !json_is_null(tools->json) ? tools->json : NULL;
    if (given && !json_is_array(given))
        return spi_fail(l->ctx, SP_ERR_DATA, "%s: line %" PRId64 ": \"tools\": expected an array, found %s",
                        l->name, record->line, tools->kind);
    const sp_status status = spi_conversation_read(&l->chat, messages->json, given, add_turns, l);
    return status == SP_OK ? SP_OK
                           : spi_fail_prefix(l->ctx, status, "%s: line %" PRId64, l->name, record->line);
}

/* ------------------------------------------------------------------ all records */

/* The prompt with the tokenizer's special tokens and the completion without; or the text alone, with them. */
static sp_status add_record(loader *l, const spi_record *record) {
    const sp_dataset_options *o = &l->opts;
    example e = {.start = l->ds->tokens, .label = -1};
    const spi_field *prompt = NULL;
    const spi_field *answer = NULL;
    size_t count;
    int32_t last = -1;
    if (l->columns == COLUMNS_LABELLED) return add_labelled(l, record);
    if (l->columns == COLUMNS_MESSAGES) return add_messages(l, record);
    if (l->columns == COLUMNS_PAIR) {
        SPI_TRY(get_text(l, record, o->prompt_column, &prompt));
        SPI_TRY(get_text(l, record, o->completion_column, &answer));
        SPI_TRY(append_text(l, record->line, prompt->text, prompt->length, true, o->train_on_prompt,
                            &e.prompt_length, &last));
    } else {
        SPI_TRY(get_text(l, record, o->text_column, &answer));
    }
    SPI_TRY(append_text(l, record->line, answer->text, answer->length, !prompt, true, &count, &last));
    SPI_TRY(append_eos(l, last));
    return finish_example(l, &e, prompt, answer);
}

static sp_status load_records(loader *l, const char *path, sp_data_format format) {
    spi_records *records;
    SPI_TRY(spi_records_open(l->ctx, path, format, &records));
    sp_status status = SP_OK;
    while (status == SP_OK && !is_full(l)) {
        spi_record record;
        bool more;
        status = spi_records_next(records, &record, &more);
        if (status != SP_OK || !more) break;
        if (l->columns == COLUMNS_UNKNOWN) status = choose_columns(l, &record);
        if (status == SP_OK && l->columns == COLUMNS_MESSAGES && !l->chat.chat)
            status = spi_chat_source_open(l->ctx, l->tok, &l->opts, &l->chat);
        if (status == SP_OK) status = add_record(l, &record);
    }
    spi_chat_source_close(&l->chat);
    spi_records_close(records);
    return status;
}

/* ------------------------------------------------------------------ plain text */

/* Appends the document's ids, closed by the EOS. */
static sp_status append_document(loader *l, const char *path) {
    static const char bom[] = "\xEF\xBB\xBF";
    spi_buf text = {0};
    sp_status status = spi_file_read(l->ctx, path, &text);
    size_t skip = text.length >= 3 && memcmp(text.data, bom, 3) == 0 ? 3 : 0;
    size_t count;
    int32_t last = -1;
    if (status == SP_OK && text.length == skip)
        status = spi_fail(l->ctx, SP_ERR_DATA, "%s: the file is empty", l->name);
    if (status == SP_OK)
        status = append_text(l, 1, text.data + skip, text.length - skip, true, true, &count, &last);
    spi_buf_free(&text);
    return status == SP_OK ? append_eos(l, last) : status;
}

/* Cuts the document into examples where it lies. A single token left over has nothing to be learnt from. */
static sp_status load_document(loader *l, const char *path) {
    SPI_TRY(append_document(l, path));
    sp_dataset *ds = l->ds;
    const size_t block = (size_t)l->opts.max_seq_length;
    const size_t total = ds->tokens;
    l->seen = 1;
    ds->tokens = 0;
    while (total - ds->tokens >= 2 && !is_full(l)) {
        const size_t left = total - ds->tokens;
        const example e = {.start = ds->tokens, .length = left < block ? left : block, .label = -1};
        ds->label_tokens += settle_mask(ds, e.start, e.length);
        SPI_TRY(push_example(l->ctx, ds, &e));
        ds->tokens += e.length;
    }
    return SP_OK;
}

/* ------------------------------------------------------------------ loading */

static sp_status take_options(sp_context *ctx, const sp_dataset_options *given, sp_dataset_options *out) {
    sp_dataset_options_default(out);
    if (given && given->size < sizeof given->size)
        return spi_fail(ctx, SP_ERR_ARGUMENT, "dataset options: not filled by sp_dataset_options_default");
    if (given) memcpy(out, given, given->size < sizeof *out ? given->size : sizeof *out);
    if (out->max_seq_length < 2)
        return spi_fail(ctx, SP_ERR_ARGUMENT, "max_seq_length: expected at least 2, found %" PRId32,
                        out->max_seq_length);
    if ((unsigned)out->format > SP_DATA_TEXT)
        return spi_fail(ctx, SP_ERR_ARGUMENT, "dataset options: no such format: %d", (int)out->format);
    return SP_OK;
}

/* Says what was cut and left out; fails where nothing is left to learn. */
static sp_status conclude(loader *l) {
    const int32_t limit = l->opts.max_seq_length;
    if (l->seen == 0) return spi_fail(l->ctx, SP_ERR_DATA, "%s: no examples", l->name);
    if (l->ds->count == 0)
        return spi_fail(l->ctx, SP_ERR_DATA,
                        "%s: no token to learn in any of %" PRId64 " examples (%" PRId64
                        " were cut at max_seq_length = %" PRId32 ")",
                        l->name, l->seen, l->cut, limit);
    if (l->cut || l->dropped)
        spi_log(l->ctx, SP_LOG_WARNING,
                "%s: of %" PRId64 " examples %" PRId64 " were cut at max_seq_length = %" PRId32 " and %" PRId64
                " left out, having no token to learn",
                l->name, l->seen, l->cut, limit, l->dropped);
    return SP_OK;
}

static sp_status load(loader *l, const char *path) {
    if (l->opts.append_eos && !l->opts.label_column) {
        l->eos = sp_tokenizer_eos_id(l->tok);
        if (l->eos < 0)
            spi_log(l->ctx, SP_LOG_WARNING, "%s: the tokenizer names no EOS token to close the examples with",
                    l->name);
    }
    const sp_data_format format = l->opts.format == SP_DATA_AUTO ? spi_data_format(path) : l->opts.format;
    const bool labelled = l->opts.label_column != NULL;
    if (labelled && format == SP_DATA_TEXT)
        return spi_fail(l->ctx, SP_ERR_DATA,
                        "%s: plain text has no column of labels: expected JSONL, CSV or TSV", l->name);
    if (labelled && l->opts.labels)
        SPI_TRY(spi_label_set_give(l->ctx, &l->ds->labels, l->opts.labels, l->opts.label_count));
    if (format == SP_DATA_TEXT) SPI_TRY(load_document(l, path));
    else SPI_TRY(load_records(l, path, format));
    SPI_TRY(conclude(l));
    return labelled ? settle_labels(l) : SP_OK;
}

sp_status sp_dataset_load(sp_context *ctx, const sp_tokenizer *tok, const char *path,
                          const sp_dataset_options *opts, sp_dataset **out) {
    *out = NULL;
    const char *name = strcmp(path, "-") == 0 ? "standard input" : path;
    loader l = {.ctx = ctx, .tok = tok, .name = name, .eos = -1};
    SPI_TRY(take_options(ctx, opts, &l.opts));
    l.ds = calloc(1, sizeof *l.ds);
    if (!l.ds) return spi_fail_memory(ctx, sizeof *l.ds, "a dataset");
    const sp_status status = load(&l, path);
    if (status == SP_OK) *out = l.ds;
    else sp_dataset_free(l.ds);
    return status;
}

static sp_status add_ids(sp_context *ctx, sp_dataset *ds, const int32_t *ids, const uint8_t *mask, int64_t from,
                         int64_t to) {
    if (from < 0 || to <= from)
        return spi_fail(ctx, SP_ERR_ARGUMENT, "example %zu: begins at %" PRId64 " and ends at %" PRId64,
                        ds->count, from, to);
    const example e = {.start = ds->tokens, .length = (size_t)(to - from), .label = -1};
    SPI_TRY(append_tokens(ctx, ds, ids + from, e.length, true));
    if (mask) memcpy(ds->mask + e.start, mask + from, e.length);
    for (size_t i = 0; i < e.length; i++)
        if (ids[from + (int64_t)i] < 0)
            return spi_fail(ctx, SP_ERR_ARGUMENT, "example %zu: id %zu is negative: %" PRId32, ds->count, i,
                            ids[from + (int64_t)i]);
    ds->label_tokens += settle_mask(ds, e.start, e.length);
    return push_example(ctx, ds, &e);
}

sp_status sp_dataset_from_ids(sp_context *ctx, const int32_t *ids, const uint8_t *mask, const int64_t *starts,
                              int64_t count, sp_dataset **out) {
    *out = NULL;
    sp_dataset *ds = calloc(1, sizeof *ds);
    if (!ds) return spi_fail_memory(ctx, sizeof *ds, "a dataset");
    sp_status status = SP_OK;
    for (int64_t i = 0; status == SP_OK && i < count; i++)
        status = add_ids(ctx, ds, ids, mask, starts[i], starts[i + 1]);
    if (status == SP_OK && ds->label_tokens == 0)
        status = spi_fail(ctx, SP_ERR_DATA, "no token to learn in any of %" PRId64 " examples", count);
    if (status == SP_OK) *out = ds;
    else sp_dataset_free(ds);
    return status;
}

void sp_dataset_free(sp_dataset *ds) {
    if (!ds) return;
    free(ds->ids);
    free(ds->mask);
    free(ds->examples);
    spi_arena_free(&ds->texts);
    spi_label_set_free(&ds->labels);
    free(ds);
}

/* ------------------------------------------------------------------ reading */

int64_t sp_dataset_count(const sp_dataset *ds) {
    return (int64_t)ds->count;
}

int64_t sp_dataset_tokens(const sp_dataset *ds) {
    return (int64_t)ds->tokens;
}

int64_t sp_dataset_label_tokens(const sp_dataset *ds) {
    return ds->label_tokens;
}

int32_t sp_dataset_label_count(const sp_dataset *ds) {
    return (int32_t)ds->labels.count;
}

const char *sp_dataset_label(const sp_dataset *ds, int32_t index) {
    return index >= 0 && (size_t)index < ds->labels.count ? ds->labels.names[index] : NULL;
}

void sp_dataset_get(const sp_dataset *ds, int64_t index, sp_example *out) {
    const example *e = &ds->examples[index];
    *out = (sp_example){
        .ids = ds->ids + e->start,
        .mask = ds->mask + e->start,
        .length = (int64_t)e->length,
        .prompt_length = (int64_t)e->prompt_length,
        .prompt = e->prompt,
        .completion = e->completion,
        .label = e->label,
    };
}
