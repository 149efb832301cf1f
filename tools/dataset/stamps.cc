#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include "core/base/error.h"
#include "tools/dataset/stamp_set.h"

int main(int argc, char** argv) {
  omnitrain::StampSetOptions options;
  CLI::App app("Builds a small captioned data set from the drawings of tuxpaint-stamps-default");
  app.add_option("--out", options.out, "folder to write train/, held-out/, captions.txt to")
      ->required();
  app.add_option("--from", options.from, "folder of the stamps")->capture_default_str();
  app.add_option("--size", options.size, "sides of the pictures in pixels")
      ->check(CLI::Range(16, 1024))
      ->capture_default_str();
  app.add_option("--held-out-percent", options.held_out_percent, "share of captions to hold out")
      ->check(CLI::Range(0.0, 99.0))
      ->capture_default_str();
  app.add_option("--augment", options.augment, "further pictures of each training stamp")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str();
  app.add_option("--seed", options.seed, "of the split and the further pictures")
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  try {
    const omnitrain::StampSetCounts n = omnitrain::WriteStampSet(options);
    fmt::print("train:    {} stamps, {} captions, {} samples\n", n.train_stamps, n.train_captions,
               n.train_samples);
    fmt::print("held out: {} stamps, {} captions, {} samples\n", n.held_out_stamps,
               n.held_out_captions, n.held_out_samples);
    if (n.unreadable > 0) fmt::print("skipped:  {} pictures that do not decode\n", n.unreadable);
  } catch (const omnitrain::Error& e) {
    fmt::print(stderr, "{}\n", e.what());
    return e.exit_code();
  } catch (const std::exception& e) {
    fmt::print(stderr, "{}\n", e.what());
    return 1;
  }
  return 0;
}
