/*
 * shadowpeft: ShadowPEFT (arXiv 2604.19254), parameter-efficient fine-tuning of
 * decoder language models by a shadow network, as a C library.
 *
 * Manners of this library
 *   - Every handle is opaque, made by one call and freed by its `_free`; freeing NULL is allowed.
 *   - Every call that can fail returns an sp_status. On failure the context keeps a message that names
 *     the file, the key, what was expected and what was found: sp_last_error().
 *   - The library never exits, never prints (set a log callback to hear it) and has no global state.
 *   - One sp_context belongs to one thread at a time, with every object made from it. Two contexts are
 *     independent. Operations use OpenMP inside; GOMP_SPINCOUNT=2000 in the environment keeps its threads
 *     from spinning where other programs want the cores too, OPENBLAS_THREAD_TIMEOUT=4 those of OpenBLAS
 *     from doing so while a process starts (the command sets both for itself).
 *   - Option structs begin with `size`. Fill them with their `sp_*_default()` and then change fields:
 *     a program built against an older header keeps working with a newer library.
 *   - Text is UTF-8. Paths are NUL-terminated. Token ids are int32_t.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef SHADOWPEFT_H
#define SHADOWPEFT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define SP_API __attribute__((visibility("default")))
#define SP_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define SP_API
#define SP_PRINTF(fmt, args)
#endif

#define SP_VERSION_MAJOR 0
#define SP_VERSION_MINOR 1
#define SP_VERSION_PATCH 0

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------ status, context, log */

typedef enum sp_status {
    SP_OK = 0,
    SP_ERR_ARGUMENT,    /* a call or an option makes no sense */
    SP_ERR_IO,          /* the operating system refused: missing file, no permission, full disk */
    SP_ERR_FORMAT,      /* a file is there but is not what it should be */
    SP_ERR_MISMATCH,    /* files are well-formed but do not fit each other: shapes, sizes, vocabularies */
    SP_ERR_UNSUPPORTED, /* well-formed, but outside what this library does */
    SP_ERR_DATA,        /* a dataset cannot be used: empty, unreadable at a line, no labels */
    SP_ERR_DIVERGED,    /* the loss became NaN or infinite */
    SP_ERR_MEMORY,      /* out of memory */
    SP_ERR_DEVICE,      /* the compute device failed or is missing */
    SP_ERR_INTERRUPTED, /* a callback asked to stop at once */
    SP_ERR_INTERNAL     /* a bug of this library */
} sp_status;

/* A word for a status, such as "mismatch". Static storage. */
SP_API const char *sp_status_name(sp_status status);

/* "0.1.0". Static storage. */
SP_API const char *sp_version(void);

typedef struct sp_context sp_context;

typedef enum sp_log_level { SP_LOG_DEBUG = 0, SP_LOG_INFO, SP_LOG_WARNING } sp_log_level;

/* `message` has no newline at its end and lives only during the call. */
typedef void (*sp_log_fn)(void *user, sp_log_level level, const char *message);

/* Returns NULL only when out of memory. */
SP_API sp_context *sp_context_new(void);
/* Free every object made from the context first. */
SP_API void sp_context_free(sp_context *ctx);
/* The message of the last failed call on this context ("" if none). Valid until the next failing call. */
SP_API const char *sp_last_error(const sp_context *ctx);
/* Messages below `level` are dropped. NULL switches logging off (the initial state). */
SP_API void sp_context_set_log(sp_context *ctx, sp_log_fn fn, void *user, sp_log_level level);
/* Threads used inside operations; 0 (the initial state) means every core the process may use. */
SP_API void sp_context_set_threads(sp_context *ctx, int threads);

typedef enum sp_dtype {
    SP_DTYPE_AUTO = 0, /* "as stored" or "the model's own", where a dtype is asked for */
    SP_F32,
    SP_BF16,
    SP_F16,
    SP_I64,
    SP_I32,
    SP_I8,
    SP_U8,
    SP_BOOL
} sp_dtype;

/* "F32", "BF16", ... as safetensors writes them. Static storage. */
SP_API const char *sp_dtype_name(sp_dtype dtype);

/* Frees text that a call below handed out as `char *`. */
SP_API void sp_string_free(char *text);

/* ------------------------------------------------------------------ tokenizer */

/* A Hugging Face `tokenizer.json` with the parts of `tokenizer_config.json` that matter. */
typedef struct sp_tokenizer sp_tokenizer;

/* `dir` is a model directory, or the path of a tokenizer.json itself. */
SP_API sp_status sp_tokenizer_load(sp_context *ctx, const char *dir, sp_tokenizer **out);
SP_API void sp_tokenizer_free(sp_tokenizer *tok);

/*
 * Text to ids, equal to `tokenizers`' encode(text, add_special_tokens).ids. `text` has `length` bytes and
 * may hold NUL bytes; bytes that are not UTF-8 are read as U+FFFD, one per maximal invalid part, as
 * Python's errors="replace" does. *ids is allocated: free it with sp_ids_free.
 */
