/* shadowpeft: one command per file, on the public header alone. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "common.h"

const cli_command cli_commands[] = {
    {"init", "--config FILE --output DIR | --base DIR --output DIR",
     "Write a fresh random checkpoint, or a fresh adapter for a base.", NULL, cli_init},
    {"info", "PATH | --base DIR [--adapter DIR]", "Tell what a model or an adapter is.", NULL, cli_info},
    {"train", "--base DIR --data FILE --output DIR [options]",
     "Fit a shadow adapter to a base that stays as it is.",
     "The adapter lies at the top of the output directory when training ends; checkpoint-N directories in it "
     "let an\n"
     "interrupted run go on (--resume). The first Ctrl-C finishes the step and saves, the second stops at "
     "once.",
     cli_train},
    {"pretrain", "--base DIR --data FILE --output DIR [options]", "Train all weights of a model on text.",
     "Start from a checkpoint that `shadowpeft init` made, or from any other.", cli_pretrain},
    {"generate", "--base DIR [--adapter DIR] --prompt TEXT [options]", "Continue prompts.",
     "Prompts come from --prompt, from the lines of --prompts-file, or from files named as arguments (- is "
     "standard\n"
     "input), each a prompt of its own. Text streams to a terminal. Any of --temperature, --top-k, --top-p and "
     "--min-p\n"
     "means sampling unless --no-do-sample is given. With --chat each prompt is what a user says, put into "
     "the\n"
     "tokenizer's chat template.",
     cli_generate},
    {"chat", "--base DIR [--adapter DIR] [options]", "Talk with a model.",
     "Every line of standard input is what the user says; answers stream to standard output. Lines that begin "
     "with /\n"
     "are commands: /reset forgets the conversation, /mode base_shadow or /mode shadow_only says which path "
     "answers,\n"
     "/help, /quit. A line that is to begin with / begins with //. Ctrl-C stops an answer, Ctrl-D leaves.",
     cli_chat_command},
    {"eval", "--base DIR [--adapter DIR] --data FILE [options]",
     "Measure loss, perplexity and accuracy of both paths.", NULL, cli_eval},
    {"forward", "--base DIR [--adapter DIR] --input IN --output OUT [options]",
     "Logits, losses and gradients from a file to a file.",
     "The input is a safetensors file with input_ids and perhaps attention_mask and labels (I64 [B, S]). The "
     "output has\n"
     "logits, shadow_logits, loss (F32), and with --grads a grad.KEY for every trainable tensor.",
     cli_forward},
    {"export", "--base DIR --adapter DIR --output DIR [options]",
     "Write the detached shadow as a model of its own.",
     "Where the shadow has the base's hidden size the result is a plain checkpoint of its family; else a\n"
     "causal_lm_with_hidden_projection, which Transformers loads once shadow_peft is imported.",
     cli_export},
    {"wrap", "--shadow DIR --base DIR --output DIR [--align --data FILE] [options]",
     "Put a small model behind a large model's head, for a shadow to start from.",
     "A projection joins the two: the one behind which the large head says most nearly what the small model's "
     "own\n"
     "head said (pseudo-inverse). Both models need the same vocabulary. The result is a\n"
     "causal_lm_with_hidden_projection: a model by itself, and a --shadow for the large model.\n\n"
     "With --align the projection then trains on text, and nothing else does, until its logits come near those "
     "of the\n"
     "small model's own head; the loss at every token is kl-weight T^2 KL + mse-weight (mean square gap). "
     "Options "
     "of data,\n"
     "training and evaluation are for that alone. An interrupted run goes on with --resume.",
     cli_wrap},
    {"convert", "--base DIR --adapter DIR --to DIALECT --output DIR",
     "Turn an adapter into one of the other dialect that computes the same.",
     "That is possible only where no update takes part, which is where a single layer is adapted: the updates "
     "of "
     "shadow_peft\n"
     "and of Hugging Face PEFT are different functions. Anything else is refused, with the reason.",
     cli_convert},
    {"bench", "train|prefill|decode --base DIR [options]", "Measure speed and memory at a shape, as JSON.",
     "The output has a breakdown by kind of operation, from a second run in which each operation is timed.",
     cli_bench},
    {"tokenize", "--tokenizer DIR [TEXT-FILE] | --train FILE --output DIR",
     "Text to token ids and back; learn a tokenizer.", NULL, cli_tokenize},
    {0}};

static void print_usage(FILE *to) {
    fprintf(
        to,
        "usage: shadowpeft COMMAND [options]\n\n"
        "Parameter-efficient fine-tuning of language models by a shadow network (ShadowPEFT).\n\nCommands:\n");
    for (const cli_command *c = cli_commands; c->name; c++) fprintf(to, "  %-10s %s\n", c->name, c->summary);
    fprintf(to,
            "\n'shadowpeft COMMAND --help' tells everything about a command. --version prints the version.\n");
}

static int unknown_command(const char *word) {
    const char *names[sizeof cli_commands / sizeof *cli_commands];
    size_t count = 0;
    for (const cli_command *c = cli_commands; c->name; c++) names[count++] = c->name;
    names[count] = NULL;
    const char *nearest = cli_nearest(word, names);
    fprintf(stderr, "shadowpeft: unknown command '%s'", word);
    if (nearest) fprintf(stderr, "; did you mean '%s'?", nearest);
    fprintf(stderr, "\nTry 'shadowpeft --help'.\n");
    return CLI_USAGE;
}

static int dispatch(int argc, char **argv) {
    if (argc < 2) {
        print_usage(stderr);
        return CLI_USAGE;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        print_usage(stdout);
        return CLI_OK;
    }
    if (!strcmp(argv[1], "--version")) {
        printf("shadowpeft %s\n", sp_version());
        return CLI_OK;
    }
    for (const cli_command *c = cli_commands; c->name; c++)
        if (!strcmp(c->name, argv[1])) return c->run(argc - 2, argv + 2, c);
    return unknown_command(argv[1]);
}

/*
 * OpenMP's threads spin for milliseconds between operations, which makes the command ten times slower as soon
 * as another program wants a core too; OpenBLAS's, which only `wrap` uses, for the first 100 ms of every
 * process. Both libraries read how long to spin before main begins: hence a second start, unless the user has
 * said something about it.
 */
static void spin_less(char **argv) {
    const bool openmp = getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY");
    const bool openblas = getenv("OPENBLAS_THREAD_TIMEOUT") != NULL; /* the power of two of processor cycles */
    if (openmp && openblas) return;
    if (!openmp && setenv("GOMP_SPINCOUNT", "2000", 1) != 0) return;
    if (!openblas && setenv("OPENBLAS_THREAD_TIMEOUT", "4", 1) != 0) return;
    execv("/proc/self/exe", argv);
}

int main(int argc, char **argv) {
    spin_less(argv);
    const int code = dispatch(argc, argv);
    cli_options_free();
    /* Output that did not reach its reader is a failure, a closed pipe excepted: SIGPIPE ends that quietly. */
    if (fflush(stdout) != 0 && code == CLI_OK) return cli_say_failed("standard output: cannot write");
    return code;
}
