#include <cstdio>

#include "cmd/omnitrain/command.h"
#include "data/tokenizer/trainer.h"

namespace omnitrain {
namespace {

struct TokenizerArguments {
  std::vector<std::string> files;
  std::string target;
  TokenizerTraining training;
};

int Run(const TokenizerArguments& arguments) {
  const int size = TrainTokenizer(arguments.files, arguments.training, arguments.target);
  std::printf("%s: %d tokens\n", arguments.target.c_str(), size);
  return 0;
}

}  // namespace

void AddTokenizer(CLI::App& app, Runner* run) {
  auto arguments = std::make_shared<TokenizerArguments>();
  CLI::App* tokenizer = app.add_subcommand("tokenizer", "make a tokenizer");
  tokenizer->require_subcommand(1);
  CLI::App* train = tokenizer->add_subcommand(
      "train", "byte-level BPE on text files; writes tokenizer.json and tokenizer_config.json");
  train->add_option("files", arguments->files, "UTF-8 text")->required();
  train->add_option("--vocab", arguments->training.vocab_size,
                    "tokens in all, 256 bytes and the special tokens included");
  train->add_option("--min-count", arguments->training.min_count,
                    "pairs that occur less often are not merged");
  train->add_option("--to", arguments->target, "the directory to write")->required();
  train->callback([arguments, run] { *run = [arguments] { return Run(*arguments); }; });
}

}  // namespace omnitrain
