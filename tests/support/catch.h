#pragma once

// Debian 12 ships Catch2 v2 (one header), Ubuntu 24.04 v3 (its own main library): tests include
// this header only.
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif
