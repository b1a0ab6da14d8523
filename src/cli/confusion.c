#include "confusion.h"

#include <stdlib.h>
#include <string.h>

/* Labels from which on a table is too wide for a terminal. */
#define MOST_COLUMNS 16
#define MOST_MISTAKES 10
#define NAME_WIDTH 24

static void print_table(const sp_model *model, const int64_t *counts, int32_t n) {
    int width = 5;
    for (int32_t i = 0; i < n; i++) {
        const int length = (int)strlen(sp_model_label(model, i));
        if (length > width) width = length < NAME_WIDTH ? length : NAME_WIDTH;
    }
    printf("  %-*s  taken for label number\n  %-*s ", width + 3, "", width + 3, "label");
    for (int32_t j = 0; j < n; j++) printf(" %5d", (int)j);
    printf("\n");
    for (int32_t i = 0; i < n; i++) {
        printf("  %2d %-*.*s ", (int)i, width, width, sp_model_label(model, i));
        for (int32_t j = 0; j < n; j++) printf(" %5lld", (long long)counts[(int64_t)i * n + j]);
        printf("\n");
    }
}

typedef struct mistake {
    int32_t label, taken;
    int64_t count;
} mistake;

static int by_count(const void *a, const void *b) {
    const mistake *x = a, *y = b;
    if (x->count != y->count) return x->count < y->count ? 1 : -1;
    return x->label != y->label ? (x->label > y->label) - (x->label < y->label) : x->taken - y->taken;
}

static void print_mistakes(const sp_model *model, const int64_t *counts, int32_t n) {
    mistake *all = malloc((size_t)n * (size_t)n * sizeof *all);
    size_t found = 0;
    for (int32_t i = 0; all && i < n; i++)
        for (int32_t j = 0; j < n; j++)
            if (i != j && counts[(int64_t)i * n + j])
                all[found++] = (mistake){i, j, counts[(int64_t)i * n + j]};
    if (found) qsort(all, found, sizeof *all, by_count);
    printf("  the commonest mistakes:\n");
    for (size_t i = 0; i < found && i < MOST_MISTAKES; i++)
        printf("  %5lld  %s taken for %s\n", (long long)all[i].count, sp_model_label(model, all[i].label),
               sp_model_label(model, all[i].taken));
    free(all);
}

void cli_print_confusion(const sp_model *model, const int64_t *counts, int32_t n) {
    if (n <= MOST_COLUMNS) print_table(model, counts, n);
    else print_mistakes(model, counts, n);
}

void cli_json_confusion(json_t *object, const sp_model *model, const int64_t *counts, int32_t n) {
    json_t *labels = json_array(), *rows = json_array();
    for (int32_t i = 0; i < n; i++) {
        json_t *row = json_array();
        for (int32_t j = 0; j < n; j++) json_array_append_new(row, json_integer(counts[(int64_t)i * n + j]));
        json_array_append_new(labels, json_string(sp_model_label(model, i)));
        json_array_append_new(rows, row);
    }
    json_object_set_new(object, "labels", labels);
    json_object_set_new(object, "confusion", rows);
}
