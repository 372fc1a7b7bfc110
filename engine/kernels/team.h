// The threads of a step. OpenMP's runtime is called by name: PyTorch brings it, whoever compiles.
#pragma once

extern "C" {
void GOMP_parallel(void (*run)(void*), void* given, unsigned num_threads, unsigned flags);
void GOMP_barrier();
int omp_get_thread_num();
int omp_get_num_threads();
}

// They share every loop; `rank` is in [0, size).
struct Team {
    long rank, size;
    long begin(long count) const { return count * rank / size; }
    long end(long count) const { return count * (rank + 1) / size; }
    void wait() const {
        if (size > 1) GOMP_barrier();
    }
};

// Call use(team) in each of `num_threads` threads.
template <typename Use> void with_team(long num_threads, Use use) {
    if (num_threads == 1) return use(Team{0, 1});
    auto run = [](void* given) {
        (*(Use*)given)(Team{omp_get_thread_num(), omp_get_num_threads()});
    };
    GOMP_parallel(run, &use, num_threads, 0);
}
