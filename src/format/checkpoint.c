#include "format/checkpoint.h"

#include <stdlib.h>
#include <string.h>

static sp_status open_files(sp_context *ctx, bool with_weights, spi_checkpoint *ck) {
    if (!spi_path_is_dir(ck->dir))
        return spi_fail(ctx, SP_ERR_IO, "%s: expected a model directory, found %s", ck->dir,
                        spi_path_exists(ck->dir) ? "a file" : "nothing");
    SPI_TRY(spi_json_load(ctx, ck->config_path, &ck->config));
    spi_arena names = {0};
    char *generation = spi_path_join(&names, ck->dir, "generation_config.json");
    sp_status status = SP_OK;
    if (!generation) status = spi_fail_memory(ctx, strlen(ck->dir), "a path");
    else if (spi_path_exists(generation)) status = spi_json_load(ctx, generation, &ck->generation);
    spi_arena_free(&names);
    if (status == SP_OK && with_weights)
        status = spi_st_open_dir(ctx, ck->dir, "model.safetensors", &ck->weights);
    return status;
}

sp_status spi_checkpoint_open(sp_context *ctx, const char *dir, bool with_weights, spi_checkpoint *out) {
    *out = (spi_checkpoint){.dir = strdup(dir)};
    spi_buf path = {0};
    spi_buf_printf(&path, "%s/config.json", dir);
    out->config_path = spi_buf_take(&path);
    sp_status status = out->dir && out->config_path ? open_files(ctx, with_weights, out)
                                                    : spi_fail_memory(ctx, strlen(dir), "a path");
    if (status != SP_OK) spi_checkpoint_close(out);
    return status;
}

void spi_checkpoint_close(spi_checkpoint *ck) {
    free(ck->dir);
    free(ck->config_path);
    json_decref(ck->config);
    json_decref(ck->generation);
    spi_st_close(ck->weights);
    *ck = (spi_checkpoint){0};
}

sp_status spi_checkpoint_copy_tokenizer(sp_context *ctx, const char *from, const char *to) {
    static const char *const names[] = {"tokenizer.json",
                                        "tokenizer_config.json",
                                        "special_tokens_map.json",
                                        "added_tokens.json",
                                        "chat_template.jinja",
                                        "tokenizer.model",
                                        "vocab.json",
                                        "merges.txt"};
    spi_arena paths = {0};
    sp_status status = SP_OK;
    for (size_t i = 0; status == SP_OK && i < sizeof names / sizeof *names; i++) {
        char *source = spi_path_join(&paths, from, names[i]), *target = spi_path_join(&paths, to, names[i]);
        if (!source || !target) status = spi_fail_memory(ctx, strlen(from), "a path");
        else status = spi_file_copy(ctx, source, target, true);
    }
    spi_arena_free(&paths);
    return status;
}
