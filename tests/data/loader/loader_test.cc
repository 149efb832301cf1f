#include "data/loader/loader.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "core/base/check.h"
#include "tests/data/tokenizer/fixtures.h"
#include "tests/support/catch.h"
#include "tools/dataset/stamp_image.h"

namespace omnitrain {
namespace {

enum class Fault { kNone, kHeader, kPixels, kJson, kInternal };

// Captions with pictures of many sizes, made up from the index; some elements have a fault.
class FakeSource : public Source {
 public:
  explicit FakeSource(int64_t size, std::map<int64_t, Fault> faults = {})
      : size_(size), faults_(std::move(faults)) {
    for (int i = 0; i < 5; ++i) {
      Stamp stamp;
      stamp.height = stamp.width = 8;
      stamp.rgba.assign(256, static_cast<char>(40 * i));
      pictures_.push_back(EncodePng(PlaceStamp(stamp, 32 * (1 + i), {})));
    }
  }
  const std::string& name() const override { return name_; }
  int64_t size() const override { return size_; }
  RawSample Read(int64_t index) const override {
    const auto found = faults_.find(index);
    const Fault fault = found == faults_.end() ? Fault::kNone : found->second;
    if (fault == Fault::kJson) Fail(ErrorCode::kData, "fake:{}: broken", index);
    if (fault == Fault::kInternal) Fail(ErrorCode::kInternal, "fake:{}: a bug", index);
    RawSample sample;
    sample.key = fmt::format("fake:{}", index);
    sample.takes_prompt = true;
    std::string text = fmt::format("Number {}", index);
    for (int64_t i = 0; i < index % 7; ++i) text += " and so on";
    sample.messages.resize(2);
    sample.messages[0].role = "user";
    sample.messages[1].role = "assistant";
    sample.messages[1].parts = {{ContentPart::Kind::kText, text, -1}};
    if (index % 4 != 3) {
      sample.messages[0].parts = {{ContentPart::Kind::kImage, "", 0}};
      std::string bytes = pictures_[static_cast<size_t>(index % 5)];
      if (fault == Fault::kHeader) bytes.resize(10);
      if (fault == Fault::kPixels) bytes.resize(60);
      sample.items = {ItemBytes::InMemory(sample.key + ".png", bytes)};
    }
    return sample;
  }

