#include "train/fingerprint.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shadow/projected.h"
#include "shadow/teacher.h"

/* ------------------------------------------------------------------ contents as short texts */

#define HASH_START UINT64_C(0xcbf29ce484222325)

/* FNV-1a, a word at a time. */
static uint64_t mix(uint64_t hash, uint64_t word) {
    return (hash ^ word) * UINT64_C(0x100000001b3);
}

static uint64_t mix_bytes(uint64_t hash, const unsigned char *bytes, size_t count) {
    for (size_t i = 0; i < count; i++) hash = mix(hash, bytes[i]);
    return hash;
}

static json_t *hash_text(uint64_t hash) {
    char text[17];
    snprintf(text, sizeof text, "%016" PRIx64, hash);
    return json_string(text);
}

/* Ids and masks of all examples, in their order. */
static json_t *data_text(const sp_dataset *data) {
    uint64_t hash = HASH_START;
    if (!data) return json_null();
    for (int64_t i = 0; i < sp_dataset_count(data); i++) {
        sp_example e;
        sp_dataset_get(data, i, &e);
        hash = mix(hash, (uint64_t)e.length);
        if (e.label >= 0) hash = mix(hash, (uint64_t)e.label);
        for (int64_t t = 0; t < e.length; t++)
            hash = mix(hash, (uint64_t)(uint32_t)e.ids[t] << 1 | (e.mask[t] != 0));
    }
    return hash_text(hash);
}

/* Name, shape and first values. */
static uint64_t mix_tensor(uint64_t hash, const spi_st_tensor *t) {
    hash = mix_bytes(hash, (const unsigned char *)t->name, strlen(t->name));
    for (int j = 0; j < t->ndim; j++) hash = mix(hash, (uint64_t)t->shape[j]);
    return mix_bytes(hash, t->data, t->bytes < 256 ? t->bytes : 256);
}

/*
 * Of the base's tensors: enough to tell two checkpoints apart at once. A projection that learns from a teacher
 * is left out: the run may end where the base lies.
 */
static json_t *base_text(const sp_model *model) {
    uint64_t hash = HASH_START;
    const spi_st_set *set = model->files.weights;
    for (size_t i = 0; i < spi_st_count(set); i++) {
        const spi_st_tensor *t = spi_st_at(set, i);
        if (spi_model_distills(model) && strcmp(t->name, SPI_PROJECTED_WEIGHT) == 0) continue;
        hash = mix_tensor(hash, t);
    }
    return hash_text(hash);
}

static json_t *teacher_text(const spi_teacher *teacher) {
    uint64_t hash = HASH_START;
    for (size_t i = 0; i < spi_st_count(teacher->files.weights); i++)
        hash = mix_tensor(hash, spi_st_at(teacher->files.weights, i));
    return hash_text(hash);
}

/* Names of labels in their order. */
static json_t *labels_text(const sp_model *model) {
    uint64_t hash = HASH_START;
    for (int32_t i = 0; i < (int32_t)spi_model_outputs(model); i++) {
        const char *name = sp_model_label(model, i);
        hash = mix_bytes(mix(hash, (uint64_t)i), (const unsigned char *)name, strlen(name));
    }
    return hash_text(hash);
}

/* ------------------------------------------------------------------ the object */

static json_t *of_options(const sp_train_options *o) {
    return json_pack("{s:i,s:i,s:f,s:f,s:f,s:f,s:f,s:f,s:i,s:f,s:f,s:b,s:b,s:I,s:b,s:b}",
                     "per_device_train_batch_size", o->per_device_train_batch_size,
                     "gradient_accumulation_steps", o->gradient_accumulation_steps, "learning_rate",
                     o->learning_rate, "weight_decay", o->weight_decay, "adam_beta1", o->adam_beta1,
                     "adam_beta2", o->adam_beta2, "adam_epsilon", o->adam_epsilon, "max_grad_norm",
                     o->max_grad_norm, "lr_scheduler_type", (int)o->lr_scheduler_type, "shadow_lr_multiplier",
                     o->shadow_lr_multiplier, "shadow_loss_weight", o->shadow_loss_weight, "packing",
                     o->packing, "shuffle", o->shuffle, "seed", (json_int_t)o->seed, "freeze_embed",
                     o->freeze_embed, "freeze_head", o->freeze_head, "freeze_backbone", o->freeze_backbone);
}

