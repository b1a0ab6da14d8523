#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "text/bpe_train.h"
#include "text/normalizer.h"
#include "text/pretokenizer.h"
#include "text/utf8.h"

/* Qwen's pre-tokenizer pattern. */
#define PATTERN                                                                                         \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" \
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

void sp_bpe_options_default(sp_bpe_options *opts) {
    *opts = (sp_bpe_options){.size = sizeof *opts, .vocab_size = 4096};
}

/* ------------------------------------------------------------------ reading */

typedef struct trainer {
    sp_context *ctx;
    spi_normalizer *normalizer;
    spi_pretokenizer *pretokenizer;
    spi_words words;
    spi_learnt learnt;
    size_t special_count; /* the first ids */
} trainer;

static sp_status count_word(void *user, const spi_piece *piece) {
    trainer *t = user;
    if (spi_words_add(&t->words, piece->text, piece->length)) return SP_OK;
    return spi_fail_memory(t->ctx, piece->length, "the words of a text");
}

static sp_status count_text(trainer *t, const char *text, size_t length) {
    bool cut;
    SPI_TRY(spi_normalize(t->ctx, t->normalizer, &text, &length, &cut));
    const spi_piece piece = {text, length, true};
    return length ? spi_pretokenize(t->ctx, t->pretokenizer, &piece, count_word, t) : SP_OK;
}

static sp_status count_file(trainer *t, const char *path) {
    spi_buf text = {0};
    spi_buf repaired = {0};
    sp_status status = spi_file_read(t->ctx, path, &text);
    const bool valid = spi_utf8_valid(text.data, text.length) == text.length;
    if (status == SP_OK && !valid) {
        spi_utf8_repair(&repaired, text.data, text.length);
        if (repaired.failed) status = spi_fail_memory(t->ctx, text.length, path);
    }
    const spi_buf *whole = valid ? &text : &repaired;
    if (status == SP_OK) {
        status = count_text(t, whole->data, whole->length);
        if (status != SP_OK) spi_fail_prefix(t->ctx, status, "%s", path);
    }
    spi_buf_free(&text);
    spi_buf_free(&repaired);
    return status;
}

/* ------------------------------------------------------------------ tokenizer.json */

static json_t *byte_level(bool option) {
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", option, "trim_offsets",
                     option, "use_regex", option);
}

/*
 * Everything but added tokens, vocabulary and merges: what training itself uses, too. A decoder's options mean
 * nothing; these are the ones that the Python package writes.
 */
static json_t *make_skeleton(void) {
    json_t *split = json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex", PATTERN,
                              "behavior", "Isolated", "invert", 0);
    json_t *pretokenizer =
        json_pack("{s:s, s:[o, o]}", "type", "Sequence", "pretokenizers", split, byte_level(false));
    json_t *model = json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b}", "type", "BPE", "dropout", "unk_token",
                              "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0, "byte_fallback",
                              0, "ignore_merges", 0);
    return json_pack("{s:s, s:n, s:n, s:[], s:{s:s}, s:o, s:o, s:o, s:o}", "version", "1.0", "truncation",
                     "padding", "added_tokens", "normalizer", "type", "NFC", "pre_tokenizer", pretokenizer,
                     "post_processor", byte_level(false), "decoder", byte_level(true), "model", model);
}

static json_t *token_json(const spi_vocab *vocab, int32_t id) {
    const spi_token *t = &vocab->tokens[id];
    return json_stringn(vocab->texts.data + t->start, t->length);
}

static bool fill_added_tokens(const trainer *t, json_t *list) {
    for (size_t i = 0; i < t->special_count; i++) {
        json_t *token = json_pack("{s:i, s:o, s:b, s:b, s:b, s:b, s:b}", "id", (int)i, "content",
                                  token_json(&t->learnt.vocab, (int32_t)i), "single_word", 0, "lstrip", 0,
                                  "rstrip", 0, "normalized", 0, "special", 1);
        if (json_array_append_new(list, token) != 0) return false;
    }
    return true;
}

static bool fill_model(const spi_learnt *l, json_t *model) {
    json_t *vocab = json_object();
    json_t *merges = json_array();
    if (json_object_set_new(model, "vocab", vocab) != 0 || json_object_set_new(model, "merges", merges) != 0)
        return false;
    for (size_t i = 0; i < l->vocab.count; i++) {
        const char *text = l->vocab.texts.data + l->vocab.tokens[i].start;
        if (json_object_set_new(vocab, text, json_integer((json_int_t)i)) != 0) return false;
    }
    for (size_t i = 0; i < l->merge_count; i++) {
        json_t *merge = json_pack("[o, o]", token_json(&l->vocab, l->merges[i].left),
                                  token_json(&l->vocab, l->merges[i].right));
        if (json_array_append_new(merges, merge) != 0) return false;
    }
    return true;
}

/* The text that tokenizers' save() writes. */
static sp_status write_tokenizer(trainer *t, const char *path, json_t *json) {
    char *text = NULL;
    if (fill_added_tokens(t, json_object_get(json, "added_tokens")) &&
        fill_model(&t->learnt, json_object_get(json, "model")))
        text = json_dumps(json, JSON_INDENT(2));
    if (!text) return spi_fail_memory(t->ctx, t->learnt.vocab.texts.length, path);
    const sp_status status = spi_file_write(t->ctx, path, text, strlen(text));
    free(text);
    return status;
}

