/* The commands, one a file. Each parses its own arguments and returns the exit code. */
#ifndef CLI_COMMANDS_H
#define CLI_COMMANDS_H

#include "options.h"

int cli_init(int argc, char **argv, const cli_command *command);
int cli_info(int argc, char **argv, const cli_command *command);
int cli_train(int argc, char **argv, const cli_command *command);
int cli_pretrain(int argc, char **argv, const cli_command *command);
int cli_generate(int argc, char **argv, const cli_command *command);
int cli_chat_command(int argc, char **argv, const cli_command *command);
int cli_eval(int argc, char **argv, const cli_command *command);
int cli_forward(int argc, char **argv, const cli_command *command);
int cli_bench(int argc, char **argv, const cli_command *command);
int cli_convert(int argc, char **argv, const cli_command *command);
int cli_export(int argc, char **argv, const cli_command *command);
int cli_wrap(int argc, char **argv, const cli_command *command);
int cli_tokenize(int argc, char **argv, const cli_command *command);

#endif