SP_API sp_status sp_tokenizer_encode(const sp_tokenizer *tok, const char *text, size_t length,
                                     bool add_special_tokens, int32_t **ids, size_t *count);
SP_API void sp_ids_free(int32_t *ids);

/* Ids to text, equal to decode(ids, skip_special_tokens). Free *text with sp_string_free. */
SP_API sp_status sp_tokenizer_decode(const sp_tokenizer *tok, const int32_t *ids, size_t count,
                                     bool skip_special_tokens, char **text, size_t *length);

/* One more than the largest id the tokenizer can give. */
SP_API int32_t sp_tokenizer_vocab_size(const sp_tokenizer *tok);
/* The id of a whole token as it stands in the vocabulary, or -1. */
SP_API int32_t sp_tokenizer_token_id(const sp_tokenizer *tok, const char *token);
/* The token of an id as it stands in the vocabulary, or NULL. Lives as long as the tokenizer. */
SP_API const char *sp_tokenizer_token(const sp_tokenizer *tok, int32_t id);
/* The ids named by tokenizer_config.json, or -1 where it names none. */
SP_API int32_t sp_tokenizer_bos_id(const sp_tokenizer *tok);
SP_API int32_t sp_tokenizer_eos_id(const sp_tokenizer *tok);
SP_API int32_t sp_tokenizer_pad_id(const sp_tokenizer *tok);

typedef struct sp_bpe_options {
    size_t size;
    int32_t vocab_size;                /* of the result, special tokens included; 4096 */
    const char *const *special_tokens; /* NULL-ended; the first is also the EOS token; NULL: "<|endoftext|>" */
} sp_bpe_options;
SP_API void sp_bpe_options_default(sp_bpe_options *opts);
/*
 * Learns a byte-level BPE tokenizer (Qwen's pre-tokenizer pattern) from plain text files and writes
 * tokenizer.json and tokenizer_config.json into `output_dir`.
 */
SP_API sp_status sp_tokenizer_train_bpe(sp_context *ctx, const char *const *files, size_t count,
                                        const sp_bpe_options *opts, const char *output_dir);

/* ------------------------------------------------------------------ chat templates */

/* What makes one text of the messages of a conversation: the Jinja template that comes with a model. */
typedef struct sp_chat_template sp_chat_template;

/*
 * Loads the templates of the model directory `dir` (or of the directory of a tokenizer.json): the default one
 * from chat_template.jinja, else from tokenizer_config.json; others from additional_chat_templates. With `file`
 * the default one comes from there. The special tokens of tokenizer_config.json become the template's
 * variables. `dir` may be NULL where there is a `file`. Errors: SP_ERR_FORMAT where there is no template, or
 * none that parses, with the line; SP_ERR_UNSUPPORTED for what it uses and this library lacks.
 */
SP_API sp_status sp_chat_template_load(sp_context *ctx, const char *dir, const char *file,
                                       sp_chat_template **out);
SP_API void sp_chat_template_free(sp_chat_template *chat);

/* Arguments of transformers' apply_chat_template(tokenize=False). */
typedef struct sp_chat_options {
    size_t size;
    bool add_generation_prompt;  /* false; true: the text ends where the assistant is to begin */
    bool continue_final_message; /* false; true: the text ends inside the last message */
    const char *tools;           /* a JSON array, or NULL */
    const char *variables;       /* further ones, a JSON object such as {"enable_thinking": false}, or NULL */
    const char
        *name; /* of the template; NULL: "tool_use" where there are tools and such a template, else "default" */
} sp_chat_options;
SP_API void sp_chat_options_default(sp_chat_options *opts);

/*
 * The text of `messages`, a JSON array of objects with "role" and "content". It holds its special tokens:
 * encode it with add_special_tokens false. `opts` NULL: defaults. Free *text with sp_string_free; it ends in a
 * NUL that `length` does not count. Errors: SP_ERR_ARGUMENT for messages, tools or variables that are no such
 * JSON; SP_ERR_DATA with the template's own words where it refuses the conversation.
 */
SP_API sp_status sp_chat_render(const sp_chat_template *chat, const char *messages, const sp_chat_options *opts,
                                char **text, size_t *length);

/* ------------------------------------------------------------------ models and adapters */

typedef enum sp_mode {
    SP_MODE_BASE_SHADOW = 0, /* base layers with the shadow injected; also plain base without an adapter */
    SP_MODE_SHADOW_ONLY      /* the shadow network and its head alone; no base layer runs */
} sp_mode;

/* A Hugging Face decoder checkpoint in memory, with at most one shadow adapter on it. */
typedef struct sp_model sp_model;

typedef enum sp_task {
    SP_TASK_AUTO = 0,  /* what config.json's "architectures" names, else SP_TASK_CAUSAL_LM */
    SP_TASK_CAUSAL_LM, /* ...ForCausalLM: a head over the vocabulary */
    SP_TASK_SEQ_CLS    /* ...ForSequenceClassification: a head over labels, on the last attended token */
} sp_task;

