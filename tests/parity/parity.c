/*
 * Parity with the published Python packages: every number of a case of tests/data/parity against ours.
 *
 *   parity CASE_DIR...           one line per case and dtype; exit status 1 if anything is out of bounds
 *   parity --table CASE_DIR...   the same as a Markdown table
 *   --device NAME                where ours is computed; the CPU unless told
 *   --dtype f32|bf16             in that alone
 *
 * Scratch files go into a directory made in the working directory and removed at the end. What the files of a
 * case hold stands at the top of tests/fixtures/make_fixtures.py.
 *
 * In f32 a tensor's error is max|ours - theirs| / max|theirs|, and none may pass F32_LIMIT.
 *
 * In bf16 there is no single right answer: the order of sums and the places of rounding differ between any two
 * implementations. What can be asked is that ours is as near to the truth (the f32 results from the same
 * weights) as PyTorch's own bf16 run is. Errors are root mean squares relative to the tensor's, pooled over the
 * tensors of a kind: thousands of independent roundings each, so that chance moves them by a few percent only.
 * BF16_RATIO leaves room for rounding at other places; a sum or a norm kept in bf16 by mistake passes it.
 * The loss is one number, which may be right by luck. It moves no more than the logits do, so it is measured
 * against the larger of PyTorch's error of the loss and its root mean square error of a logit.
 */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "parity.h"

#define F32_LIMIT 1e-4
#define BF16_RATIO 1.5

typedef enum kind {
    LOGITS = 0,
    SHADOW_LOGITS,
    LOSS,
    SHADOW_ONLY, /* logits and loss of that mode */
    GRAD_SHADOW,
    GRAD_INJECTION,
    GRAD_UPDATE,
    GRAD_BASE, /* of a base that trains by itself, and of heads that train with an adapter */
    KINDS
} kind;

static const char *const kind_names[KINDS] = {"logits",      "shadow logits", "loss",        "shadow only",
                                              "grad shadow", "grad inject",   "grad update", "grad rest"};

/* Two sums of squares per kind, of our errors and of PyTorch's. */
typedef struct pool {
    double ours[KINDS], theirs[KINDS];
} pool;

void complain(parity *p, const char *what, const char *detail) {
    fprintf(stderr, "%s: %s: %s\n", p->name, what, detail);
    p->failures++;
}

bool check(parity *p, sp_status status) {
    if (status != SP_OK) complain(p, sp_status_name(status), sp_last_error(p->ctx));
    return status == SP_OK;
}

static bool open_in(parity *p, const char *dir, const char *file, spi_st_set **set) {
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%s/%s", dir, file);
    return check(p, spi_st_open(p->ctx, path, set));
}

static bool is_bf16(const parity *p) {
    return json_array_size(json_object_get(p->info, "dtypes")) > 1;
}

/* ------------------------------------------------------------------ comparing tensors */

/* The tensor as f32, the caller's to free. */
static float *values(const spi_st_tensor *t) {
    float *v = malloc((size_t)t->count * sizeof *v);
    if (v) spi_to_f32(v, t->data, t->dtype, t->count);
    return v;
}

static bool same_shape(const spi_st_tensor *a, const spi_st_tensor *b) {
    return a->ndim == b->ndim && !memcmp(a->shape, b->shape, (size_t)a->ndim * sizeof a->shape[0]);
}

/* max|a - b| / max|b|; infinite where a number of either is none. */
static double max_error(const float *a, const float *b, int64_t n) {
    double error = 0, scale = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - b[i]);
        if (!isfinite(d)) return INFINITY;
        error = fmax(error, d);
        scale = fmax(scale, fabs((double)b[i]));
    }
    return scale > 0 ? error / scale : error;
}

static double rms_difference(const float *a, const float *b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    return sqrt(sum / (double)n);
}

static double rms(const float *a, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)a[i] * a[i];
    return sqrt(sum / (double)n);
}