/* The first special token ends and pads; the others are the template's own. */
static sp_status write_config(trainer *t, const char *path) {
    json_t *others = json_array();
    for (size_t i = 1; i < t->special_count; i++)
        json_array_append_new(others, token_json(&t->learnt.vocab, (int32_t)i));
    json_t *config =
        json_pack("{s:b, s:o, s:n, s:b, s:o, s:o, s:s, s:n}", "add_prefix_space", 0,
                  "additional_special_tokens", others, "bos_token", "clean_up_tokenization_spaces", 0,
                  "eos_token", token_json(&t->learnt.vocab, 0), "pad_token", token_json(&t->learnt.vocab, 0),
                  "tokenizer_class", "PreTrainedTokenizerFast", "unk_token");
    if (!config) return spi_fail_memory(t->ctx, t->special_count, path);
    const sp_status status = spi_json_save(t->ctx, path, config);
    json_decref(config);
    return status;
}

static sp_status write_files(trainer *t, const char *dir, json_t *json) {
    SPI_TRY(spi_make_dirs(t->ctx, dir));
    spi_arena arena = {0};
    const char *tokenizer = spi_path_join(&arena, dir, "tokenizer.json");
    const char *config = spi_path_join(&arena, dir, "tokenizer_config.json");
    sp_status status = tokenizer && config ? write_tokenizer(t, tokenizer, json)
                                           : spi_fail_memory(t->ctx, strlen(dir), "a path");
    if (status == SP_OK) status = write_config(t, config);
    spi_arena_free(&arena);
    return status;
}

/* ------------------------------------------------------------------ options */

static sp_status take_specials(trainer *t, const char *const *tokens) {
    static const char *const standard[] = {"<|endoftext|>", NULL};
    spi_vocab *vocab = &t->learnt.vocab;
    for (const char *const *token = tokens ? tokens : standard; *token; token++) {
        const size_t length = strlen(*token);
        if (!length || spi_utf8_valid(*token, length) != length)
            return spi_fail(t->ctx, SP_ERR_ARGUMENT, "special_tokens: expected text in UTF-8, found \"%s\"",
                            *token);
        if (spi_vocab_find(vocab, *token, length) >= 0) continue;
        if (!spi_vocab_add(vocab, *token, length, (int32_t)vocab->count))
            return spi_fail_memory(t->ctx, length, "the special tokens");
    }
    t->special_count = vocab->count;
    if (t->special_count) return SP_OK;
    return spi_fail(t->ctx, SP_ERR_ARGUMENT, "special_tokens: expected at least one, for the end of a text");
}

static sp_status take_options(trainer *t, const sp_bpe_options *given, sp_bpe_options *out) {
    sp_bpe_options_default(out);
    if (given && given->size < sizeof given->size)
        return spi_fail(t->ctx, SP_ERR_ARGUMENT, "BPE options: not filled by sp_bpe_options_default");
    if (given) memcpy(out, given, given->size < sizeof *out ? given->size : sizeof *out);
    SPI_TRY(take_specials(t, out->special_tokens));
    const int64_t smallest = (int64_t)t->special_count + 256;
    if (out->vocab_size < smallest || out->vocab_size > SPI_VOCAB_LIMIT)
        return spi_fail(t->ctx, SP_ERR_ARGUMENT,
                        "vocab_size: expected %" PRId64 " (%zu special tokens and 256 bytes) to %" PRId32
                        ", found %" PRId32,
                        smallest, t->special_count, SPI_VOCAB_LIMIT, out->vocab_size);
    return SP_OK;
}

/* ------------------------------------------------------------------ training */

static sp_status learn(trainer *t, const char *const *files, size_t count, int32_t vocab_size,
                       const json_t *json) {
    SPI_TRY(spi_normalizer_create(t->ctx, "tokenizer.json", json, &t->normalizer));
    SPI_TRY(spi_pretokenizer_create(t->ctx, "tokenizer.json", json, true, &t->pretokenizer));
    for (size_t i = 0; i < count; i++) SPI_TRY(count_file(t, files[i]));
    if (!t->words.texts.count)
        return spi_fail(t->ctx, SP_ERR_DATA, "%s: no text to learn a tokenizer from",
                        count ? files[0] : "no files");
    SPI_TRY(spi_bpe_train(t->ctx, &t->words, (size_t)vocab_size, &t->learnt));
    if (t->learnt.vocab.count < (size_t)vocab_size)
        spi_log(t->ctx, SP_LOG_WARNING, "the text gives no more than %zu tokens, not %" PRId32,
                t->learnt.vocab.count, vocab_size);
    return SP_OK;
}

sp_status sp_tokenizer_train_bpe(sp_context *ctx, const char *const *files, size_t count,
                                 const sp_bpe_options *opts, const char *output_dir) {
    trainer t = {.ctx = ctx};
    sp_bpe_options o;
    sp_status status = take_options(&t, opts, &o);
    json_t *json = make_skeleton();
    if (status == SP_OK && !json) status = spi_fail_memory(ctx, sizeof PATTERN, "a tokenizer.json");
    if (status == SP_OK) status = learn(&t, files, count, o.vocab_size, json);
    if (status == SP_OK) status = write_files(&t, output_dir, json);
    json_decref(json);
    spi_normalizer_free(t.normalizer);
    spi_pretokenizer_free(t.pretokenizer);
    spi_words_free(&t.words);
    spi_learnt_free(&t.learnt);
    return status;
}
