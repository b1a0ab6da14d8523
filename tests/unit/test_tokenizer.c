/*
 * Tokenizers: ids and texts that Hugging Face `tokenizers` gives (tests/data/tokenizer, made by
 * tests/fixtures/make_tokenizers.py), training, and broken files.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "scratch.h"

#define DATA TEST_DATA "/tokenizer"

static sp_tokenizer *load(scratch *s, const char *path) {
    sp_tokenizer *tok;
    if (sp_tokenizer_load(s->ctx, path, &tok) != SP_OK) fail_msg("%s", sp_last_error(s->ctx));
    return tok;
}

static json_t *read_array(scratch *s, const char *path) {
    spi_buf text = {0};
    json_t *value;
    if (spi_file_read(s->ctx, path, &text) != SP_OK ||
        spi_json_parse(s->ctx, path, text.data, text.length, &value) != SP_OK)
        fail_msg("%s", sp_last_error(s->ctx));
    spi_buf_free(&text);
    assert_true(json_is_array(value));
    return value;
}

/* ------------------------------------------------------------------ against the Python package */

static void check_ids(const char *name, size_t index, const int32_t *ids, size_t count,
                      const json_t *expected) {
    if (count != json_array_size(expected))
        fail_msg("%s, text %zu: %zu ids, expected %zu", name, index, count, json_array_size(expected));
    for (size_t i = 0; i < count; i++)
        if (ids[i] != json_integer_value(json_array_get(expected, i)))
            fail_msg("%s, text %zu: id %zu is %d, expected %d", name, index, i, (int)ids[i],
                     (int)json_integer_value(json_array_get(expected, i)));
}

static void check_encode(const char *name, size_t index, const sp_tokenizer *tok, const spi_buf *text,
                         bool special, const json_t *expected) {
    int32_t *ids;
    size_t count;
    assert_int_equal(sp_tokenizer_encode(tok, text->data, text->length, special, &ids, &count), SP_OK);
    check_ids(name, index, ids, count, expected);
    sp_ids_free(ids);
}

static void check_decode(const char *name, size_t index, const sp_tokenizer *tok, const json_t *ids,
                         size_t from, size_t to, bool skip, const json_t *expected) {
    int32_t some[4096];
    size_t count = 0;
    assert_in_range(json_array_size(ids), 0, 4096);
    for (size_t i = from; i < to && i < json_array_size(ids); i++)
        some[count++] = (int32_t)json_integer_value(json_array_get(ids, i));
    char *text;
    size_t length;
    assert_int_equal(sp_tokenizer_decode(tok, some, count, skip, &text, &length), SP_OK);
    assert_int_equal(text[length], 0);
    if (length != json_string_length(expected) || memcmp(text, json_string_value(expected), length) != 0)
        fail_msg("%s, text %zu, ids %zu to %zu: decoded \"%s\", expected \"%s\"", name, index, from, to, text,
                 json_string_value(expected));
    sp_string_free(text);
}

static void check_text(const char *name, size_t index, const sp_tokenizer *tok, const spi_buf *text,
                       const json_t *expected) {
    const json_t *ids = json_object_get(expected, "ids");
    const json_t *plain = json_object_get(expected, "plain");
    const json_t *whole = json_object_get(expected, "text");
    const json_t *skipped = json_object_get(expected, "skipped");
    check_encode(name, index, tok, text, true, ids);
    check_encode(name, index, tok, text, false, plain ? plain : ids);
    check_decode(name, index, tok, ids, 0, SIZE_MAX, false, whole);
    check_decode(name, index, tok, ids, 0, SIZE_MAX, true, skipped ? skipped : whole);
    check_decode(name, index, tok, ids, 1, 4, false, json_object_get(expected, "part"));
}

static void append_hex(spi_buf *out, const char *hex) {
    spi_buf_append(out, "", 0);
    for (; *hex; hex += 2) {
        unsigned byte;
        assert_int_equal(sscanf(hex, "%2x", &byte), 1);
        spi_buf_putc(out, (char)byte);
    }
}

