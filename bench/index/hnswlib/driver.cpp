// Measures hnswlib (https://github.com/nmslib/hnswlib, Apache-2.0) on data from standard
// input and prints rows of the table of main.go: one thread, M = 16, efConstruction = 200.
#include <hnswlib/hnswlib.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <vector>

using Clock = std::chrono::steady_clock;

static void read(void* to, size_t bytes) {
  if (fread(to, 1, bytes, stdin) != bytes) {
    fprintf(stderr, "input cut short\n");
    exit(1);
  }
}

int main(int argc, char** argv) {
  const char* shape = argc > 1 ? argv[1] : "";
  uint32_t head[3];
  read(head, sizeof head);
  const size_t n = head[0], dims = head[1], count = head[2];
  std::vector<float> rows(n * dims);
  read(rows.data(), rows.size() * sizeof(float));
  std::vector<float> questions[2];
  std::vector<uint32_t> truth[2];
  for (int kind = 0; kind < 2; kind++) {
    questions[kind].resize(count * dims);
    truth[kind].resize(count * 10);
    read(questions[kind].data(), count * dims * sizeof(float));
    read(truth[kind].data(), count * 10 * sizeof(uint32_t));
  }
  hnswlib::InnerProductSpace space(dims);
  hnswlib::HierarchicalNSW<float> graph(&space, n, 16, 200);
  auto start = Clock::now();
  for (size_t i = 0; i < n; i++) graph.addPoint(&rows[i * dims], i);
  const double rate = n / std::chrono::duration<double>(Clock::now() - start).count();
  const size_t bytes = graph.size_data_per_element_;
  for (size_t k : {1, 10}) {
    for (size_t ef : {10, 16, 32, 64, 128}) {
      if (ef < k) continue;
      graph.setEf(ef);
      for (int kind = 0; kind < 2; kind++) {
        std::vector<double> times;
        size_t found = 0;
        for (size_t i = 0; i < count; i++) {
          auto begin = Clock::now();
          auto result = graph.searchKnn(&questions[kind][i * dims], k);
          times.push_back(std::chrono::duration<double, std::micro>(Clock::now() - begin).count());
          while (!result.empty()) {
            const auto* t = &truth[kind][i * 10];
            found += std::find(t, t + k, uint32_t(result.top().second)) != t + k;
            result.pop();
          }
        }
        std::sort(times.begin(), times.end());
        printf("| %s | %zu×%zu | hnswlib ef=%zu | %s, k=%zu | %.3f | %.1f | %.1f | %.0f | %zu |\n", shape, n, dims, ef,
               kind == 0 ? "hit" : "miss", k, double(found) / (count * k), times[count / 2], times[size_t(0.99 * (count - 1))], rate, bytes);
        fflush(stdout);
      }
    }
  }
}