typedef struct sp_model_options {
    size_t size;
    sp_dtype dtype;     /* to compute in: SP_F32, SP_BF16; AUTO: the checkpoint's (F16 becomes F32) */
    const char *device; /* "auto": the first GPU that can be used, else the CPU; "cpu", "cuda", "cuda:N" */
    bool trainable;     /* every weight of the base may be trained (pretraining); default false: frozen */
    sp_task task;       /* SP_TASK_AUTO */
    /* SP_I8: the matrices of a frozen base (layers, head, embedding) are held in 8 bits with a scale for each
     * output, |w| max / 127; adapters and all that trains are not. AUTO: as they are computed with */
    sp_dtype quantize;
} sp_model_options;
SP_API void sp_model_options_default(sp_model_options *opts);

/*
 * Loads config.json and the weights from `dir`: a supported family's causal LM or sequence classifier, or a
 * causal_lm_with_hidden_projection. Weights already in the compute dtype are mapped, not read. A causal LM that
 * is loaded for SP_TASK_SEQ_CLS has no head yet: sp_model_set_labels makes one, or a loaded adapter brings it.
 */
SP_API sp_status sp_model_load(sp_context *ctx, const char *dir, const sp_model_options *opts, sp_model **out);
SP_API void sp_model_free(sp_model *model);

/*
 * Names the labels of a sequence classifier, in the order of their numbers (id2label). Where the model has no
 * head yet, a fresh one is drawn from `seed` (as Transformers draws `score`); else there must be as many names
 * as it has outputs (SP_ERR_MISMATCH). The names are copied; they must differ and none be empty; NULL: none.
 * Not while an adapter is on the model.
 */
SP_API sp_status sp_model_set_labels(sp_model *model, const char *const *names, int32_t count, uint64_t seed);
/* The name of label `index`, below sp_model_info's num_labels: id2label's, or "LABEL_0", ... Lives until the
 * labels are set again or another adapter, which may bring its own, takes the place of the one that is there.
 */
SP_API const char *sp_model_label(const sp_model *model, int32_t index);

/*
 * Writes the base model's weights as a Hugging Face directory (config.json, generation_config.json,
 * model.safetensors) and copies the tokenizer files of the directory it was loaded from.
 */
SP_API sp_status sp_model_save(sp_model *model, const char *dir);

/* Writes a fresh random checkpoint of the architecture that `config_path` (a config.json) describes. */
SP_API sp_status sp_checkpoint_init(sp_context *ctx, const char *config_path, const char *output_dir,
                                    uint64_t seed, sp_dtype dtype);

/* The two published forms of the method. They differ in small things: see docs/formats.md. */
typedef enum sp_dialect {
    SP_DIALECT_SHADOW_PEFT = 0, /* the package shadow-peft: shadow_config.json */
    SP_DIALECT_PEFT             /* Hugging Face PEFT: adapter_config.json with "peft_type": "SHADOW" */
} sp_dialect;

/* Heads that train and are saved with an adapter (modules_to_save), to be or-ed. */
#define SP_MODULE_HEAD 1u /* lm_head; classifier_head or, in PEFT, score */
#define SP_MODULE_SHADOW_HEAD                                                          \
    2u /* shadow_lm_head, shadow_classifier_head; PEFT's shadow has no head of its own \
          for causal LM and always one for classification */

/*
 * shadow_peft.ShadowConfig, field for field, or where `dialect` says so peft.ShadowConfig, whose names stand in
 * brackets. 0 stands for Python's None in the shadow_* fields.
 */
typedef struct sp_shadow_config {
    size_t size;
    int32_t num_shadow_layers;          /* 1 [shadow_num_hidden_layers] */
    int32_t injection_hidden_size;      /* 16 [r, 8] */
    int32_t gate_hidden_size;           /* 10 [update_hidden_size, 0: as r] */
    double alpha;                       /* 0.1 [shadow_alpha] */
    double dropout;                     /* 0.2 [shadow_dropout] */
    int32_t shadow_intermediate_size;   /* 0: as the base */
    int32_t shadow_num_attention_heads; /* 0: as the base */
    int32_t shadow_num_key_value_heads; /* 0: as the base; not in PEFT */
    int32_t shadow_head_dim;            /* 0: as the base; not in PEFT */
    uint32_t modules_to_save;           /* SP_MODULE_*; 0: for classification both, else none */
    sp_dialect dialect;
    /* Of PEFT's alone: */
    int32_t shadow_hidden_size;   /* 0: as the base */
    bool share_embeddings;        /* true: the base's embedding drives the shadow */
    double auxiliary_loss_weight; /* 0.05; a note for training, which has its own option */
    int32_t first_layer_to_transform, layers_to_transform; /* 0, 0: every decoder layer; else a run of them */
} sp_shadow_config;
/* The defaults of shadow_peft.ShadowConfig, and of peft.ShadowConfig. */
SP_API void sp_shadow_config_default(sp_shadow_config *cfg);
SP_API void sp_peft_shadow_config_default(sp_shadow_config *cfg);