static void check_tokenizer(scratch *s, const char *name) {
    char path[512];
    json_t *texts = read_array(s, DATA "/texts.json");
    snprintf(path, sizeof path, DATA "/%s/expected.json", name);
    json_t *expected = read_array(s, path);
    snprintf(path, sizeof path, DATA "/%s", name);
    sp_tokenizer *tok = load(s, path);
    assert_true(json_array_size(texts) > 20);
    assert_int_equal(json_array_size(texts), json_array_size(expected));
    for (size_t i = 0; i < json_array_size(texts); i++) {
        spi_buf text = {0};
        append_hex(&text, json_string_value(json_array_get(texts, i)));
        check_text(name, i, tok, &text, json_array_get(expected, i));
        check_text(name, i, tok, &text,
                   json_array_get(expected, i)); /* now with what the first time has cached */
        spi_buf_free(&text);
    }
    sp_tokenizer_free(tok);
    json_decref(texts);
    json_decref(expected);
}

#define CHECKS(name)                        \
    static void test_##name(void **state) { \
        check_tokenizer(*state, #name);     \
    }
CHECKS(gpt2)
CHECKS(roberta)
CHECKS(qwen)
CHECKS(llama3)
CHECKS(llama2)
CHECKS(mistral)
CHECKS(metaspace)
CHECKS(gemma)
CHECKS(words)
CHECKS(splits)

/* ------------------------------------------------------------------ looking up */

static void test_lookup(void **state) {
    scratch *s = *state;
    sp_tokenizer *tok = load(s, DATA "/qwen/tokenizer.json");
    assert_int_equal(sp_tokenizer_vocab_size(tok), 364);
    assert_int_equal(sp_tokenizer_token_id(tok, "<|im_end|>"), 361);
    assert_int_equal(sp_tokenizer_eos_id(tok), 361);
    assert_int_equal(sp_tokenizer_pad_id(tok), 360);
    assert_int_equal(sp_tokenizer_bos_id(tok), -1);
    assert_string_equal(sp_tokenizer_token(tok, 362), "<think>");
    assert_string_equal(sp_tokenizer_token(tok, 0), "!");
    assert_int_equal(sp_tokenizer_token_id(tok, "!"), 0);
    assert_null(sp_tokenizer_token(tok, -1));
    assert_null(sp_tokenizer_token(tok, 364));
    assert_int_equal(sp_tokenizer_token_id(tok, "no such token"), -1);
    sp_tokenizer_free(tok);
    tok = load(s, DATA "/gpt2"); /* "eos_token" is an object there */
    assert_int_equal(sp_tokenizer_bos_id(tok), 0);
    assert_int_equal(sp_tokenizer_eos_id(tok), 0);
    assert_int_equal(sp_tokenizer_pad_id(tok), -1);
    sp_tokenizer_free(tok);
    tok = load(s, DATA "/llama3"); /* and names a token here that the vocabulary lacks */
    assert_int_equal(sp_tokenizer_eos_id(tok), -1);
    sp_tokenizer_free(tok);
    sp_tokenizer_free(NULL);
}

/* Ids that stand for no token are left out. */
static void test_decode_unknown_ids(void **state) {
    sp_tokenizer *tok = load(*state, DATA "/qwen");
    const int32_t ids[] = {-1, 0, 364, INT32_MAX, INT32_MIN, 0};
    char *text;
    size_t length;
    assert_int_equal(sp_tokenizer_decode(tok, ids, 6, false, &text, &length), SP_OK);
    assert_string_equal(text, "!!");
    sp_string_free(text);
    assert_int_equal(sp_tokenizer_decode(tok, NULL, 0, true, &text, &length), SP_OK);
    assert_string_equal(text, "");
    sp_string_free(text);
    sp_tokenizer_free(tok);
}

/* ------------------------------------------------------------------ small tokenizers written here */

/* `text` with double quotes in place of its single ones, so that JSON can be read here. */
static const char *quoted(char *to, size_t size, const char *text) {
    snprintf(to, size, "%s", text);
    for (char *p = to; (p = strchr(p, '\'')) != NULL;) *p = '"';
    return to;
}

/* Loads a tokenizer.json that stands in `text`. */
static sp_status load_text(scratch *s, const char *text, sp_tokenizer **tok) {
    char json[2048];
    const char *path = scratch_path(s, "tokenizer.json");
    assert_int_equal(spi_file_write(s->ctx, path, quoted(json, sizeof json, text), strlen(text)), SP_OK);
    return sp_tokenizer_load(s->ctx, path, tok);
}

static void encodes(scratch *s, const char *json, const char *text, size_t count, const int32_t *expected) {
    sp_tokenizer *tok;
    if (load_text(s, json, &tok) != SP_OK) fail_msg("%s", sp_last_error(s->ctx));
    int32_t *ids;
    size_t found;
    assert_int_equal(sp_tokenizer_encode(tok, text, strlen(text), true, &ids, &found), SP_OK);
    assert_int_equal(found, count);
    for (size_t i = 0; i < count; i++) assert_int_equal(ids[i], expected[i]);
    sp_ids_free(ids);
    sp_tokenizer_free(tok);
}

