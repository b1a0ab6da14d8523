/* sp_model: loading a base, what is in it, taking it apart. */
#include "shadow/model.h"

#include <stdlib.h>
#include <string.h>

#include "shadow/adapter.h"
#include "shadow/projected.h"
#include "shadow/teacher.h"

void sp_model_options_default(sp_model_options *opts) {
    *opts = (sp_model_options){.size = sizeof *opts, .device = "auto"};
}

/* ------------------------------------------------------------------ loading */

/* The dtype that most of the weights have, F16 taken as F32: the one to compute in unless told otherwise. */
static sp_dtype stored_dtype(const spi_st_set *set) {
    int64_t bf16 = 0, other = 0;
    for (size_t i = 0; i < spi_st_count(set); i++) {
        const spi_st_tensor *t = spi_st_at(set, i);
        if (t->dtype == SP_BF16) bf16 += t->count;
        else other += t->count;
    }
    return bf16 > other ? SP_BF16 : SP_F32;
}

static sp_status choose_dtype(sp_context *ctx, sp_dtype asked, const spi_st_set *set, sp_dtype *out) {
    if (asked != SP_DTYPE_AUTO && asked != SP_F32 && asked != SP_BF16)
        return spi_fail(ctx, SP_ERR_ARGUMENT, "dtype: expected F32 or BF16 to compute in, found %s",
                        sp_dtype_name(asked));
    *out = asked == SP_DTYPE_AUTO ? stored_dtype(set) : asked;
    return SP_OK;
}

/* Files of tied models have the embedding only, or both and equal. A head of its own is used, whatever the
 * config says, as Transformers does. */
static bool is_tied(sp_model *m) {
    const spi_arch *a = &m->base->arch;
    const spi_st_tensor *head = spi_st_find(m->files.weights, a->family->head);
    const spi_st_tensor *embed = spi_param_find(m->files.weights, m->base->embed->name, &m->prefix);
    if (!a->tie_embeddings || !head || !embed) return a->tie_embeddings;
    if (head->dtype == embed->dtype && head->bytes == embed->bytes &&
        memcmp(head->data, embed->data, head->bytes) == 0)
        return true;
    spi_log(m->ctx, SP_LOG_WARNING, "%s: \"tie_word_embeddings\" is true, but %s differs from %s: not tied",
            m->files.config_path, a->family->head, embed->name);
    return false;
}

static sp_status new_head(sp_model *m, const char *name, int64_t outputs) {
    m->head = spi_params_add(m->dev, &m->head_params,
                             &(spi_param_spec){.name = name,
                                               .kind = SPI_PARAM_MATRIX,
                                               .group = SPI_GROUP_MAIN,
                                               .ndim = 2,
                                               .shape = {outputs, spi_arch_out_size(&m->base->arch)},
                                               .quantize = m->quantized && m->task == SP_TASK_CAUSAL_LM,
                                               .trainable = m->trainable,
                                               .decay = true});
    return m->head ? SP_OK : SP_ERR_MEMORY;
}

static sp_status add_head(sp_model *m) {
    spi_arch *a = &m->base->arch;
    m->embed = m->base->embed;
    if (m->task == SP_TASK_SEQ_CLS) {
        a->logit_softcap = 0; /* belongs to the head over the vocabulary */
        SPI_TRY(spi_model_read_labels(m));
        return m->labels.count ? new_head(m, SPI_SCORE_WEIGHT, m->labels.count) : SP_OK;
    }
    a->tie_embeddings = is_tied(m);
    if (!a->tie_embeddings) return new_head(m, a->family->head, a->vocab_size);
    m->head = m->base->embed;
    return SP_OK;
}

