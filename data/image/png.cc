#include <png.h>

#include <csetjmp>
#include <cstdio>
#include <cstring>

#include "core/base/check.h"
#include "data/image/codec.h"

namespace omnitrain::internal {
namespace {

// Everything that libpng may jump over lives here, so that the functions that call setjmp own
// nothing.
struct PngReader {
  png_structp png = nullptr;
  png_infop info = nullptr;
  const char* next = nullptr;
  size_t num_left = 0;
  std::jmp_buf jump;
  char message[256] = "";
  std::vector<png_bytep> rows;

  ~PngReader() { png_destroy_read_struct(&png, &info, nullptr); }
};

[[noreturn]] void GiveUp(png_structp png, png_const_charp message) {
  auto* reader = static_cast<PngReader*>(png_get_error_ptr(png));
  std::snprintf(reader->message, sizeof(reader->message), "%s", message);
  std::longjmp(reader->jump, 1);
}

void IgnoreWarning(png_structp, png_const_charp) {}

void ReadBytes(png_structp png, png_bytep out, size_t num_bytes) {
  auto* reader = static_cast<PngReader*>(png_get_io_ptr(png));
  if (num_bytes > reader->num_left) png_error(png, "file ends early");
  std::memcpy(out, reader->next, num_bytes);
  reader->next += num_bytes;
  reader->num_left -= num_bytes;
}

bool ReadHeader(PngReader* reader) {
  if (setjmp(reader->jump) != 0) return false;
  reader->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, reader, GiveUp, IgnoreWarning);
  if (reader->png == nullptr) return false;
  png_structp png = reader->png;
  reader->info = png_create_info_struct(png);
  if (reader->info == nullptr) return false;
  png_set_read_fn(png, reader, ReadBytes);
  png_set_crc_action(png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
  // The caller's pixel limit has been checked; libpng's own would refuse long strips.
  png_set_user_limits(png, 0x7fffffff, 0x7fffffff);
  // Profiles, gamma and text neither change the pixels here nor may they cost memory: all but tRNS
  // stay unparsed.
  png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
  png_read_info(png, reader->info);
  png_set_expand(png);  // palettes to RGB, 1-4 bits to 8, tRNS to alpha
  png_set_strip_16(png);
  png_set_gray_to_rgb(png);
  png_set_interlace_handling(png);
  png_read_update_info(png, reader->info);
  return true;
}

bool ReadPixels(PngReader* reader) {
  if (setjmp(reader->jump) != 0) return false;
  png_read_image(reader->png, reader->rows.data());
  png_read_end(reader->png, nullptr);
  return true;
}

}  // namespace

Pixels DecodePng(std::string_view bytes, const ImageHeader& header, std::string_view name) {
  PngReader reader;
  reader.next = bytes.data();
  reader.num_left = bytes.size();
  OT_REQUIRE(ReadHeader(&reader), ErrorCode::kData, "{}: truncated or corrupt PNG: {}", name,
             reader.message);
  const int width = static_cast<int>(png_get_image_width(reader.png, reader.info));
  const int height = static_cast<int>(png_get_image_height(reader.png, reader.info));
  OT_CHECK(width == header.width && height == header.height, "{} x {} and {} x {}", width, height,
           header.width, header.height);
  Pixels pixels;
  pixels.channels = png_get_channels(reader.png, reader.info);
  const size_t row_bytes = png_get_rowbytes(reader.png, reader.info);
  OT_CHECK((pixels.channels == 3 || pixels.channels == 4) &&
               row_bytes == size_t(width) * pixels.channels,
           "{}: {} channels, {} bytes a row of {}", name, pixels.channels, row_bytes, width);
  pixels.data.resize(row_bytes * height);
  reader.rows.resize(height);
  for (int y = 0; y < height; ++y) reader.rows[y] = pixels.data.data() + y * row_bytes;
  OT_REQUIRE(ReadPixels(&reader), ErrorCode::kData, "{}: truncated or corrupt PNG: {}", name,
             reader.message);
  return pixels;
}

}  // namespace omnitrain::internal