typedef struct sp_adapter_options {
    size_t size;
    /* An explicit shadow: the checkpoint of any supported decoder, or a causal_lm_with_hidden_projection, whose
     * projection comes along. NULL: the implicit shadow of the config, or of a loaded adapter its own. */
    const char *shadow;
    /* Of a fresh adapter with an explicit shadow: the base's embedding drives it instead of its own
     * (prepare_shadow_model). GPT-2 and OPT keep theirs, as in Python. */
    bool remove_embed_tokens;
    uint64_t seed; /* 42; of a fresh adapter's initial values */
} sp_adapter_options;
SP_API void sp_adapter_options_default(sp_adapter_options *opts);

/*
 * Puts a fresh adapter on the model. With an explicit shadow the config's num_shadow_layers and shadow_* fields
 * say nothing; all of the shadow trains, its embedding included. `opts` NULL: defaults.
 */
SP_API sp_status sp_adapter_create(sp_model *model, const sp_shadow_config *cfg,
                                   const sp_adapter_options *opts);
/*
 * Puts the adapter stored in `dir` on the model: shadow_config.json with shadow_adapter.safetensors and perhaps
 * shadow_modules.safetensors, or PEFT's adapter_config.json with adapter_model.safetensors. An explicit shadow
 * is known from shadow_model_config.json; Python does not write that file: then opts->shadow names the
 * checkpoint (its config is read, not its weights). Errors: SP_ERR_MISMATCH lists every tensor that does not
 * fit the model; after any error the model is as it was, with the adapter that it had.
 */
SP_API sp_status sp_adapter_load(sp_model *model, const char *dir, const sp_adapter_options *opts);
/* Writes the model's adapter into `dir`, made if missing, in its own dialect. SP_ERR_ARGUMENT where one of the
 * other dialect lies there. */
SP_API sp_status sp_adapter_save(sp_model *model, const char *dir);
/*
 * Writes the adapter's shadow as a checkpoint that computes by itself what SP_MODE_SHADOW_ONLY computes: with
 * the base's head, its tokenizer files, and the embedding that drives the shadow. A plain checkpoint of the
 * shadow's family where its hidden size is the base's, else a causal_lm_with_hidden_projection.
 */
SP_API sp_status sp_export_shadow(sp_model *model, const char *dir);
/*
 * Turns the model's adapter into one of the other dialect that computes the same. That is possible only where
 * no update takes part, which is where a single layer is adapted: the updates of the two are different
 * functions. Errors: SP_ERR_UNSUPPORTED says what stands in the way.
 */
SP_API sp_status sp_adapter_convert(sp_model *model, sp_dialect dialect);
/* Takes the adapter off. */
SP_API void sp_adapter_remove(sp_model *model);

typedef struct sp_wrap_options {
    size_t size;
    sp_dtype dtype;               /* of the result: SP_F32, SP_BF16, SP_F16; AUTO: the small model's */
    bool init_optimal_projection; /* true; false: fresh values, U(+-1/sqrt(small hidden size)) */
    uint64_t seed;                /* 42; of fresh values */
} sp_wrap_options;
SP_API void sp_wrap_options_default(sp_wrap_options *opts);

typedef struct sp_wrap_result {
    size_t size;
    int64_t rank; /* of the large head, as far as its singular values count; 0 for fresh values */
    double reconstruction_error; /* ||W_large P - W_small|| / ||W_small||; NaN for fresh values */
    double seconds;              /* that the projection took */
} sp_wrap_result;
/*
 * Writes a causal_lm_with_hidden_projection into `output_dir`: the small model's backbone, tokenizer and
 * generation_config.json, the large model's head, and between them P = pinv(W_large) W_small of the two heads,
 * so that the result begins as near to the small model as that head allows (shadow_peft's
 * AutoModelForCausalLMWithHiddenProjection.wrap). Both vocabularies must have the same size (SP_ERR_MISMATCH).
 * `opts` NULL: defaults. `result` may be NULL; else set result->size before the call. While it runs OpenBLAS,
 * whose number of threads is the whole process's, has the context's.
 */
SP_API sp_status sp_wrap(sp_context *ctx, const char *small_dir, const char *large_dir, const char *output_dir,
                         const sp_wrap_options *opts, sp_wrap_result *result);

/*
 * Names the small model that a causal_lm_with_hidden_projection was wrapped from (sp_wrap) as the teacher of
 * its projection: sp_train then brings the model's logits near those that the small model's own head gives on
 * the same backbone, by their distance alone (sp_train_options' distill_*), which goes over every token of the
 * data. The projection trains, everything else stays as it is. Not while an adapter is on the model. Errors:
 * SP_ERR_MISMATCH where the vocabulary or the backbone of `small_dir` is another; SP_ERR_ARGUMENT for a model
 * that is not projected.
 */
SP_API sp_status sp_model_set_teacher(sp_model *model, const char *small_dir);