/* What matters for some runs only: a run with a constant learning rate may be prolonged, others may not. */
static void add_conditional(json_t *object, const spi_run_facts *f) {
    const sp_schedule schedule = f->options->lr_scheduler_type;
    if (schedule != SP_SCHEDULE_CONSTANT)
        json_object_set_new(object, "warmup_steps", json_integer(f->warmup_steps));
    if (schedule == SP_SCHEDULE_LINEAR || schedule == SP_SCHEDULE_COSINE)
        json_object_set_new(object, "total_steps", json_integer(f->total_steps));
    if (f->options->packing)
        json_object_set_new(object, "max_seq_length", json_integer(f->options->max_seq_length));
}

static void add_model(json_t *object, const sp_model *model) {
    const char *dtype = sp_dtype_name(model->base->dtype);
    /* One text for both: a run that lacks a key is not told from one that has it. */
    json_object_set_new(object, "dtype",
                        model->quantized ? json_sprintf("%s, base %s", dtype, sp_dtype_name(SP_I8))
                                         : json_string(dtype));
    json_object_set_new(object, "base", base_text(model));
    if (!model->adapter) return;
    const sp_shadow_config *c = &model->adapter->config;
    json_object_set_new(object, "num_shadow_layers", json_integer(c->num_shadow_layers));
    json_object_set_new(object, "injection_hidden_size", json_integer(c->injection_hidden_size));
    json_object_set_new(object, "gate_hidden_size", json_integer(c->gate_hidden_size));
    json_object_set_new(object, "alpha", json_real(c->alpha));
    json_object_set_new(object, "dropout", json_real(c->dropout));
    if (model->adapter->modules.count)
        json_object_set_new(object, "modules_to_save", json_integer((json_int_t)model->adapter->modules.count));
    if (model->task == SP_TASK_SEQ_CLS) json_object_set_new(object, "labels", labels_text(model));
    if (c->dialect == SP_DIALECT_SHADOW_PEFT) return;
    json_object_set_new(object, "dialect", json_string(model->adapter->dialect->name));
    json_object_set_new(object, "layers_to_transform",
                        json_pack("[I,I]", (json_int_t)model->adapter->first,
                                  (json_int_t)(model->adapter->first + model->adapter->count - 1)));
}

static void add_teacher(json_t *object, const spi_run_facts *f) {
    json_object_set_new(object, "teacher", teacher_text(f->model->teacher));
    json_object_set_new(object, "distill_kl", json_real(f->options->distill_kl));
    json_object_set_new(object, "distill_mse", json_real(f->options->distill_mse));
    json_object_set_new(object, "distill_temperature", json_real(f->options->distill_temperature));
}

json_t *spi_fingerprint(const spi_run_facts *f) {
    json_t *object = of_options(f->options);
    if (!object) return NULL;
    add_conditional(object, f);
    add_model(object, f->model);
    if (spi_model_distills(f->model)) add_teacher(object, f);
    json_object_set_new(object, "train_data", data_text(f->train));
    json_object_set_new(object, "eval_data", data_text(f->eval));
    return object;
}

static sp_status fail_key(sp_context *ctx, const char *file, const char *key, const json_t *before,
                          const json_t *now) {
    char *old = json_dumps(before, JSON_ENCODE_ANY), *new = json_dumps(now, JSON_ENCODE_ANY);
    const sp_status status =
        spi_fail(ctx, SP_ERR_MISMATCH,
                 "%s: \"%s\": the run to resume was begun with %s, found %s now: give what "
                 "it was begun with, or begin anew in another output_dir",
                 file, key, old ? old : "none", new ? new : "none");
    free(old);
    free(new);
    return status;
}

sp_status spi_fingerprint_check(sp_context *ctx, const char *file, const json_t *expected,
                                const json_t *found) {
    void *at = json_object_iter((json_t *)(uintptr_t)expected);
    for (; at; at = json_object_iter_next((json_t *)(uintptr_t)expected, at)) {
        const char *key = json_object_iter_key(at);
        const json_t *value = json_object_iter_value(at), *was = json_object_get(found, key);
        if (!was || !json_equal(was, value)) return fail_key(ctx, file, key, was, value);
    }
    return SP_OK;
}