/* By the part of the adapter that a name stands for, in either dialect. */
static kind kind_of_gradient(const char *name) {
    static const struct {
        const char *part;
        kind k;
    } parts[] = {{"shadow_injection_model.", GRAD_INJECTION},
                 {".shadow_down.", GRAD_INJECTION},
                 {".shadow_up.", GRAD_INJECTION},
                 {"shadow_update_model.", GRAD_UPDATE},
                 {".shadow_update_", GRAD_UPDATE},
                 {"grad.shadow_model.", GRAD_SHADOW},
                 {"shadow_hidden_projection.", GRAD_SHADOW},
                 {".shadow_backbone.", GRAD_SHADOW},
                 {".shadow_projection.", GRAD_SHADOW}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (strstr(name, parts[i].part)) return parts[i].k;
    return GRAD_BASE;
}

/*
 * Where the expected tensor `name` is found in our results: its kind, which run (0 base_shadow, 1 shadow_only)
 * and its name there, in `key`. False for what no forward file holds.
 */
static bool locate(const char *name, kind *k, int *run, char key[PATH_SIZE]) {
    static const char suffix[] = "_shadow_only";
    size_t length = strlen(name), cut = sizeof suffix - 1;
    *run = length > cut && !strcmp(name + length - cut, suffix);
    snprintf(key, PATH_SIZE, "%.*s", (int)(*run ? length - cut : length), name);
    if (!strncmp(name, "greedy", 6)) return false;
    if (*run) *k = SHADOW_ONLY;
    else if (!strcmp(name, "logits")) *k = LOGITS;
    else if (!strcmp(name, "shadow_logits")) *k = SHADOW_LOGITS;
    else if (!strcmp(name, "loss")) *k = LOSS;
    else *k = kind_of_gradient(name);
    return true;
}

/* Our tensor for an expected one, or NULL, said why. */
static const spi_st_tensor *counterpart(parity *p, const spi_st_tensor *want, const spi_st_set *run,
                                        const char *key) {
    const spi_st_tensor *got = spi_st_find(run, key);
    if (!got) {
        complain(p, want->name, "missing from our results");
        return NULL;
    }
    if (!same_shape(got, want)) {
        complain(p, want->name, "has another shape in our results");
        return NULL;
    }
    return got;
}

/* What stands for the error of a kind that a case has no tensor of. */
#define NOTHING (-1.0)

/* Largest error of every kind into `worst`; a tensor above the limit is named. */
static void compare_f32(parity *p, spi_st_set *const runs[2], double worst[KINDS]) {
    for (int k = 0; k < KINDS; k++) worst[k] = NOTHING;
    for (size_t i = 0; i < spi_st_count(p->expected); i++) {
        const spi_st_tensor *want = spi_st_at(p->expected, i);
        char key[PATH_SIZE], text[64];
        kind k;
        int run;
        if (!locate(want->name, &k, &run, key)) continue;
        const spi_st_tensor *got = counterpart(p, want, runs[run], key);
        if (!got) continue;
        float *a = values(got), *b = values(want);
        double error = a && b ? max_error(a, b, want->count) : INFINITY;
        snprintf(text, sizeof text, "error %.3g above %g", error, F32_LIMIT);
        if (error > F32_LIMIT) complain(p, want->name, text);
        worst[k] = fmax(worst[k], error);
        free(a);
        free(b);
    }
    for (size_t i = 0; i < spi_st_count(runs[0]); i++) {
        const char *name = spi_st_at(runs[0], i)->name;
        if (!spi_st_find(p->expected, name)) complain(p, name, "is not in the Python results");
    }
}

/* Adds one tensor's errors to the pool; `logit` is PyTorch's absolute error of a logit. */
static void pool_errors(pool *sums, kind k, const float *ours, const float *theirs, const float *truth,
                        int64_t n, double *logit) {
    double scale = rms(truth, n), we = rms_difference(ours, truth, n), they = rms_difference(theirs, truth, n);
    if (k == LOGITS) *logit = they;
    if (k == LOSS) scale = 1;
    if (scale == 0) return; /* a gradient of nothing but rounding has no relative error */
    if (k == LOSS) they = fmax(they, *logit);
    sums->ours[k] += we * we / (scale * scale);
    sums->theirs[k] += they * they / (scale * scale);
}

/* Our bf16 error over PyTorch's for every kind. Tensors are sorted by name: "logits" comes before "loss". */
static void compare_bf16(parity *p, spi_st_set *const runs[2], double ratio[KINDS]) {
    pool sums = {0};
    double logit = 0;
    spi_st_set *torch = NULL;
    memset(ratio, 0, KINDS * sizeof ratio[0]);
    if (!open_in(p, p->dir, "expected_bf16.safetensors", &torch)) return;
    for (size_t i = 0; i < spi_st_count(torch); i++) {
        const spi_st_tensor *theirs = spi_st_at(torch, i);
        const spi_st_tensor *truth = spi_st_find(p->expected, theirs->name);
        char key[PATH_SIZE];
        kind k;
        int run;
        if (!truth || !locate(theirs->name, &k, &run, key)) continue;
        const spi_st_tensor *got = counterpart(p, theirs, runs[run], key);
        float *a = got ? values(got) : NULL, *b = values(theirs), *c = values(truth);
        if (a && b && c) pool_errors(&sums, k, a, b, c, truth->count, &logit);
        free(a);
        free(b);
        free(c);
    }
    spi_st_close(torch);
    for (int k = 0; k < KINDS; k++) {
        char text[64];
        ratio[k] = sums.theirs[k] > 0 ? sqrt(sums.ours[k] / sums.theirs[k]) : NOTHING;
        snprintf(text, sizeof text, "error %.2f times PyTorch's, above %g", ratio[k], BF16_RATIO);
        if (!(ratio[k] <= BF16_RATIO)) complain(p, kind_names[k], text);
    }
}

/* ------------------------------------------------------------------ what is run */

static bool is_base_only(const parity *p) {
    return json_is_true(json_object_get(p->info, "base_only"));
}

/* The explicit shadow of a case that has one. */
static sp_adapter_options adapter_options(const parity *p, char shadow[PATH_SIZE]) {
    sp_adapter_options opts;
    sp_adapter_options_default(&opts);
    snprintf(shadow, PATH_SIZE, "%s/shadow", p->dir);
    if (access(shadow, F_OK) == 0) opts.shadow = shadow;
    opts.remove_embed_tokens = json_is_true(json_object_get(p->info, "remove_embed_tokens"));
    return opts;
}

static sp_model *load(parity *p, sp_dtype dtype) {
    char path[PATH_SIZE], shadow[PATH_SIZE];
    const sp_adapter_options adapter = adapter_options(p, shadow);
    sp_model_options opts;
    sp_model *model = NULL;
    sp_model_options_default(&opts);
    opts.dtype = dtype;
    opts.device = p->device;
    opts.trainable = is_base_only(p);
    snprintf(path, sizeof path, "%s/base", p->dir);
    if (!check(p, sp_model_load(p->ctx, path, &opts, &model))) return NULL;
    snprintf(path, sizeof path, "%s/adapter", p->dir);
    if (opts.trainable || check(p, sp_adapter_load(model, path, &adapter))) return model;
    sp_model_free(model);
    return NULL;
}

/* One forward file in each mode, with gradients in the first. */
static bool forward(parity *p, sp_model *model, spi_st_set *runs[2]) {
    static const char *const files[2] = {"base_shadow.safetensors", "shadow_only.safetensors"};
    char input[PATH_SIZE], output[PATH_SIZE];
    sp_forward_input options;
    snprintf(input, sizeof input, "%s/input.safetensors", p->dir);
    for (int run = 0; run < (is_base_only(p) ? 1 : 2); run++) {
        sp_forward_input_default(&options);
        options.mode = run ? SP_MODE_SHADOW_ONLY : SP_MODE_BASE_SHADOW;
        options.shadow_loss_weight = json_number_value(json_object_get(p->info, "shadow_loss_weight"));
        snprintf(output, sizeof output, "%.*s/%s", PATH_SIZE - 64, p->scratch, files[run]);
        if (!check(p, sp_forward_file(model, input, output, &options, run == 0))) return false;
        if (!check(p, spi_st_open(p->ctx, output, &runs[run]))) return false;
    }
    return true;
}

static bool compare_in(parity *p, sp_model *model, sp_dtype dtype, double errors[KINDS]) {
    spi_st_set *runs[2] = {NULL, NULL};
    bool done = forward(p, model, runs);
    if (done && dtype == SP_F32) compare_f32(p, runs, errors);
    if (done && dtype == SP_BF16) compare_bf16(p, runs, errors);
    spi_st_close(runs[0]);
    spi_st_close(runs[1]);
    return done;
}

/* ------------------------------------------------------------------ the adapter's files */

/* Names and shapes equal; numbers too where `same_values`. */
static void check_same_tensors(parity *p, const char *what, const spi_st_set *got, const spi_st_set *want,
                               bool same_values) {
    if (spi_st_count(got) != spi_st_count(want)) complain(p, what, "another number of tensors");
    for (size_t i = 0; i < spi_st_count(want); i++) {
        const spi_st_tensor *b = spi_st_at(want, i), *a = spi_st_find(got, b->name);
        if (!a || !same_shape(a, b)) {
            complain(p, what, b->name);
            continue;
        }
        float *x = values(a), *y = values(b);
        if (same_values && (!x || !y || max_error(x, y, b->count) != 0)) complain(p, what, b->name);
        free(x);
        free(y);
    }
}

static bool is_peft(const parity *p) {
    const char *dialect = json_string_value(json_object_get(p->info, "dialect"));
    return dialect && !strcmp(dialect, "peft");
}

static bool is_classifier(const parity *p) {
    return json_object_get(p->info, "num_labels") != NULL;
}

/* What we write otherwise than Python. */
static void drop_our_own(const parity *p, json_t *got, json_t *want) {
    /* Where the base lies; a version; blocks by their full names, where Python keeps the pattern it was given.
     */
    static const char *const of_peft[] = {
        "base_model_name_or_path", "peft_version",   "target_modules", "exclude_modules",
        "layers_to_transform",     "layers_pattern", "shadow_model"};
    /* A size that is the default is null here. */
    static const char *const defaults[] = {"shadow_num_hidden_layers", "update_hidden_size"};
    if (is_classifier(p)) json_object_del(got, "id2label");
    if (!is_peft(p)) return;
    for (size_t i = 0; i < sizeof of_peft / sizeof *of_peft; i++) {
        json_object_del(got, of_peft[i]);
        json_object_del(want, of_peft[i]);
    }
    for (size_t i = 0; i < sizeof defaults / sizeof *defaults; i++)
        if (json_is_null(json_object_get(want, defaults[i])))
            json_object_set(want, defaults[i], json_object_get(got, defaults[i]));
}

static void check_same_config(parity *p, const char *dir) {
    const char *file = is_peft(p) ? "adapter_config.json" : "shadow_config.json";
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%s/%s", dir, file);
    json_t *got = json_load_file(path, 0, NULL);
    snprintf(path, sizeof path, "%s/adapter/%s", p->dir, file);
    json_t *want = json_load_file(path, 0, NULL);
    if (got && want) drop_our_own(p, got, want);
    if (!got || !json_equal(got, want)) complain(p, "saved", "the adapter's config differs");
    json_decref(got);
    json_decref(want);
}

/* Saves the model's adapter and holds it against the fixture's: `same_values` for a loaded, not for a fresh
 * one. */
static void check_saved(parity *p, sp_model *model, const char *what, bool same_values) {
    const char *const files[] = {is_peft(p) ? "adapter_model.safetensors" : "shadow_adapter.safetensors",
                                 "shadow_modules.safetensors"};
    char adapter[PATH_SIZE], dir[PATH_SIZE], path[PATH_SIZE];
    snprintf(adapter, sizeof adapter, "%s/adapter", p->dir);
    snprintf(dir, sizeof dir, "%.*s/%s", PATH_SIZE - 64, p->scratch, what);
    if (!check(p, sp_adapter_save(model, dir))) return;
    check_same_config(p, dir);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        spi_st_set *want = NULL, *got = NULL;
        snprintf(path, sizeof path, "%.*s/%s", PATH_SIZE - 64, adapter, files[i]);
        if (access(path, F_OK) == 0 && open_in(p, adapter, files[i], &want) && open_in(p, dir, files[i], &got))
            check_same_tensors(p, what, got, want, same_values);
        spi_st_close(want);
        spi_st_close(got);
    }
}