typedef struct sp_model_info {
    size_t size;
    const char *model_type; /* "qwen3", ...; lives as long as the model */
    int64_t vocab_size;
    int64_t hidden_size;
    int64_t num_layers;
    int64_t max_position_embeddings;
    sp_dtype compute_dtype;
    bool has_adapter;
    sp_shadow_config shadow; /* where has_adapter */
    int64_t base_parameters; /* tied weights counted once */
    int64_t adapter_parameters;
    int64_t trainable_parameters;
    bool projected;                /* a causal_lm_with_hidden_projection; model_type is its backbone's */
    sp_task task;                  /* never SP_TASK_AUTO */
    int32_t num_labels;            /* of a sequence classifier; 0: it has no head yet */
    sp_dtype quantized;            /* what the base's matrices are held in: SP_I8; AUTO: compute_dtype */
    int64_t base_bytes;            /* of the base's weights as operations read them, mapped ones included */
    const char *device;            /* what computes: "cpu" or "cuda" */
    int64_t adapter_bytes;         /* of the adapter's values, likewise */
    int64_t cache_bytes_per_token; /* of the keys and values that decoding keeps of each token */
    const char *device_name;       /* "CPU", or what the card is called; lives as long as the model */
    int64_t device_bytes, device_free_bytes; /* memory of the device, and of it what can be had; 0: unknown */
} sp_model_info;
/* Set info->size before the call. */
SP_API void sp_model_get_info(const sp_model *model, sp_model_info *info);

/*
 * What `path` is (a model or an adapter directory), as a JSON object: kind, model_type, shapes, parameters,
 * dtype. Reads headers only. Free with sp_string_free.
 */
SP_API sp_status sp_describe(sp_context *ctx, const char *path, char **json);

/* ------------------------------------------------------------------ forward */

/* Batches are rectangles [batch, seq] in row-major order, as Python's tensors are. */
typedef struct sp_forward_input {
    size_t size;
    int64_t batch, seq;
    const int64_t *input_ids;      /* [batch, seq] */
    const int64_t *attention_mask; /* [batch, seq] of 0 and 1, or NULL: all ones */
    const int64_t *labels;         /* [batch, seq], -100 = ignore; classification: [batch]; or NULL */
    sp_mode mode;
    double shadow_loss_weight; /* 0.05 */
} sp_forward_input;
SP_API void sp_forward_input_default(sp_forward_input *in);

typedef struct sp_forward_output {
    size_t size;
    float *logits;        /* [batch, seq, vocab], caller's, or NULL if not wanted; zeros at padding.
                             Classification: [batch, num_labels], of each row's last attended token */
    float *shadow_logits; /* likewise; needs an adapter */
    double loss;          /* combined, where labels were given */
    double base_loss, shadow_loss;
    int64_t label_tokens; /* labels that counted */
} sp_forward_output;

SP_API sp_status sp_forward(sp_model *model, const sp_forward_input *in, sp_forward_output *out);

/*
 * Forward from a safetensors file to a safetensors file: `input_ids`, optional `attention_mask`, `labels`
 * (I64 [B,S]; labels of a classification [B]) in; `logits`, `shadow_logits`, `loss` (F32) out, and `grad.<key>`
 * for every trainable tensor under its checkpoint key when `grads`. `options` gives mode and
 * shadow_loss_weight; NULL: defaults.
 */
SP_API sp_status sp_forward_file(sp_model *model, const char *input, const char *output,
                                 const sp_forward_input *options, bool grads);

/* ------------------------------------------------------------------ datasets */

/* Examples as token ids with a mask of which tokens are learnt. */
typedef struct sp_dataset sp_dataset;

typedef enum sp_data_format {
    SP_DATA_AUTO = 0, /* by extension: .jsonl .json .csv .tsv, anything else is plain text */
    SP_DATA_JSONL,
    SP_DATA_CSV,
    SP_DATA_TSV,
    SP_DATA_TEXT /* one document; cut into blocks of max_seq_length */
} sp_data_format;

typedef struct sp_dataset_options {
    size_t size;
    sp_data_format format;
    const char *text_column;       /* "text" */
    const char *prompt_column;     /* "prompt" */
    const char *completion_column; /* "completion" */
    int32_t max_seq_length;        /* 1024; longer examples are cut at their end */
    bool append_eos;               /* true: the EOS token closes each example and is learnt */
    bool train_on_prompt;          /* false: loss on the completion only */
    int64_t max_samples;           /* 0: all */
    /*
     * Classification: the column of each text's label, or NULL. A label is one of `labels`, or its number;
     * labels NULL: those of the file, numbers from 0 on as they are, names in the order of their bytes.
     * No EOS is appended, and nothing is learnt but the label.
     */
    const char *label_column;
    const char *const *labels; /* [label_count] */
    int32_t label_count;
    const char *messages_column; /* "messages": arrays of messages; beside it "tools", an array, or nothing */
    const char *chat_template; /* file that makes texts of messages; NULL: as the tokenizer's directory says */
    const char *chat_template_kwargs; /* its further variables, a JSON object, or NULL */
} sp_dataset_options;
SP_API void sp_dataset_options_default(sp_dataset_options *opts);