#define ENCODES(s, json, text, ...) \
    encodes(s, json, text, sizeof(int32_t[]){__VA_ARGS__} / sizeof(int32_t), (int32_t[]){__VA_ARGS__})

/* Of two merges the one of lower rank comes first, whatever the order in the text; then the leftmost. */
static void test_merge_order(void **state) {
    const char vocab[] = "{'model': {'type': 'BPE', 'vocab': {'a': 0, 'b': 1, 'ab': 2, 'ba': 3, 'aa': 4, "
                         "'aba': 5}, 'merges': ['b a', 'a b', 'a a', 'ab a']}}";
    ENCODES(*state, vocab, "aba", 0, 3);
    ENCODES(*state, vocab, "abb", 2, 1);
    ENCODES(*state, vocab, "aaaaa", 4, 4, 0);
    char many[1001]; /* long words go another way */
    memset(many, 'a', sizeof many - 1);
    many[sizeof many - 1] = 0;
    int32_t pairs[500];
    for (int i = 0; i < 500; i++) pairs[i] = 4;
    encodes(*state, vocab, many, 500, pairs);
}

/* What stands in the file in an unusual order or with escapes is read all the same. */
static void test_unusual_json(void **state) {
    ENCODES(*state,
            "{'mod\\u0065l': {'merges': [['\\u0061', '\\'']] , 'vocab':{ 'a\\'' : 2,'\\'':1 , 'a': 0}}}",
            "a\"a", 2, 0);
    ENCODES(*state, "{'model': {'vocab': {'\\ud83d\\udc4d': 7}, 'merges': ['#version: 0.2']}}",
            "\xF0\x9F\x91\x8D", 7);
}

/* An added token gets its id from the vocabulary, or the next free one, whatever the file says. */
static void test_added_token_ids(void **state) {
    ENCODES(*state,
            "{'added_tokens': [{'id': 9, 'content': '<x>', 'single_word': false, 'lstrip': false, 'rstrip': "
            "false, 'normalized': false, 'special': true}, {'id': 9, 'content': 'b', 'single_word': false, "
            "'lstrip': false, 'rstrip': false, 'normalized': false, 'special': false}], 'model': {'vocab': "
            "{'a': 0, 'b': 5}, 'merges': []}}",
            "a<x>b", 0, 2, 5);
}

/* ------------------------------------------------------------------ broken files */

/* The failure's message must be the file's name and then `message`, or begin with it where that ends in "...".
 */
static void refuses(scratch *s, const char *json, sp_status status, const char *message) {
    sp_tokenizer *tok;
    const sp_status found = load_text(s, json, &tok);
    assert_null(tok);
    char expected[1024];
    char error[1024];
    const char *path = s->path[(s->next - 1) % 8];
    snprintf(error, sizeof error, "%s", sp_last_error(s->ctx));
    assert_int_equal(strncmp(error, path, strlen(path)), 0);
    quoted(expected, sizeof expected, message);
    char *dots = strstr(expected, "...");
    if (dots && !dots[3]) {
        *dots = 0;
        error[strlen(path) + strlen(expected)] = 0;
    }
    assert_string_equal(error + strlen(path), expected);
    assert_int_equal(found, status);
}

#define MODEL "'model': {'type': 'BPE', 'vocab': {'a': 0}, 'merges': []}"

static void test_broken_json(void **state) {
    scratch *s = *state;
    sp_tokenizer *tok;
    assert_int_equal(sp_tokenizer_load(s->ctx, "/nonexistent", &tok), SP_ERR_IO);
    assert_null(tok);
    refuses(s, "[]", SP_ERR_FORMAT, ": expected a JSON object, found an array");
    static const char *const broken[] = {
        "",
        "{",
        "{'model': {'vocab': {'a': 0, 'b'",
        "{'model': {'vocab': {'a': 0}, 'merges': ['a \xFF']}}",
        "{'model': {'vocab': {'\\ud83d': 0}, 'merges': []}}",
        "{'model': {'vocab': {'\\q': 0}, 'merges': []}}",
        "{'model': {'vocab': {'a\tb': 0}, 'merges': []}}",
        "{'model': {'vocab': {'a': 0,}, 'merges': []}}",
        "{'version': '1.0', " MODEL ",}",
        "{" MODEL "} {}",
    };
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++)
        refuses(s, broken[i], SP_ERR_FORMAT, ": invalid JSON at line 1, column ...");
}