/* The detached shadow computes by itself what the adapter computes in mode shadow_only. */
static void check_exported(parity *p, sp_model *model) {
    char dir[PATH_SIZE], input[PATH_SIZE], output[PATH_SIZE], text[64];
    sp_forward_input options;
    sp_model *alone = NULL;
    spi_st_set *got = NULL;
    sp_model_options opts;
    const spi_st_tensor *want = spi_st_find(p->expected, "logits_shadow_only");
    sp_model_info info = {.size = sizeof info};
    sp_model_get_info(model, &info);
    sp_model_options_default(&opts);
    opts.device = p->device;
    sp_forward_input_default(&options);
    snprintf(dir, sizeof dir, "%.*s/exported", PATH_SIZE - 64, p->scratch);
    snprintf(input, sizeof input, "%s/input.safetensors", p->dir);
    snprintf(output, sizeof output, "%.*s/exported.safetensors", PATH_SIZE - 64, p->scratch);
    if (is_classifier(p) && model->adapter->projection) {
        if (sp_export_shadow(model, dir) != SP_ERR_UNSUPPORTED)
            complain(p, "the exported shadow", "expected a refusal: there is no class for it");
        return;
    }
    if (check(p, sp_export_shadow(model, dir)) && check(p, sp_model_load(p->ctx, dir, &opts, &alone)) &&
        check(p, sp_forward_file(alone, input, output, &options, false)) &&
        check(p, spi_st_open(p->ctx, output, &got))) {
        const spi_st_tensor *logits = counterpart(p, want, got, "logits");
        float *a = logits ? values(logits) : NULL, *b = values(want);
        const double error = a && b ? max_error(a, b, want->count) : INFINITY;
        snprintf(text, sizeof text, "error %.3g above %g", error, F32_LIMIT);
        if (!(error <= F32_LIMIT)) complain(p, "the exported shadow", text);
        free(a);
        free(b);
    }
    spi_st_close(got);
    sp_model_free(alone);
}