/*
 * Reads and tokenizes `path` ("-" is standard input). `tok` must outlive the dataset. Of messages what
 * assistants say is learnt, up to what the template puts behind it; no EOS is appended. A conversation is one
 * example where the template leaves earlier answers as they were, else (Qwen3 drops their reasoning) one for
 * each answer.
 */
SP_API sp_status sp_dataset_load(sp_context *ctx, const sp_tokenizer *tok, const char *path,
                                 const sp_dataset_options *opts, sp_dataset **out);
/* Wraps ids that the caller has: example i is ids[starts[i] .. starts[i+1]), learnt where mask is nonzero. */
SP_API sp_status sp_dataset_from_ids(sp_context *ctx, const int32_t *ids, const uint8_t *mask,
                                     const int64_t *starts, int64_t count, sp_dataset **out);
SP_API void sp_dataset_free(sp_dataset *ds);

typedef struct sp_example {
    const int32_t *ids;  /* [length] */
    const uint8_t *mask; /* [length], nonzero: this token is learnt */
    int64_t length;
    int64_t prompt_length;  /* leading ids that are the prompt; 0 for plain text */
    const char *prompt;     /* the prompt's text, or NULL */
    const char *completion; /* the expected answer's text, or NULL */
    int32_t label;          /* of classification; -1: none */
} sp_example;

SP_API int64_t sp_dataset_count(const sp_dataset *ds);
SP_API int64_t sp_dataset_tokens(const sp_dataset *ds);
/* What is learnt: tokens, or in classification examples. */
SP_API int64_t sp_dataset_label_tokens(const sp_dataset *ds);
/* Labels of classification, 0 without; the name of one. Lives as long as the dataset. */
SP_API int32_t sp_dataset_label_count(const sp_dataset *ds);
SP_API const char *sp_dataset_label(const sp_dataset *ds, int32_t index);
/* Pointers live as long as the dataset. `index` must be below the count. */
SP_API void sp_dataset_get(const sp_dataset *ds, int64_t index, sp_example *out);

/* ------------------------------------------------------------------ training */

typedef enum sp_schedule {
    SP_SCHEDULE_LINEAR = 0,
    SP_SCHEDULE_COSINE,
    SP_SCHEDULE_CONSTANT,
    SP_SCHEDULE_CONSTANT_WITH_WARMUP
} sp_schedule;

/* transformers.TrainingArguments' names and defaults, as far as they apply. */
typedef struct sp_train_options {
    size_t size;
    const char *output_dir;                      /* required */
    double num_train_epochs;                     /* 3.0 */
    int64_t max_steps;                           /* -1: by epochs */
    int32_t per_device_train_batch_size;         /* 8 */
    int32_t per_device_eval_batch_size;          /* 8 */
    int32_t gradient_accumulation_steps;         /* 1 */
    double learning_rate;                        /* 5e-5 */
    double weight_decay;                         /* 0.0; not on norms and biases */
    double adam_beta1, adam_beta2, adam_epsilon; /* 0.9, 0.999, 1e-8 */
    double max_grad_norm;                        /* 1.0; 0 = no clipping */
    sp_schedule lr_scheduler_type;               /* linear */
    double warmup_ratio;                         /* 0.0 */
    int64_t warmup_steps;                        /* 0; wins over the ratio where above 0 */
    double shadow_lr_multiplier;                 /* 1.0; on the shadow backbone, projection and head */
    double shadow_loss_weight;                   /* 0.05 */
    int64_t logging_steps;                       /* 10 */
    int64_t eval_steps;              /* 0: at the end of every epoch, where there is evaluation data */
    int64_t save_steps;              /* 500 */
    int32_t save_total_limit;        /* 2; 0 = keep all */
    bool load_best_model_at_end;     /* false: the last state is what output_dir ends with */
    int32_t early_stopping_patience; /* 0: off; evaluations without a better loss before stopping */
    bool packing;                    /* false; true: fill each row of the batch up to max_seq_length */
    int32_t max_seq_length;          /* 1024; the row length that packing fills */
    bool gradient_checkpointing;     /* false */
    bool resume;                     /* continue from the newest checkpoint in output_dir, or begin */
    bool shuffle;                    /* true */
    uint64_t seed;                   /* 42 */
    bool freeze_embed, freeze_head;  /* of a trainable base; false */
    bool freeze_backbone;            /* of a trainable base: all but its head and hidden projection; false */
    /*
     * Of a model with a teacher, whose loss is at each token
     *   distill_kl T^2 KL(softmax(t / T) || softmax(s / T)) + distill_mse mean((s - t)^2)
     * with t the teacher's logits, s the model's and T the temperature.
     */
    double distill_kl, distill_mse; /* 1, 0 */
    double distill_temperature;     /* 1 */
} sp_train_options;
SP_API void sp_train_options_default(sp_train_options *opts);

