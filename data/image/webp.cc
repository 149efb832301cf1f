#include <webp/decode.h>
#include <webp/demux.h>

#include <algorithm>
#include <memory>

#include "core/base/check.h"
#include "data/image/codec.h"

namespace omnitrain::internal {
namespace {

const char* Reason(VP8StatusCode status) {
  switch (status) {
    case VP8_STATUS_OUT_OF_MEMORY:
      return "out of memory";
    case VP8_STATUS_BITSTREAM_ERROR:
      return "damaged bit stream";
    case VP8_STATUS_UNSUPPORTED_FEATURE:
      return "unsupported feature";
    case VP8_STATUS_SUSPENDED:
    case VP8_STATUS_NOT_ENOUGH_DATA:
      return "file ends early";
    default:
      return "invalid file";
  }
}

// The first frame on its canvas, which is transparent where the frame does not reach.
void DecodeFirstFrame(const WebPData& file, std::string_view name, Pixels* pixels) {
  WebPAnimDecoderOptions options;
  OT_CHECK(WebPAnimDecoderOptionsInit(&options), "libwebpdemux of another version");
  options.color_mode = MODE_RGBA;
  options.use_threads = 0;
  const std::unique_ptr<WebPAnimDecoder, void (*)(WebPAnimDecoder*)> decoder(
      WebPAnimDecoderNew(&file, &options), WebPAnimDecoderDelete);
  uint8_t* canvas = nullptr;
  int timestamp_ms = 0;
  OT_REQUIRE(decoder != nullptr && WebPAnimDecoderGetNext(decoder.get(), &canvas, &timestamp_ms),
             ErrorCode::kData,
             "{}: truncated or corrupt WebP: the first frame of the animation does not decode",
             name);
  WebPAnimInfo info;
  OT_CHECK(WebPAnimDecoderGetInfo(decoder.get(), &info));
  OT_REQUIRE(size_t{info.canvas_width} * info.canvas_height * 4 == pixels->data.size(),
             ErrorCode::kData, "{}: corrupt WebP: canvas of {} x {} pixels", name,
             info.canvas_width, info.canvas_height);
  std::copy(canvas, canvas + pixels->data.size(), pixels->data.begin());
}

}  // namespace

Pixels DecodeWebp(std::string_view bytes, const ImageHeader& header, std::string_view name) {
  const auto* data = reinterpret_cast<const uint8_t*>(bytes.data());
  WebPDecoderConfig config;
  OT_CHECK(WebPInitDecoderConfig(&config), "libwebp of another version");
  VP8StatusCode status = WebPGetFeatures(data, bytes.size(), &config.input);
  OT_REQUIRE(status == VP8_STATUS_OK, ErrorCode::kData, "{}: truncated or corrupt WebP: {}", name,
             Reason(status));

  Pixels pixels;
  pixels.channels = config.input.has_alpha || config.input.has_animation ? 4 : 3;
  const int row_bytes = header.width * pixels.channels;
  pixels.data.resize(size_t(row_bytes) * header.height);
  if (config.input.has_animation) {
    DecodeFirstFrame({data, bytes.size()}, name, &pixels);
    return pixels;
  }
  config.output.colorspace = pixels.channels == 4 ? MODE_RGBA : MODE_RGB;
  config.output.is_external_memory = 1;
  config.output.u.RGBA = {pixels.data.data(), row_bytes, pixels.data.size()};
  status = WebPDecode(data, bytes.size(), &config);
  WebPFreeDecBuffer(&config.output);
  OT_REQUIRE(status == VP8_STATUS_OK, ErrorCode::kData, "{}: truncated or corrupt WebP: {}", name,
             Reason(status));
  return pixels;
}

}  // namespace omnitrain::internal