/* What was saved loads without naming an explicit shadow, and trains the same. */
static void check_reloaded(parity *p, sp_model *model, const char *what) {
    char dir[PATH_SIZE];
    sp_model_info before = {.size = sizeof before}, after = {.size = sizeof after};
    snprintf(dir, sizeof dir, "%.*s/%s", PATH_SIZE - 64, p->scratch, what);
    sp_model_get_info(model, &before);
    sp_adapter_remove(model);
    if (!check(p, sp_adapter_load(model, dir, NULL))) return;
    sp_model_get_info(model, &after);
    if (after.trainable_parameters != before.trainable_parameters)
        complain(p, what, "trains another number of parameters once loaded again");
    check_saved(p, model, "again", true);
}

static void check_counts(parity *p, const sp_model *model, const sp_model_info *info) {
    /* A shadow's head that does not train is a copy in Python's wrapper, and counted where the case counts
     * heads. */
    const bool heads = is_classifier(p) || json_object_get(p->info, "modules_to_save");
    const bool copied = heads && !is_peft(p) && !model->adapter->shadow_head;
    json_int_t total = json_integer_value(json_object_get(p->info, "total_parameters"));
    json_int_t trainable = json_integer_value(json_object_get(p->info, "trainable_parameters"));
    if (info->base_parameters + info->adapter_parameters + (copied ? model->head->count : 0) != total)
        complain(p, "info", "total parameters differ");
    if (info->trainable_parameters != trainable) complain(p, "info", "trainable parameters differ");
}