static void test_broken_model(void **state) {
    scratch *s = *state;
    refuses(s, "{'version': '1.0'}", SP_ERR_FORMAT,
            ": 'model.vocab': expected an object of ids, found nothing of the kind");
    refuses(s, "{'model': {'type': 'BPE', 'vocab': [], 'merges': []}}", SP_ERR_FORMAT,
            ": 'model.vocab': expected an object of ids, found nothing of the kind");
    refuses(s, "{'model': {'type': 'BPE', 'vocab': {}}}", SP_ERR_FORMAT,
            ": 'model.merges': expected an array, found nothing of the kind");
    refuses(s, "{'model': {'vocab': {'a': 'b'}, 'merges': []}}", SP_ERR_FORMAT,
            ": 'model.vocab': 'a': expected an id from 0 to 16777215, found 'b'");
    refuses(s, "{'model': {'vocab': {'a': -1}, 'merges': []}}", SP_ERR_FORMAT,
            ": 'model.vocab': 'a': expected an id from 0 to 16777215, found -1");
    refuses(s, "{'model': {'vocab': {'a': 99999999}, 'merges': []}}", SP_ERR_FORMAT,
            ": 'model.vocab': 'a': expected an id from 0 to 16777215, found 99999999");
    refuses(s, "{'model': {'vocab': {'a': 0}, 'merges': ['a b']}}", SP_ERR_MISMATCH,
            ": 'model.merges[0]': the vocabulary has no token 'b'");
    refuses(s, "{'model': {'vocab': {'a': 0}, 'merges': [['a', 'a']]}}", SP_ERR_MISMATCH,
            ": 'model.merges[0]': the vocabulary has no token 'aa'");
    refuses(s, "{'model': {'vocab': {'a': 0, 'aa': 1}, 'merges': ['a a', 'a a a']}}", SP_ERR_FORMAT,
            ": 'model.merges[1]': expected two tokens with one space between them");
    refuses(s, "{'model': {'vocab': {'a': 0}, 'merges': [7]}}", SP_ERR_FORMAT,
            ": 'model.merges[0]': expected 'a b' or ['a', 'b']");
    refuses(s, "{'model': {'vocab': {'a': 0}, 'merges': [['a']]}}", SP_ERR_FORMAT,
            ": 'model.merges[0]': expected an array of two strings");
    refuses(s, "{'model': {'type': 'Unigram', 'vocab': [['a', -1.5]]}}", SP_ERR_UNSUPPORTED,
            ": 'model.type': expected 'BPE', found 'Unigram'");
    refuses(s, "{'model': {'continuing_subword_prefix': '##', 'vocab': {'a': 0}, 'merges': ['a ##a']}}",
            SP_ERR_UNSUPPORTED, ": 'model.continuing_subword_prefix': expected none, found '##'");
    refuses(s, "{'model': {'dropout': 0.1, 'vocab': {'a': 0}, 'merges': []}}", SP_ERR_UNSUPPORTED,
            ": 'model.dropout': expected none, found 0.1");
    refuses(s, "{'model': {'fuse_unk': 1, 'vocab': {'a': 0}, 'merges': []}}", SP_ERR_FORMAT,
            ": 'fuse_unk': expected true or false, found an integer");
}

