#pragma once

// The letters of shapes, everywhere in omnitrain (comments, and suffixes of names in core/model):
//
//   B batch          L length          T packed tokens (rows of a micro_batch)
//   D model width    H query heads     G kv heads         K head dim
//   F ffn width      V vocabulary      E experts          P patches (rows of an item batch)
//   N merged rows that an encoder hands to the LLM
