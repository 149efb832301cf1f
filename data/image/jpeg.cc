#include <algorithm>
#include <csetjmp>
#include <cstddef>
#include <cstdio>

// jpeglib.h relies on the headers above, jerror.h on jpeglib.h.
// clang-format off
#include <jpeglib.h>
#include <jerror.h>
// clang-format on

#include "core/base/check.h"
#include "data/image/codec.h"

namespace omnitrain::internal {
namespace {

// A progressive file of a few kilobytes may ask for a pass over the whole picture per scan; real
// encoders use about ten.
constexpr int kMaxScans = 500;

// Everything that libjpeg may jump over lives here, so that the functions that call setjmp own
// nothing.
struct JpegReader {
  jpeg_decompress_struct cinfo = {};
  jpeg_error_mgr errors = {};
  jpeg_progress_mgr progress = {};
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX] = "";

  ~JpegReader() { jpeg_destroy_decompress(&cinfo); }
};

JpegReader* ReaderOf(j_common_ptr cinfo) { return static_cast<JpegReader*>(cinfo->client_data); }

[[noreturn]] void GiveUp(j_common_ptr cinfo) {
  JpegReader* reader = ReaderOf(cinfo);
  cinfo->err->format_message(cinfo, reader->message);
  std::longjmp(reader->jump, 1);
}

// libjpeg only warns where it replaces missing or damaged coefficients by grey; such a picture is
// not the sample that was meant. Warnings that leave the pixels defined (stray bytes between
// segments, odd progressions) are ignored.
void OnMessage(j_common_ptr cinfo, int level) {
  if (level >= 0) return;
  switch (cinfo->err->msg_code) {
    case JWRN_JPEG_EOF:
    case JWRN_HIT_MARKER:
    case JWRN_HUFF_BAD_CODE:
    case JWRN_ARITH_BAD_CODE:
    case JWRN_MUST_RESYNC:
      GiveUp(cinfo);
    default:
      ++cinfo->err->num_warnings;
  }
}

void OnProgress(j_common_ptr cinfo) {
  if (reinterpret_cast<j_decompress_ptr>(cinfo)->input_scan_number <= kMaxScans) return;
  JpegReader* reader = ReaderOf(cinfo);
  std::snprintf(reader->message, sizeof(reader->message), "more than %d scans", kMaxScans);
  std::longjmp(reader->jump, 1);
}

bool ReadHeader(JpegReader* reader, const unsigned char* data, size_t size) {
  if (setjmp(reader->jump) != 0) return false;
  j_decompress_ptr cinfo = &reader->cinfo;
  cinfo->err = jpeg_std_error(&reader->errors);
  reader->errors.error_exit = GiveUp;
  reader->errors.emit_message = OnMessage;
  cinfo->client_data = reader;
  jpeg_create_decompress(cinfo);
  reader->progress.progress_monitor = OnProgress;
  cinfo->progress = &reader->progress;
  jpeg_mem_src(cinfo, data, size);
  jpeg_read_header(cinfo, TRUE);
  cinfo->out_color_space = cinfo->num_components == 4 ? JCS_CMYK : JCS_RGB;
  cinfo->dct_method = JDCT_ISLOW;
  cinfo->do_fancy_upsampling = TRUE;
  return true;
}

bool ReadPixels(JpegReader* reader, uint8_t* out, size_t row_bytes) {
  if (setjmp(reader->jump) != 0) return false;
  j_decompress_ptr cinfo = &reader->cinfo;
  jpeg_start_decompress(cinfo);
  while (cinfo->output_scanline < cinfo->output_height) {
    JSAMPROW rows[8];
    const JDIMENSION num_rows =
        std::min<JDIMENSION>(8, cinfo->output_height - cinfo->output_scanline);
    for (JDIMENSION i = 0; i < num_rows; ++i)
      rows[i] = out + (cinfo->output_scanline + i) * row_bytes;
    jpeg_read_scanlines(cinfo, rows, num_rows);
  }
  jpeg_finish_decompress(cinfo);
  return true;
}

// [H, W, 4] -> [H, W, 3] in place. Values are stored inverted, as Adobe writes them and PIL
// assumes.
void CmykToRgb(std::vector<uint8_t>* data) {
  const size_t num_pixels = data->size() / 4;
  const uint8_t* in = data->data();
  uint8_t* out = data->data();
  for (size_t i = 0; i < num_pixels; ++i, in += 4, out += 3) {
    const int light = in[3];
    for (int c = 0; c < 3; ++c)
      out[c] = static_cast<uint8_t>(light - DivideBy255((255 - in[c]) * light));
  }
  data->resize(num_pixels * 3);
}

}  // namespace

Pixels DecodeJpeg(std::string_view bytes, const ImageHeader& header, std::string_view name) {
  JpegReader reader;
  const auto* data = reinterpret_cast<const unsigned char*>(bytes.data());
  OT_REQUIRE(ReadHeader(&reader, data, bytes.size()), ErrorCode::kData,
             "{}: truncated or corrupt JPEG: {}", name, reader.message);
  const j_decompress_ptr cinfo = &reader.cinfo;
  OT_REQUIRE(static_cast<int>(cinfo->image_height) == header.height &&
                 static_cast<int>(cinfo->image_width) == header.width,
             ErrorCode::kData, "{}: corrupt JPEG: frame headers of {} x {} and {} x {} pixels",
             name, header.width, header.height, cinfo->image_width, cinfo->image_height);
  const int channels = cinfo->num_components == 4 ? 4 : 3;
  const size_t row_bytes = static_cast<size_t>(header.width) * channels;
  Pixels pixels;
  pixels.data.resize(row_bytes * header.height);
  OT_REQUIRE(ReadPixels(&reader, pixels.data.data(), row_bytes), ErrorCode::kData,
             "{}: truncated or corrupt JPEG: {}", name, reader.message);
  if (channels == 4) CmykToRgb(&pixels.data);
  return pixels;
}

}  // namespace omnitrain::internal