static void test_broken_components(void **state) {
    scratch *s = *state;
    refuses(s, "{'normalizer': {'type': 'Precompiled'}, " MODEL "}", SP_ERR_UNSUPPORTED,
            ": 'normalizer.type': expected one of NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, Strip, "
            "StripAccents, ByteLevel, Sequence, found 'Precompiled'");
    refuses(s,
            "{'pre_tokenizer': {'type': 'Sequence', 'pretokenizers': [{'type': 'Digits'}, {'type': "
            "'UnicodeScripts'}]}, " MODEL "}",
            SP_ERR_UNSUPPORTED,
            ": 'pre_tokenizer.pretokenizers[1].type': expected one of Split, ByteLevel, Digits, Punctuation, "
            "Whitespace, WhitespaceSplit, Metaspace, Sequence, found 'UnicodeScripts'");
    refuses(
        s, "{'pre_tokenizer': {'type': 'Split', 'pattern': {'Regex': '('}, 'behavior': 'Isolated'}, " MODEL "}",
        SP_ERR_FORMAT, ": 'pre_tokenizer.pattern': not a regular expression (...");
    refuses(
        s,
        "{'pre_tokenizer': {'type': 'Split', 'pattern': {'Regex': '[a&&[b]]'}, 'behavior': 'Isolated'}, " MODEL
        "}",
        SP_ERR_UNSUPPORTED, ": 'pre_tokenizer.pattern': nested or intersected character classes in '[a&&[b]]'");
    refuses(s, "{'pre_tokenizer': {'type': 'Split', 'pattern': 'a', 'behavior': 'Isolated'}, " MODEL "}",
            SP_ERR_FORMAT, ": 'pre_tokenizer.pattern': expected {'String': ...} or {'Regex': ...}, found 'a'");
    refuses(s,
            "{'pre_tokenizer': {'type': 'Split', 'pattern': {'String': 'a'}, 'behavior': 'Merged'}, " MODEL "}",
            SP_ERR_FORMAT,
            ": 'pre_tokenizer.behavior': expected Removed, Isolated, MergedWithPrevious, MergedWithNext or "
            "Contiguous, found 'Merged'");
    refuses(s, "{'pre_tokenizer': {'type': 'Metaspace', 'replacement': '__'}, " MODEL "}", SP_ERR_FORMAT,
            ": 'pre_tokenizer.replacement': expected one character, found '__'");
    refuses(s, "{'decoder': {'type': 'CTC'}, " MODEL "}", SP_ERR_UNSUPPORTED,
            ": 'decoder.type': expected one of ByteLevel, ByteFallback, Replace, Fuse, Strip, Metaspace, "
            "Sequence, found 'CTC'");
    refuses(s, "{'decoder': {'type': 'Sequence', 'decoders': 1}, " MODEL "}", SP_ERR_FORMAT,
            ": 'decoder.decoders': expected an array, found an integer");
    refuses(s,
            "{'post_processor': {'type': 'TemplateProcessing', 'single': [{'SpecialToken': {'id': '<s>'}}], "
            "'special_tokens': {}}, " MODEL "}",
            SP_ERR_FORMAT, ": 'post_processor.special_tokens': expected the ids of '<s>', found none");
    refuses(s, "{'post_processor': {}, " MODEL "}", SP_ERR_FORMAT,
            ": 'post_processor.type': expected a string, found nothing");
    refuses(s, "{'normalizer': [], " MODEL "}", SP_ERR_FORMAT,
            ": 'normalizer': expected an object, found an array");
    refuses(s, "{'added_tokens': [{'id': 0}], " MODEL "}", SP_ERR_FORMAT,
            ": 'added_tokens[0].content': expected a string, found nothing");
    refuses(s, "{'added_tokens': [{'id': 0, 'content': 'a', 'single_word': null}], " MODEL "}", SP_ERR_FORMAT,
            ": 'added_tokens[0].single_word': expected true or false, found null");
}

/* An unknown character needs the unk_token only when it comes. */
static void test_missing_unk_token(void **state) {
    scratch *s = *state;
    sp_tokenizer *tok;
    int32_t *ids;
    size_t count;
    assert_int_equal(load_text(s, "{'model': {'unk_token': '<u>', 'vocab': {'a': 0}, 'merges': []}}", &tok),
                     SP_OK);
    assert_int_equal(sp_tokenizer_encode(tok, "aa", 2, true, &ids, &count), SP_OK);
    assert_int_equal(count, 2);
    sp_ids_free(ids);
    assert_int_equal(sp_tokenizer_encode(tok, "ab", 2, true, &ids, &count), SP_ERR_MISMATCH);
    assert_null(ids);
    assert_non_null(strstr(sp_last_error(s->ctx), "\"model.unk_token\": the vocabulary has no token \"<u>\""));
    sp_tokenizer_free(tok);
}

static void test_broken_config(void **state) {
    scratch *s = *state;
    sp_tokenizer *tok;
    const char bad[] = "{\"eos_token\": 7}";
    assert_int_equal(spi_file_write(s->ctx, scratch_path(s, "tokenizer_config.json"), bad, strlen(bad)), SP_OK);
    assert_int_equal(load_text(s, "{" MODEL "}", &tok), SP_ERR_FORMAT);
    assert_null(tok);
    assert_non_null(strstr(sp_last_error(s->ctx),
                           "tokenizer_config.json: \"eos_token\": expected a token, found an integer"));
}

/* ------------------------------------------------------------------ training */

