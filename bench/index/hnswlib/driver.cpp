// Serves hnswlib (https://github.com/nmslib/hnswlib, Apache-2.0) to ../child.go, which
// tells how they speak. Vectors are of unit length, so the inner product is the cosine.
#include <hnswlib/hnswlib.h>

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <thread>
#include <vector>

using Clock = std::chrono::steady_clock;

// Every allocation is counted, as Go counts its own.
static std::atomic<uint64_t> allocations{0};
void* operator new(size_t n) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* p = malloc(n)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { free(p); }
void operator delete(void* p, size_t) noexcept { free(p); }

static bool receive(void* to, size_t bytes) { return fread(to, 1, bytes, stdin) == bytes; }

static void send(const void* from, size_t bytes) {
  if (fwrite(from, 1, bytes, stdout) != bytes) exit(1);
}

static double resident() {
  long all = 0, pages = 0;
  if (FILE* f = fopen("/proc/self/statm", "r")) {
    if (fscanf(f, "%ld %ld", &all, &pages) != 2) pages = 0;
    fclose(f);
  }
  return double(pages) * sysconf(_SC_PAGESIZE);
}

int main() {
  std::unique_ptr<hnswlib::InnerProductSpace> space;
  std::unique_ptr<hnswlib::HierarchicalNSW<float>> graph;
  std::vector<float> questions;
  std::vector<uint32_t> answers;
  uint32_t head[6];
  while (receive(head, sizeof head)) {
    const size_t n = head[1], dims = head[2];
    if (head[0] == 'B') {
      const size_t m = head[3], width = head[4], threads = head[5];
      std::vector<float> rows(n * dims);
      if (!receive(rows.data(), rows.size() * sizeof(float))) return 1;
      const double before = resident();
      space = std::make_unique<hnswlib::InnerProductSpace>(dims);
      graph = std::make_unique<hnswlib::HierarchicalNSW<float>>(space.get(), n, m, width);
      graph->addPoint(rows.data(), 0);  // the first one alone: the graph has no entry yet
      const size_t most = n - n / 10;
      std::atomic<size_t> next{1};
      std::vector<std::thread> team;
      for (size_t t = 0; t < threads; t++)
        team.emplace_back([&] {
          for (size_t i = next++; i < most; i = next++) graph->addPoint(&rows[i * dims], i);
        });
      for (auto& t : team) t.join();
      const auto start = Clock::now();
      for (size_t i = most; i < n; i++) graph->addPoint(&rows[i * dims], i);
      const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
      const double figures[2] = {double(n - most) / seconds, (resident() - before) / double(n)};
      send(figures, sizeof figures);
    } else {
      const size_t k = head[3];
      questions.resize(n * dims);
      if (!receive(questions.data(), questions.size() * sizeof(float))) return 1;
      answers.assign(n * (1 + k), UINT32_MAX);
      graph->setEf(head[4]);
      const uint64_t before = allocations;
      for (size_t i = 0; i < n; i++) {
        uint32_t* answer = &answers[i * (1 + k)];
        const auto start = Clock::now();
        auto found = graph->searchKnn(&questions[i * dims], k);
        *answer++ = uint32_t(std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count());
        for (; !found.empty(); found.pop()) *answer++ = uint32_t(found.top().second);
      }
      const uint64_t count = allocations - before;
      send(answers.data(), answers.size() * sizeof(uint32_t));
      send(&count, sizeof count);
    }
    fflush(stdout);
  }
}