/* ------------------------------------------------------------------ a case */

static void print_row(const parity *p, const double errors[KINDS], bool table, sp_dtype dtype) {
    const char *bar = table ? "| " : "", *gap = table ? " | " : "  ";
    printf("%s%-15s%s%-4s", bar, p->name, gap, dtype == SP_F32 ? "f32" : "bf16");
    for (int k = 0; k < KINDS; k++) {
        if (errors[k] == NOTHING) printf("%s%13s", gap, "-");
        else printf(dtype == SP_F32 ? "%s%13.1e" : "%s%12.2fx", gap, errors[k]);
    }
    const char *ids = dtype != SP_F32 || is_base_only(p) || is_classifier(p) ? "-"
                      : p->ids_equal                                         ? "equal"
                                                                             : "DIFFER";
    printf("%s%-6s%s\n", gap, ids, table ? " |" : "");
}

static void print_head(bool table) {
    const char *bar = table ? "| " : "", *gap = table ? " | " : "  ";
    printf("%s%-15s%s%-4s", bar, "case", gap, "type");
    for (int k = 0; k < KINDS; k++) printf("%s%13s", gap, kind_names[k]);
    printf("%s%-6s%s\n", gap, "greedy", table ? " |" : "");
    if (!table) return;
    printf("|---|---|");
    for (int k = 0; k < KINDS; k++) printf("--:|");
    printf("---|\n");
}

static void run_f32(parity *p, bool table) {
    double errors[KINDS];
    char shadow[PATH_SIZE];
    sp_model_info info = {.size = sizeof info};
    sp_model *model = load(p, SP_F32);
    if (!model) return;
    sp_model_get_info(model, &info);
    check_counts(p, model, &info);
    if (compare_in(p, model, SP_F32, errors)) {
        if (!is_classifier(p)) check_continuations(p, model, info.vocab_size);
        print_row(p, errors, table, SP_F32);
    }
    check_saved(p, model, "saved", true);
    check_exported(p, model);
    check_reloaded(p, model, "saved");
    const sp_adapter_options adapter = adapter_options(p, shadow);
    if (check(p, sp_adapter_create(model, &info.shadow, &adapter))) check_saved(p, model, "fresh", false);
    sp_model_free(model);
}