/* "architectures" names the task model's class. */
static sp_status choose_task(sp_model *m, sp_task asked) {
    const json_t *classes = json_object_get(m->files.config, "architectures");
    const char *class = json_string_value(json_array_get(classes, 0));
    const bool classifier = class && strstr(class, "ForSequenceClassification");
    m->task = asked != SP_TASK_AUTO ? asked : classifier ? SP_TASK_SEQ_CLS : SP_TASK_CAUSAL_LM;
    if (m->task == SP_TASK_CAUSAL_LM && classifier)
        return spi_fail(m->ctx, SP_ERR_MISMATCH, "%s: \"architectures\": expected a causal LM, found %s",
                        m->files.config_path, class);
    if (m->task == SP_TASK_SEQ_CLS && spi_is_projected(m->files.config))
        return spi_fail(m->ctx, SP_ERR_UNSUPPORTED,
                        "%s: a causal_lm_with_hidden_projection is no base for classification",
                        m->files.config_path);
    if (m->task == SP_TASK_SEQ_CLS && m->trainable)
        return spi_fail(
            m->ctx, SP_ERR_UNSUPPORTED,
            "task seq-cls: expected a frozen base with an adapter; all weights train for causal LM only");
    return (unsigned)m->task <= SP_TASK_SEQ_CLS
               ? SP_OK
               : spi_fail(m->ctx, SP_ERR_ARGUMENT, "task: no such task: %d", (int)asked);
}

static sp_status load_weights(sp_model *m, sp_dtype dtype) {
    const size_t count = m->base->params.count + m->head_params.count;
    spi_params all = {.items = malloc(count * sizeof(spi_param *)), .count = count};
    if (!all.items) return spi_fail_memory(m->ctx, count * sizeof(spi_param *), "parameters");
    memcpy(all.items, m->base->params.items, m->base->params.count * sizeof(spi_param *));
    if (m->head_params.count)
        memcpy(all.items + m->base->params.count, m->head_params.items,
               m->head_params.count * sizeof(spi_param *));
    sp_status status = spi_params_load(m->dev, &all, dtype, m->files.weights, &m->prefix, m->files.dir);
    free(all.items);
    return status;
}

/* "eos_token_id" of generation_config.json or config.json: an integer or a list of them. */
static sp_status read_eos(sp_model *m) {
    const json_t *value = json_object_get(m->files.generation, "eos_token_id");
    if (!value || json_is_null(value)) value = json_object_get(m->files.config, "eos_token_id");
    const size_t count = json_is_array(value) ? json_array_size(value) : json_is_integer(value);
    m->eos_ids = calloc(count + 1, sizeof *m->eos_ids);
    if (!m->eos_ids) return spi_fail_memory(m->ctx, count * sizeof *m->eos_ids, "EOS ids");
    for (size_t i = 0; i < count; i++) {
        const json_t *id = json_is_array(value) ? json_array_get(value, i) : value;
        if (json_is_integer(id)) m->eos_ids[m->eos_count++] = (int32_t)json_integer_value(id);
    }
    return SP_OK;
}

static sp_status choose_quantization(sp_model *m, const sp_model_options *opts) {
    if (opts->quantize != SP_DTYPE_AUTO && opts->quantize != SP_I8)
        return spi_fail(m->ctx, SP_ERR_ARGUMENT, "quantize: expected I8, or none, found %s",
                        sp_dtype_name(opts->quantize));
    m->quantized = opts->quantize == SP_I8;
    if (m->quantized && m->trainable)
        return spi_fail(m->ctx, SP_ERR_ARGUMENT,
                        "quantize: expected a frozen base: weights that train are not quantised");
    return SP_OK;
}

static sp_status load(sp_model *m, const char *dir, const sp_model_options *opts) {
    spi_arch arch;
    sp_dtype dtype = SP_F32;
    SPI_TRY(choose_quantization(m, opts));
    SPI_TRY(spi_checkpoint_open(m->ctx, dir, false, &m->files));
    SPI_TRY(choose_task(m, opts->task));
    SPI_TRY(spi_model_arch_read(m->ctx, m->files.config_path, m->files.config, &arch));
    sp_status status = spi_st_open_dir(m->ctx, dir, "model.safetensors", &m->files.weights);
    if (status == SP_OK) status = choose_dtype(m->ctx, opts->dtype, m->files.weights, &dtype);
    if (status == SP_OK) status = spi_device_open(m->ctx, opts->device, &m->dev);
    if (status == SP_OK) {
        m->prefix = (spi_prefix){spi_arch_prefix(&arch), spi_decoder_stored_prefix(&arch, m->files.weights)};
        const spi_decoder_spec spec = {.prefix = spi_arch_prefix(&arch),
                                       .group = SPI_GROUP_MAIN,
                                       .dtype = dtype,
                                       .embed = true,
                                       .trainable = opts->trainable,
                                       .embed_trainable = opts->trainable,
                                       .quantize = m->quantized};
        status = spi_decoder_new(m->dev, &arch, &spec, &m->base);
    }
    spi_arch_free(&arch);
    SPI_TRY(status);
    SPI_TRY(add_head(m));
    SPI_TRY(load_weights(m, dtype));
    SPI_TRY(read_eos(m));
    m->pool = spi_pool_new(m->dev);
    return m->pool ? SP_OK : spi_fail_memory(m->ctx, sizeof m->pool, "a memory pool");
}