 private:
  std::string name_ = "fake";
  int64_t size_;
  std::map<int64_t, Fault> faults_;
  std::vector<std::string> pictures_;
};

std::shared_ptr<const SampleEncoder> Encoder() {
  static const auto encoder = [] {
    const Tokenizer tokenizer = Tokenizer::Load(GoldenTokenizerPath());
    EncodeOptions options;
    options.seed = 5;
    options.chat_template = ChatTemplate::ForModelType("qwen3_vl");
    options.image.patch_size = 16;
    options.image.min_pixels = 32 * 32;
    options.image.max_pixels = 128 * 128;
    options.positions.image_token_id = *tokenizer.TokenId("<|image_pad|>");
    options.positions.video_token_id = *tokenizer.TokenId("<|video_pad|>");
    return std::make_shared<const SampleEncoder>(options, tokenizer);
  }();
  return encoder;
}

LoaderOptions Options() {
  LoaderOptions options;
  options.seed = 11;
  options.samples_per_step = 16;
  options.micro_batch_tokens = 96;
  options.max_bad_fraction = 0.5;
  return options;
}

Loader Make(const LoaderOptions& options, const std::shared_ptr<const Source>& source) {
  return Loader(options, {{source, 1.0, {"What is it?", "Name it.", "Describe the picture."}}},
                Encoder());
}

void RequireEqual(const StepBatch& a, const StepBatch& b) {
  REQUIRE(a.first_index == b.first_index);
  REQUIRE(a.digest == b.digest);
  REQUIRE(a.micro_batches.size() == b.micro_batches.size());
  for (size_t i = 0; i < a.micro_batches.size(); ++i) {
    const MicroBatch &x = a.micro_batches[i], &y = b.micro_batches[i];
    REQUIRE(x.ids == y.ids);
    REQUIRE(x.labels == y.labels);
    REQUIRE(x.position_ids == y.position_ids);
    REQUIRE(x.cu_seqlens == y.cu_seqlens);
    REQUIRE(x.item_rows == y.item_rows);
    REQUIRE(x.sample_ids == y.sample_ids);
    REQUIRE(x.items.patches == y.items.patches);
  }
}

int64_t NumLabels(const StepBatch& step) {
  int64_t n = 0;
  for (const MicroBatch& batch : step.micro_batches) n += batch.num_loss_tokens();
  return n;
}

TEST_CASE("Batches are whole: rows, placeholders and patches belong together") {
  const auto source = std::make_shared<FakeSource>(40);
  Loader loader = Make(Options(), source);
  for (int i = 0; i < 5; ++i) {
    const StepBatch step = loader.Next();
    CHECK(step.samples == 16);
    CHECK(step.loss_tokens == NumLabels(step));
    int64_t rows = 0, vision = 0;
    for (const MicroBatch& batch : step.micro_batches) {
      REQUIRE(batch.num_tokens() <= 96);
      REQUIRE(static_cast<int64_t>(batch.item_rows.size()) == batch.items.num_merged_rows());
      for (const int32_t row : batch.item_rows) {
        REQUIRE(batch.ids[static_cast<size_t>(row)] ==
                Encoder()->options().positions.image_token_id);
      }
      REQUIRE(batch.items.patches.size() ==
              static_cast<size_t>(batch.items.num_patches() * batch.items.patch_dim));
      REQUIRE(batch.items.cu_seqlens.back() == batch.items.num_patches());
      const auto& patches = batch.items.patches;
      REQUIRE(std::none_of(patches.begin(), patches.end(), [](float v) { return v == 0.0f; }));
      rows += batch.num_tokens();
      vision += batch.items.num_merged_rows();
    }
    CHECK(step.vision_tokens == vision);
    CHECK(step.text_tokens == rows - vision);
  }
}

TEST_CASE("The number of threads and of prepared steps changes nothing") {
  const auto source = std::make_shared<FakeSource>(50);
  std::vector<StepBatch> want;
  for (const auto& [workers, prefetch] :
       std::vector<std::pair<int, int>>{{1, 0}, {1, 3}, {4, 0}, {8, 3}}) {
    LoaderOptions options = Options();
    options.workers = workers;
    options.prefetch_steps = prefetch;
    Loader loader = Make(options, source);
    for (size_t i = 0; i < 6; ++i) {
      StepBatch step = loader.Next();
      if (want.size() <= i) {
        want.push_back(std::move(step));
      } else {
        RequireEqual(step, want[i]);
      }
    }
  }
}

TEST_CASE("Any number of ranks trains the same samples of a step") {
  const auto source = std::make_shared<FakeSource>(
      60, std::map<int64_t, Fault>{{7, Fault::kJson}, {8, Fault::kHeader}});
  // Per step: id -> rows and labels of the sample.
  using Rows = std::pair<std::vector<int32_t>, std::vector<int32_t>>;
  std::vector<std::map<int64_t, Rows>> want;
  for (const int dp_size : {1, 2, 4, 5}) {
    std::vector<std::map<int64_t, Rows>> got(8);
    std::vector<StepBatch> first;
    for (int rank = 0; rank < dp_size; ++rank) {
      LoaderOptions options = Options();
      options.dp_size = dp_size;
      options.dp_rank = rank;
      Loader loader = Make(options, source);
      for (size_t i = 0; i < got.size(); ++i) {
        StepBatch step = loader.Next();
        for (const MicroBatch& batch : step.micro_batches) {
          for (size_t s = 0; s < batch.sample_ids.size(); ++s) {
            const auto begin = batch.cu_seqlens[s], end = batch.cu_seqlens[s + 1];
            const bool is_new =
                got[i]
                    .insert({batch.sample_ids[s],
                             {{batch.ids.begin() + begin, batch.ids.begin() + end},
                              {batch.labels.begin() + begin, batch.labels.begin() + end}}})
                    .second;
            REQUIRE(is_new);
          }
        }
        if (rank == 0) {
          first.push_back(std::move(step));
        } else {
          REQUIRE(step.digest == first[i].digest);
          REQUIRE(step.loss_tokens == first[i].loss_tokens);
          REQUIRE(step.bad == first[i].bad);
          REQUIRE(step.micro_batches.size() == first[i].micro_batches.size());
        }
      }
    }
    if (want.empty()) want = got;
    CHECK(got == want);
    for (size_t i = 0; i < got.size(); ++i) {
      CHECK(got[i].size() == static_cast<size_t>(first[i].samples));
      int64_t labels = 0;
      for (const auto& [id, rows] : got[i]) {
        labels += std::count_if(rows.second.begin(), rows.second.end(),
                                [](int32_t label) { return label >= 0; });
      }
      CHECK(labels == first[i].loss_tokens);
    }
  }
}

TEST_CASE("A run goes on where it stopped, on another number of ranks") {
  const auto source = std::make_shared<FakeSource>(37);
  Loader straight = Make(Options(), source);
  for (int i = 0; i < 3; ++i) straight.Next();
  LoaderOptions options = Options();
  options.first_index = straight.next_index();
  CHECK(options.first_index == 48);
  Loader resumed = Make(options, source);
  options.dp_size = 2;
  Loader half = Make(options, source);
  for (int i = 0; i < 3; ++i) {
    const StepBatch a = straight.Next();
    RequireEqual(a, resumed.Next());
    const StepBatch b = half.Next();
    CHECK(b.digest == a.digest);
    CHECK(b.loss_tokens == a.loss_tokens);
  }
}

TEST_CASE("An epoch brings every element once; prompts vary") {
  Loader loader = Make(Options(), std::make_shared<FakeSource>(64));
  std::set<std::string> keys;
  std::map<std::string, int> prompts = {{"What is it?", 0}, {"Name it.", 0}, {"Describe the", 0}};
  for (int i = 0; i < 4; ++i) {
    for (const MicroBatch& batch : loader.Next().micro_batches) {
      keys.insert(batch.sample_keys.begin(), batch.sample_keys.end());
      const std::string text = Encoder()->tokenizer().Decode(batch.ids);
      for (auto& [prompt, count] : prompts) {
        for (size_t at = text.find(prompt); at != text.npos; at = text.find(prompt, at + 1))
          ++count;
      }
    }
  }
  CHECK(keys.size() == 64);
  int total = 0;
  for (const auto& [prompt, count] : prompts) {
    CHECK(count >= 10);
    total += count;
  }
  CHECK(total == 64);
}

TEST_CASE("Evaluation: stored order, one pass, the tail too") {
  LoaderOptions options = Options();
  options.order = Mixture::Order::kConcatenated;
  Loader loader = Make(options, std::make_shared<FakeSource>(37));
  CHECK(loader.steps_left() == 3);
  std::set<int64_t> ids;
  int64_t last = 0;
  while (loader.steps_left() > 0) {
    const StepBatch step = loader.Next();
    last = step.samples;
    for (const MicroBatch& batch : step.micro_batches) {
      for (size_t s = 0; s < batch.sample_ids.size(); ++s) {
        CHECK(batch.sample_keys[s] == fmt::format("fake:{}", batch.sample_ids[s]));
        ids.insert(batch.sample_ids[s]);
      }
    }
  }
  CHECK(last == 5);
  CHECK(ids.size() == 37);
}

TEST_CASE("Pixels that do not decode: the rows stay, the labels go, the others are untouched") {
  LoaderOptions options = Options();
  options.order = Mixture::Order::kConcatenated;
  Loader good = Make(options, std::make_shared<FakeSource>(16));
  Loader bad = Make(
      options, std::make_shared<FakeSource>(16, std::map<int64_t, Fault>{{5, Fault::kPixels}}));
  const StepBatch a = good.Next(), b = bad.Next();
  CHECK(b.digest == a.digest);
  CHECK(b.loss_tokens == a.loss_tokens);
  CHECK(b.lost == 1);
  CHECK(b.lost_loss_tokens > 0);
  CHECK(NumLabels(b) == b.loss_tokens - b.lost_loss_tokens);
  for (size_t i = 0; i < a.micro_batches.size(); ++i) {
    const MicroBatch &x = a.micro_batches[i], &y = b.micro_batches[i];
    CHECK(x.ids == y.ids);
    const auto& ids = x.sample_ids;
    const bool has_lost = std::find(ids.begin(), ids.end(), 5) != ids.end();
    CHECK((x.labels == y.labels) == !has_lost);
    CHECK((x.items.patches == y.items.patches) == !has_lost);
  }
}

std::string Refusal(Loader* loader, int steps, ErrorCode code) {
  try {
    for (int i = 0; i < steps; ++i) loader->Next();
  } catch (const Error& e) {
    CHECK(e.code() == code);
    return e.what();
  }
  return "";
}

TEST_CASE("Too many bad samples stop the job; a few do not") {
  LoaderOptions options = Options();
  options.order = Mixture::Order::kSequential;
  options.max_bad_fraction = 0.05;
  const std::map<int64_t, Fault> six = {{1, Fault::kJson},    {10, Fault::kHeader},
                                        {20, Fault::kPixels}, {30, Fault::kJson},
                                        {40, Fault::kJson},   {50, Fault::kJson}};
  Loader few = Make(options, std::make_shared<FakeSource>(1000, six));
  CHECK(Refusal(&few, 6, ErrorCode::kData).empty());  // 96 samples: still within the grace
  CHECK(Refusal(&few, 1, ErrorCode::kData).rfind("6 of 112", 0) == 0);
  options.max_bad_fraction = 0.06;
  Loader more = Make(options, std::make_shared<FakeSource>(1000, six));
  CHECK(Refusal(&more, 20, ErrorCode::kData).empty());

  std::map<int64_t, Fault> all;
  for (int64_t i = 0; i < 16; ++i) all[i] = Fault::kJson;
  Loader none = Make(options, std::make_shared<FakeSource>(16, all));
  CHECK(Refusal(&none, 1, ErrorCode::kData).rfind("none of samples 0 to 15", 0) == 0);
}

TEST_CASE("What is no fault of the data surfaces as it is, the earliest first") {
  LoaderOptions options = Options();
  options.order = Mixture::Order::kSequential;
  Loader loader = Make(
      options, std::make_shared<FakeSource>(
                   100, std::map<int64_t, Fault>{{20, Fault::kInternal}, {21, Fault::kInternal}}));
  loader.Next();
  CHECK(Refusal(&loader, 1, ErrorCode::kInternal) == "fake:20: a bug");
  CHECK(Refusal(&loader, 1, ErrorCode::kInternal) == "fake:20: a bug");
}

TEST_CASE("Long samples are skipped or cut") {
  LoaderOptions options = Options();
  options.micro_batch_tokens = 36;
  const auto source = std::make_shared<FakeSource>(64);
  Loader skips = Make(options, source);
  const StepBatch skipped = skips.Next();
  CHECK(skipped.too_long > 0);
  CHECK(skipped.truncated == 0);
  CHECK(skipped.samples + skipped.too_long == 16);
  options.too_long = TooLongPolicy::kTruncate;
  Loader cuts = Make(options, source);
  const StepBatch cut = cuts.Next();
  CHECK(cut.truncated > 0);
  CHECK(cut.samples + cut.too_long == 16);
  for (const MicroBatch& batch : cut.micro_batches) CHECK(batch.num_tokens() <= 36);
}

TEST_CASE("A loader may go at any time") {
  for (int i = 0; i < 20; ++i) {
    LoaderOptions options = Options();
    options.workers = 4;
    options.prefetch_steps = 4;
    Loader loader = Make(options, std::make_shared<FakeSource>(500));
    if (i % 2 == 1) loader.Next();
  }
}

TEST_CASE("A tokenizer with other placeholders than the model's is refused at once") {
  EncodeOptions options = Encoder()->options();
  options.positions.image_token_id += 1;
  try {
    SampleEncoder(options, Encoder()->tokenizer());
    FAIL("accepted");
  } catch (const Error& e) {
    CHECK(e.code() == ErrorCode::kSpec);
  }
}

TEST_CASE("A question is the conversation up to the answer") {
  const FakeSource source(10);
  const RawSample raw = source.Read(2);
  std::string answer;
  const EncodedSample question = Encoder()->EncodeQuestion(raw, 2, {"What?"}, &answer);
  const EncodedSample whole = Encoder()->Encode(raw, 2, {"What?"});
  CHECK(answer == "Number 2 and so on and so on");
  CHECK(question.num_loss_tokens() == 0);
  REQUIRE(question.num_rows() < whole.num_rows());
  CHECK(std::equal(question.ids.begin(), question.ids.end(), whole.ids.begin()));
  CHECK(question.num_patches() == whole.num_patches());
}

}  // namespace
}  // namespace omnitrain
