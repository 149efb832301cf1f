#include "parallel/comm/mpi_world.h"

#include <mpi.h>
#include <unistd.h>

#include <exception>
#include <map>
#include <numeric>

#include "parallel/comm/mpi_communicator.h"
#include "parallel/comm/wait_record.h"

namespace omnitrain {

MpiWorld::MpiWorld() : MpiWorld(Options()) {}

MpiWorld::MpiWorld(const Options& options) {
  int provided = MPI_THREAD_SINGLE;
  const int code = MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
  OT_REQUIRE(code == MPI_SUCCESS, ErrorCode::kComm, "MPI does not start: code {}", code);
  OT_REQUIRE(provided >= MPI_THREAD_FUNNELED, ErrorCode::kComm,
             "this MPI gives thread level {}, MPI_THREAD_FUNNELED ({}) is needed", provided,
             MPI_THREAD_FUNNELED);
  engine_ = std::make_shared<MpiEngine>(options.max_message_bytes, options.max_reduce_bytes);

  int rank = 0, size = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  MPI_Comm comm = MPI_COMM_NULL;
  MPI_Comm_dup(MPI_COMM_WORLD, &comm);
  std::vector<int> ranks(static_cast<size_t>(size));
  std::iota(ranks.begin(), ranks.end(), 0);
  world_ = std::make_unique<MpiCommunicator>(engine_, comm, "world", ranks, rank, options.timeout);

  MPI_Comm node = MPI_COMM_NULL;
  MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &node);
  MPI_Comm_rank(node, &local_rank_);
  MPI_Comm_size(node, &local_size_);
  int lowest = rank;
  MPI_Bcast(&lowest, 1, MPI_INT, 0, node);
  MPI_Comm_free(&node);
  std::vector<int> lowest_of(static_cast<size_t>(size));
  MPI_Allgather(&lowest, 1, MPI_INT, lowest_of.data(), 1, MPI_INT, comm);
  std::map<int, int> number_of;
  for (int r : lowest_of) number_of.emplace(r, 0);
  int next = 0;
  for (auto& entry : number_of) entry.second = next++;
  for (int r : lowest_of) node_of_rank_.push_back(number_of[r]);
}

MpiWorld::~MpiWorld() {
  world_.reset();
  if (!engine_->has_failed() && std::uncaught_exceptions() == 0) MPI_Finalize();
}

std::unique_ptr<Communicator> MpiWorld::NewCommunicator(const std::string& name,
                                                        const std::vector<int>& ranks,
                                                        std::chrono::milliseconds timeout) {
  auto& world = static_cast<MpiCommunicator&>(*world_);
  return world.NewGroup(name, ranks, timeout.count() > 0 ? timeout : world.timeout());
}

void MpiWorld::StageThroughHost(Device& device) { engine_->StageThroughHost(device); }

void MpiWorld::Progress() {
  engine_->CheckThread();
  engine_->Progress();
}

void MpiAbort(int code) {
  WriteWaitReport(STDERR_FILENO);
  int is_initialized = 0, is_finalized = 0;
  MPI_Initialized(&is_initialized);
  MPI_Finalized(&is_finalized);
  if (is_initialized && !is_finalized) MPI_Abort(MPI_COMM_WORLD, code);
  _exit(code);
}

}  // namespace omnitrain