static void same_file(scratch *s, const char *a, const char *b) {
    spi_buf first = {0};
    spi_buf second = {0};
    assert_int_equal(spi_file_read(s->ctx, a, &first), SP_OK);
    assert_int_equal(spi_file_read(s->ctx, b, &second), SP_OK);
    assert_string_equal(first.data, second.data);
    spi_buf_free(&first);
    spi_buf_free(&second);
}

/* The file is the one that BpeTrainer and Tokenizer.save leave, byte for byte. */
static void test_train(void **state) {
    scratch *s = *state;
    const char *const files[] = {DATA "/corpus.txt"};
    const char *const specials[] = {"<|endoftext|>", "<pad>", "<pad>", NULL};
    sp_bpe_options opts;
    sp_bpe_options_default(&opts);
    assert_int_equal(opts.vocab_size, 4096);
    assert_null(opts.special_tokens);
    opts.vocab_size = 320;
    opts.special_tokens = specials;
    const char *dir = scratch_path(s, "made");
    if (sp_tokenizer_train_bpe(s->ctx, files, 1, &opts, dir) != SP_OK) fail_msg("%s", sp_last_error(s->ctx));
    same_file(s, scratch_path(s, "made/tokenizer.json"), DATA "/trained/tokenizer.json");
    sp_tokenizer *tok = load(s, dir);
    assert_int_equal(sp_tokenizer_vocab_size(tok), 320);
    assert_int_equal(sp_tokenizer_eos_id(tok), 0);
    assert_int_equal(sp_tokenizer_pad_id(tok), 0);
    assert_int_equal(sp_tokenizer_bos_id(tok), -1);
    sp_tokenizer_free(tok);
}

static void test_train_bad_arguments(void **state) {
    scratch *s = *state;
    const char *const files[] = {scratch_path(s, "empty")};
    const char *dir = scratch_path(s, "made");
    sp_bpe_options opts;
    sp_bpe_options_default(&opts);
    assert_int_equal(sp_tokenizer_train_bpe(s->ctx, files, 1, &opts, dir), SP_ERR_IO);
    assert_int_equal(spi_file_write(s->ctx, files[0], "", 0), SP_OK);
    assert_int_equal(sp_tokenizer_train_bpe(s->ctx, files, 1, &opts, dir), SP_ERR_DATA);
    assert_int_equal(sp_tokenizer_train_bpe(s->ctx, files, 0, NULL, dir), SP_ERR_DATA);
    opts.vocab_size = 256;
    assert_int_equal(sp_tokenizer_train_bpe(s->ctx, files, 1, &opts, dir), SP_ERR_ARGUMENT);
    assert_string_equal(sp_last_error(s->ctx),
                        "vocab_size: expected 257 (1 special tokens and 256 bytes) to 16777216, found 256");
    const char *const none[] = {NULL};
    const char *const broken[] = {"\xFF", NULL};
    sp_bpe_options_default(&opts);
    opts.special_tokens = none;
    assert_int_equal(sp_tokenizer_train_bpe(s->ctx, files, 1, &opts, dir), SP_ERR_ARGUMENT);
    opts.special_tokens = broken;
    assert_int_equal(sp_tokenizer_train_bpe(s->ctx, files, 1, &opts, dir), SP_ERR_ARGUMENT);
    opts.size = 0;
    assert_int_equal(sp_tokenizer_train_bpe(s->ctx, files, 1, &opts, dir), SP_ERR_ARGUMENT);
    assert_false(spi_path_exists(dir));
}

/* A text that has no more merges to give makes a smaller vocabulary. */
static void test_train_small_text(void **state) {
    scratch *s = *state;
    const char *const files[] = {scratch_path(s, "text")};
    const char *dir = scratch_path(s, "made");
    assert_int_equal(spi_file_write(s->ctx, files[0], "ab ab\xFF", 6), SP_OK);
    assert_int_equal(sp_tokenizer_train_bpe(s->ctx, files, 1, NULL, dir), SP_OK);
    sp_tokenizer *tok = load(s, dir);
    assert_int_equal(sp_tokenizer_vocab_size(tok), 257 + 4); /* "ab", " ab", and two for U+FFFD */
    sp_tokenizer_free(tok);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_gpt2, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_roberta, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_qwen, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_llama3, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_llama2, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_mistral, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_metaspace, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_gemma, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_words, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_splits, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_lookup, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_decode_unknown_ids, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_merge_order, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_unusual_json, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_added_token_ids, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_broken_json, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_broken_model, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_broken_components, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_missing_unk_token, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_broken_config, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_train, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_train_bad_arguments, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_train_small_text, scratch_setup, scratch_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