sp_status sp_model_load(sp_context *ctx, const char *dir, const sp_model_options *opts, sp_model **out) {
    sp_model_options o;
    sp_model_options_default(&o);
    if (opts) memcpy(&o, opts, opts->size < sizeof o ? opts->size : sizeof o);
    *out = NULL;
    sp_model *m = calloc(1, sizeof *m);
    if (!m) return spi_fail_memory(ctx, sizeof *m, "a model");
    m->ctx = ctx;
    m->trainable = o.trainable;
    sp_status status = load(m, dir, &o);
    if (status != SP_OK) {
        sp_model_free(m);
        return status;
    }
    *out = m;
    return SP_OK;
}

void sp_model_free(sp_model *model) {
    if (!model) return;
    if (model->dev) {
        sp_adapter_remove(model);
        spi_teacher_free(model);
        spi_params_free(model->dev, &model->head_params);
        spi_decoder_free(model->base);
        spi_pool_free(model->pool);
        spi_device_close(model->dev);
    }
    spi_labels_free(&model->labels);
    free(model->eos_ids);
    spi_checkpoint_close(&model->files);
    free(model);
}

/* ------------------------------------------------------------------ what is in it */

static int64_t count_elements(const spi_params *list) {
    int64_t n = 0;
    for (size_t i = 0; i < list->count; i++) n += list->items[i]->count;
    return n;
}

/* Bytes of the values that operations read, wherever they lie. */
static int64_t value_bytes(const spi_param *p) {
    if (p->kind == SPI_PARAM_F32) return p->count * (int64_t)sizeof(float);
    return p->count * (int64_t)spi_dtype_size(p->w.m.dtype) +
           (p->w.scale ? p->w.m.rows * (int64_t)sizeof(float) : 0);
}

static int64_t count_bytes(const spi_params *list) {
    int64_t n = 0;
    for (size_t i = 0; i < list->count; i++) n += value_bytes(list->items[i]);
    return n;
}

/* No memory of the parameter's own has its values. */
static bool is_mapped(const spi_param *p) {
    const void *values = p->kind == SPI_PARAM_F32 ? p->f32 : p->w.m.data;
    for (size_t i = 0; i < sizeof p->owned / sizeof *p->owned; i++)
        if (values == p->owned[i]) return false;
    return true;
}

static int64_t count_mapped(const spi_params *list) {
    int64_t n = 0;
    for (size_t i = 0; i < list->count; i++)
        if (!list->items[i]->trainable && is_mapped(list->items[i])) n += value_bytes(list->items[i]);
    return n;
}

int64_t spi_model_mapped_bytes(const sp_model *model) {
    int64_t n = count_mapped(&model->base->params) + count_mapped(&model->head_params);
    if (model->adapter)
        n += count_mapped(&model->adapter->params) + count_mapped(&model->adapter->shadow->params);
    return n;
}

static int64_t cache_bytes(const spi_decoder *dec) {
    const spi_arch *a = &dec->arch;
    return 2 * a->num_layers * a->kv_heads * a->head_dim * (int64_t)spi_dtype_size(dec->dtype);
}

/* Where the device is and how much memory it has. */
static void device_info(const sp_model *model, sp_model_info *info) {
    size_t unused = 0, total = 0;
    model->dev->op->memory(model->dev, &unused, &total);
    info->device = model->dev->op->name;
    info->device_name = model->dev->label;
    info->device_bytes = (int64_t)total;
    info->device_free_bytes = (int64_t)unused;
}

static int64_t count_trainable(const spi_params *list) {
    int64_t n = 0;
    for (size_t i = 0; i < list->count; i++) n += list->items[i]->trainable ? list->items[i]->count : 0;
    return n;
}