typedef enum sp_train_event_kind {
    SP_TRAIN_BEGIN = 0, /* total_steps known; step > 0 when resumed */
    SP_TRAIN_STEP,      /* after every optimizer step */
    SP_TRAIN_EVAL,      /* an evaluation ended: eval_loss, eval_shadow_loss */
    SP_TRAIN_SAVE,      /* a checkpoint is complete at `path` */
    SP_TRAIN_END
} sp_train_event_kind;

typedef struct sp_train_event {
    sp_train_event_kind kind;
    int64_t step, total_steps;
    double epoch;
    double loss; /* combined loss of this step, mean over its label tokens */
    double base_loss, shadow_loss;
    double learning_rate; /* of this step */
    double grad_norm;     /* before clipping */
    double tokens_per_second;
    double seconds_left;
    double eval_loss, eval_base_loss, eval_shadow_loss;
    const char *path;
} sp_train_event;

typedef enum sp_train_action {
    SP_TRAIN_CONTINUE = 0,
    SP_TRAIN_SAVE_AND_STOP, /* finish the step, save a resumable checkpoint, return SP_ERR_INTERRUPTED */
    SP_TRAIN_ABORT          /* return SP_ERR_INTERRUPTED at once */
} sp_train_action;

/* Called after each step and event, from the calling thread. */
typedef sp_train_action (*sp_train_fn)(void *user, const sp_train_event *event);

typedef struct sp_train_result {
    size_t size;
    int64_t steps;
    int64_t tokens;        /* tokens processed in this call, padding never counted */
    double train_loss;     /* mean over all steps of the run */
    double best_eval_loss; /* NaN without evaluation */
    int64_t best_step;
    double seconds;
    double tokens_per_second;
    bool stopped_early;
} sp_train_result;

/*
 * Trains the model's adapter (or the whole base, if it was loaded trainable and has no adapter) and leaves
 * the result in opts->output_dir: checkpoint-N directories while it runs, the final files at its top, and
 * metrics.jsonl. What the largest batch will take of the device's memory is planned before the first step and
 * logged; where a GPU has less: SP_ERR_MEMORY, naming the options that would make it fit; on the CPU a warning.
 * `eval` may be NULL. `result` may be NULL. On SP_ERR_DIVERGED the last good checkpoint stays.
 * A run that is interrupted anywhere, even killed, and resumed with the same options, data and base ends in the
 * bytes of one that was not; SP_ERR_MISMATCH names what is not the same. Without `resume` a directory that
 * holds checkpoints is refused (SP_ERR_ARGUMENT): they are not overwritten.
 */
SP_API sp_status sp_train(sp_model *model, const sp_dataset *train, const sp_dataset *eval,
                          const sp_train_options *opts, sp_train_fn callback, void *user,
                          sp_train_result *result);

typedef struct sp_distill_result {
    size_t size;
    int64_t tokens;
    double loss;      /* mean over tokens */
    double agreement; /* share of tokens after which both models find the same one the likeliest */
} sp_distill_result;

/*
 * How far a model is from its teacher, by the distance that sp_train would learn from with these options
 * (distill_* and the batch size count), on the first `most` examples (0: all). Set result->size before the
 * call.
 */
SP_API sp_status sp_distill_evaluate(sp_model *model, const sp_dataset *ds, int64_t most,
                                     const sp_train_options *opts, sp_distill_result *result);

/* ------------------------------------------------------------------ evaluation */

typedef struct sp_eval_options {
    size_t size;
    sp_mode mode;
    int32_t batch_size;     /* 8 */
    bool exact_match;       /* also generate greedily from each prompt and compare with the completion */
    int32_t max_new_tokens; /* 64; for exact_match */
    int64_t *confusion;     /* classification: [num_labels, num_labels], caller's, or NULL: set to how many
                               examples of label (row) were taken for label (column) */
} sp_eval_options;
SP_API void sp_eval_options_default(sp_eval_options *opts);

typedef struct sp_eval_result {
    size_t size;
    int64_t examples, label_tokens;
    double loss; /* mean cross-entropy per label token of the path evaluated */
    double perplexity;
    double token_accuracy; /* share of label tokens that are the argmax; classification: accuracy */
    double exact_match;    /* share of examples; NaN unless asked for */
    double macro_f1;       /* classification: mean of the labels' F1 that occur or are predicted; else NaN */
} sp_eval_result;

/*
 * `tok` is needed for exact_match only. Set result->size before the call. An answer is right where its text is
 * the completion's, white space at the ends aside; it ends as sp_generate ends one without eos_ids. Errors:
 * SP_ERR_DATA where an example has no prompt and completion to match.
 */
SP_API sp_status sp_evaluate(sp_model *model, const sp_tokenizer *tok, const sp_dataset *ds,
                             const sp_eval_options *opts, sp_eval_result *result);

/* ------------------------------------------------------------------ generation */