/* A base that trains: its numbers, and what it and a fresh one of the same config are saved as. */
static void run_base(parity *p, bool table) {
    static const char *const files[2] = {"saved", "fresh"};
    char base[PATH_SIZE], config[PATH_SIZE], dir[PATH_SIZE];
    double errors[KINDS];
    sp_model_info info = {.size = sizeof info};
    spi_st_set *want = NULL, *got = NULL;
    sp_model *model = load(p, SP_F32);
    if (!model) return;
    sp_model_get_info(model, &info);
    if (info.base_parameters != json_integer_value(json_object_get(p->info, "total_parameters")))
        complain(p, "info", "total parameters differ");
    if (compare_in(p, model, SP_F32, errors)) print_row(p, errors, table, SP_F32);
    snprintf(base, sizeof base, "%s/base", p->dir);
    snprintf(config, sizeof config, "%s/base/config.json", p->dir);
    open_in(p, base, "model.safetensors", &want);
    for (int fresh = 0; want && fresh < 2; fresh++) {
        snprintf(dir, sizeof dir, "%.*s/%s", PATH_SIZE - 64, p->scratch, files[fresh]);
        if (check(p, fresh ? sp_checkpoint_init(p->ctx, config, dir, 7, SP_F32) : sp_model_save(model, dir)) &&
            open_in(p, dir, "model.safetensors", &got))
            check_same_tensors(p, files[fresh], got, want, !fresh);
        spi_st_close(got);
        got = NULL;
    }
    spi_st_close(want);
    sp_model_free(model);
}

static void run_bf16(parity *p, bool table) {
    double errors[KINDS];
    sp_model *model = load(p, SP_BF16);
    if (!model) return;
    if (compare_in(p, model, SP_BF16, errors)) print_row(p, errors, table, SP_BF16);
    sp_model_free(model);
}

/* What the command line says. */
typedef struct parity_options {
    bool table;
    const char *device, *dtype; /* dtype NULL: every one that a case has */
} parity_options;

static bool wants(const parity_options *o, const char *dtype) {
    return !o->dtype || !strcmp(o->dtype, dtype);
}

/* Runs one case; the number of complaints. */
static int run_case(sp_context *ctx, const char *dir, const char *scratch, const parity_options *o) {
    char path[PATH_SIZE];
    const char *slash = strrchr(dir, '/');
    parity p = {
        .ctx = ctx, .device = o->device, .dir = dir, .name = slash ? slash + 1 : dir, .ids_equal = true};
    snprintf(p.scratch, sizeof p.scratch, "%.64s/%s", scratch, p.name);
    if (!check(&p, spi_make_dirs(ctx, p.scratch))) return p.failures;
    snprintf(path, sizeof path, "%s/case.json", dir);
    p.info = json_load_file(path, 0, NULL);
    if (!p.info) complain(&p, path, "cannot be read");
    if (p.info && open_in(&p, dir, "input.safetensors", &p.input) &&
        open_in(&p, dir, "expected.safetensors", &p.expected)) {
        if (wants(o, "f32") && is_base_only(&p)) run_base(&p, o->table);
        else if (wants(o, "f32")) run_f32(&p, o->table);
        if (wants(o, "bf16") && is_bf16(&p)) run_bf16(&p, o->table);
    }
    spi_st_close(p.input);
    spi_st_close(p.expected);
    json_decref(p.info);
    return p.failures;
}

int main(int argc, char **argv) {
    parity_options o = {.device = "cpu"};
    char scratch[] = "parity.XXXXXX";
    int failures = 0, first = 1;
    for (; first < argc && argv[first][0] == '-'; first++) {
        if (!strcmp(argv[first], "--table")) o.table = true;
        else if (!strcmp(argv[first], "--device") && first + 1 < argc) o.device = argv[++first];
        else if (!strcmp(argv[first], "--dtype") && first + 1 < argc) o.dtype = argv[++first];
        else break;
    }
    if (argc <= first || argv[first][0] == '-') {
        fprintf(stderr, "usage: parity [--table] [--device NAME] [--dtype f32|bf16] CASE_DIR...\n");
        return 2;
    }
    sp_context *ctx = sp_context_new();
    if (!ctx || !mkdtemp(scratch)) {
        perror("parity");
        sp_context_free(ctx);
        return 1;
    }
    print_head(o.table);
    for (int i = first; i < argc; i++) failures += run_case(ctx, argv[i], scratch, &o);
    if (spi_dir_remove(ctx, scratch) != SP_OK) fprintf(stderr, "%s\n", sp_last_error(ctx));
    sp_context_free(ctx);
    return failures ? 1 : 0;
}