void sp_model_get_info(const sp_model *model, sp_model_info *info) {
    const spi_arch *a = &model->base->arch;
    const spi_adapter *adapter = model->adapter;
    sp_model_info all = {.size = info->size,
                         .model_type = a->family->model_type,
                         .vocab_size = a->vocab_size,
                         .hidden_size = a->hidden_size,
                         .num_layers = a->num_layers,
                         .max_position_embeddings = a->max_positions,
                         .compute_dtype = model->base->dtype,
                         .has_adapter = adapter != NULL,
                         .base_parameters =
                             count_elements(&model->base->params) + count_elements(&model->head_params),
                         .projected = a->out_size > 0,
                         .task = model->task,
                         .num_labels = spi_model_labels(model)->count,
                         .quantized = model->quantized ? SP_I8 : SP_DTYPE_AUTO,
                         .base_bytes = count_bytes(&model->base->params) + count_bytes(&model->head_params),
                         .cache_bytes_per_token = cache_bytes(model->base)};
    device_info(model, &all);
    if (adapter) {
        all.shadow = adapter->config;
        all.cache_bytes_per_token += cache_bytes(adapter->shadow);
        all.adapter_bytes = count_bytes(&adapter->shadow->params) + count_bytes(&adapter->params) +
                            count_bytes(&adapter->modules);
        all.adapter_parameters = count_elements(&adapter->shadow->params) + count_elements(&adapter->params) +
                                 count_elements(&adapter->modules);
        /* The base's head that it trains stands in for the base's own. */
        if (adapter->head && !adapter->dialect->base_counts_heads)
            all.adapter_parameters -= adapter->head->count;
        all.trainable_parameters = count_trainable(&adapter->shadow->params) +
                                   count_trainable(&adapter->params) + count_trainable(&adapter->modules);
    } else if (model->trainable || model->teacher) {
        all.trainable_parameters = count_trainable(&model->base->params) + count_trainable(&model->head_params);
    }
    memcpy(info, &all, info->size < sizeof all ? info->size : sizeof all);
}

static void append_trainable(const spi_params *from, spi_param **list, size_t *count) {
    for (size_t i = 0; i < from->count; i++)
        if (from->items[i]->trainable) list[(*count)++] = from->items[i];
}

sp_status spi_model_trainable(const sp_model *model, spi_param ***list, size_t *count) {
    static const spi_params none = {0};
    const spi_adapter *a = model->adapter;
    const spi_params *parts[] = {a ? &a->shadow->params : &model->base->params,
                                 a ? &a->params : &model->head_params, a ? &a->modules : &none};
    *count = 0;
    *list = calloc(parts[0]->count + parts[1]->count + parts[2]->count + 1, sizeof **list);
    if (!*list) return spi_fail_memory(model->ctx, parts[0]->count * sizeof **list, "parameters");
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) append_trainable(parts[i], *list, count);
    return SP_OK;
}

const spi_param *spi_base_head(const sp_model *model) {
    return model->adapter && model->adapter->head ? model->adapter->head : model->head;
}

const spi_param *spi_shadow_head(const sp_model *model) {
    return model->adapter->shadow_head ? model->adapter->shadow_head : model->head;
}

/* Layers and final norm; the embedding and a projection to another model's head are not meant. */
static void train_layers(sp_model *model, bool train) {
    spi_decoder *base = model->base;
    for (size_t i = 0; i < base->params.count; i++) {
        spi_param *p = base->params.items[i];
        if (p != base->embed && !(p == base->project_out && base->arch.out_size))
            spi_param_train(model->dev, p, train);
    }
}

void spi_model_freeze(sp_model *model, bool backbone, bool embed, bool head) {
    if (!model->trainable) return;
    const bool tied = model->head == model->base->embed;
    train_layers(model, !backbone);
    spi_param_train(model->dev, model->base->embed, !backbone && !embed && !(tied && head));
    if (!tied) spi_param_train(model->dev, model->head, !head);
}

sp_status spi_model_begin(sp_model *model, spi_param *const *params, size_t count) {
    for (size_t i = 0; i < count; i++) SPI_TRY(spi_param_begin(model->dev, params[i], model->base->dtype));
    return SP_OK;
}

sp_status spi_model_save_trained(sp_model *model, const char *dir) {
    return model->adapter ? sp_adapter_save(model, dir) : sp_model_save(model, dir);
}

sp_status spi_model_check_place(const sp_model *model, const char *dir) {
    return model->adapter ? spi_adapter_check_place(model, dir) : SP_OK;
}