typedef struct sp_generate_options {
    size_t size;
    sp_mode mode;
    int32_t max_new_tokens;    /* 128 */
    bool do_sample;            /* false: greedy */
    double temperature;        /* 1.0 */
    int32_t top_k;             /* 50; 0 = off */
    double top_p;              /* 1.0 = off */
    double min_p;              /* 0.0 = off */
    double repetition_penalty; /* 1.0 = off */
    const int32_t *eos_ids;    /* NULL: generation_config.json's, else config.json's, and the tokenizer's */
    size_t eos_count;
    bool ignore_eos;         /* false */
    const char *const *stop; /* NULL-ended stop strings, or NULL; special tokens count though text lacks them */
    bool skip_special_tokens; /* true */
    bool add_special_tokens;  /* true: as the tokenizer's template says (BOS) */
    uint64_t seed;            /* 42 */
    bool use_cache;           /* true; false recomputes everything, for checking */
} sp_generate_options;
SP_API void sp_generate_options_default(sp_generate_options *opts);
/* The defaults as the model's generation_config.json changes them. Pointers live as long as the model. */
SP_API void sp_generate_options_for(const sp_model *model, sp_generate_options *opts);

typedef enum sp_finish { SP_FINISH_LENGTH = 0, SP_FINISH_EOS, SP_FINISH_STOP } sp_finish;

typedef struct sp_generated {
    const char *text; /* without the prompt, stop string cut off; what was streamed */
    size_t length;
    const int32_t *ids; /* new ids, EOS and those of a stop string included */
    size_t count;
    size_t prompt_count; /* ids of the prompt */
    sp_finish finish;
} sp_generated;

typedef struct sp_generation sp_generation;

/*
 * Whole UTF-8 characters of sequence `index` as they become final: no stop string is or can become a part of
 * them. Return false to stop everything: sp_generate then returns SP_OK with what is there so far, the
 * sequences that this cut short under SP_FINISH_LENGTH.
 */
typedef bool (*sp_stream_fn)(void *user, size_t index, const char *text, size_t length);

/*
 * Continues every prompt; all run together as one batch, and what becomes of one does not depend on the others:
 * draws depend on the seed, the prompt's place in the list and the token's place alone. `opts` NULL: defaults.
 * `stream` may be NULL. Ids equal those of transformers' generate with the same options, where greedy.
 * Errors: SP_ERR_ARGUMENT, naming the option, or the prompt that has no ids; SP_ERR_MISMATCH for a tokenizer of
 * another vocabulary; SP_ERR_DIVERGED where the model gives NaN.
 */
SP_API sp_status sp_generate(sp_model *model, const sp_tokenizer *tok, const char *const *prompts, size_t count,
                             const sp_generate_options *opts, sp_stream_fn stream, void *user,
                             sp_generation **out);
SP_API size_t sp_generation_count(const sp_generation *g);
/* Pointers live as long as the generation. */
SP_API void sp_generation_get(const sp_generation *g, size_t index, sp_generated *out);
typedef struct sp_generation_stats {
    size_t size;
    int64_t prompt_tokens, new_tokens;
    double prefill_seconds, decode_seconds;
} sp_generation_stats;
SP_API void sp_generation_get_stats(const sp_generation *g, sp_generation_stats *stats);
SP_API void sp_generation_free(sp_generation *g);

/* ------------------------------------------------------------------ measuring */

typedef enum sp_bench_kind {
    SP_BENCH_TRAIN = 0, /* whole steps: forward, backward, optimizer; every token is learnt */
    SP_BENCH_PREFILL,   /* prompts read at once */
    SP_BENCH_DECODE     /* token after token over caches */
} sp_bench_kind;

typedef struct sp_bench_options {
    size_t size;
    sp_bench_kind kind;
    int32_t batch_size;          /* 8 */
    int32_t seq_len;             /* 256; training and prompts */
    int32_t steps;               /* 5; training and prompts: how many are timed */
    int32_t warmup_steps;        /* 1 */
    int32_t prompt_len;          /* 128; decoding */
    int32_t new_tokens;          /* 128; decoding: behind the first; 0: the prompt and the first alone */
    sp_mode mode;                /* prompts and decoding */
    bool gradient_checkpointing; /* training */
} sp_bench_options;
SP_API void sp_bench_options_default(sp_bench_options *opts);
/*
 * Times the model, as it is, on random tokens. *json, free it with sp_string_free: facts of the run,
 * tokens_per_second, ms_per_step or prefill_ms or ms_per_token, peak_rss_bytes, on a GPU device_memory_bytes
 * (what the card has in use), of training planned_memory_bytes and taken_memory_bytes (what steps were expected
 * to take beside the loaded model, and what they took, where that can be told), and breakdown_ms by kind of
 * operation, of a second run in which each operation is timed; its parts add up to that run's time. Decoding's
 * prefill_ms ends when the first new token is known. Where a GPU decodes by launches of a recorded step,
 * ms_per_token is of those, and breakdown_ms of single steps, for what is recorded cannot be timed in parts.
 * Training changes the adapter's values.
 */
SP_API sp_status sp_bench(sp_model *model, const sp_bench_options *opts, char **json);

#ifdef __cplusplus
}
#endif
#endif
