#pragma once

#include <cstdint>
#include <vector>

namespace omnitrain {

/// One rank's part in moving rows between the ranks of a group: what it holds of them to where they
/// are wanted. With AllToAllV:
///   packed[i] = held[send_rows[i]]            in the order of destinations, send_counts[r] for r
///   AllToAllV(packed -> arrived)              recv_counts[r] from r
///   wanted[i] = arrived[recv_rows[i]]
/// and backwards, since every row goes to one place: packed'[recv_rows[i]] = d_wanted[i], AllToAllV
/// with the counts exchanged, d_held[send_rows[i]] = arrived'[i].
struct RowExchange {
  std::vector<int32_t> send_rows;                 // [num_held]
  std::vector<int32_t> recv_rows;                 // [num_wanted]
  std::vector<int64_t> send_counts, recv_counts;  // per rank of the group, in rows
};

/// held[r], wanted[r]: the global rows of each rank of the group, in its order. A pure function:
/// every rank computes it from the same lists.
/// Requires: each row of the whole is held once and wanted once.  Errors: kInternal otherwise.
RowExchange PlanRowExchange(const std::vector<std::vector<int32_t>>& held,
                            const std::vector<std::vector<int32_t>>& wanted, int rank);

}  // namespace omnitrain
