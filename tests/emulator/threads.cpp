/*
 * Running a grid without a GPU. A block is run by one thread of the host, its threads are fibers. A fiber runs
 * until it waits: for its warp (`meet`, `wait_warp`) or for its block, and goes on when all of them wait there;
 * or for a barrier in shared memory or of some threads, and goes on when that has opened.
 * The blocks of a cluster are run by a thread of the host each, and wait for each other.
 *
 * What hides mistakes on a card is turned against them: memory of the block starts as NaN; every other block
 * runs its threads in reverse order; copies arrive, and products are computed, at once in one half of the
 * blocks, and in the other as late as they may: when they are waited for, and copies that tell a barrier, of
 * which the last comes first, when no thread can go on without. A barrier that not all threads reach, and a
 * warp whose threads meet at different operations, end the program with a line that says so.
 */
#include <setjmp.h>
#include <stdio.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <atomic>
#include <barrier>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "emulator.h"

namespace emulator {

#define MOST_THREADS 1024
/* No multiple of a page: the fibers' stacks shall not all meet in the same lines of the cache. */
#define STACK (((size_t)128 << 10) + 4096 + 64)
#define SHARED ((size_t)227 << 10) /* that a block can ask for */
#define STATIC_SHARED (48u << 10)  /* without asking */
#define MOST_CLUSTER 8

} // namespace emulator

/* What kernels declare as `extern __shared__`, by name; in use is the first that `shared` bytes are asked of.
 */
alignas(1024) thread_local char memory[SHARED];
alignas(1024) thread_local char tiles[SHARED];
alignas(1024) thread_local char shared[SHARED];

thread_local uint3 threadIdx, blockIdx;
thread_local dim3 blockDim, gridDim;

namespace emulator {

thread_local int lane;

namespace {

enum state { RUNS, WAITS_FOR_WARP, WAITS_FOR_BLOCK, WAITS_FOR_SIGN, RETURNED };

struct copy {
    void *to;
    const void *from;
    size_t bytes;
    bool valid;
};

typedef std::vector<std::function<void()>> works;

struct fiber {
    jmp_buf at;
    ucontext_t start;
    bool started, waited; /* for the work before its kernel */
    state now;
    uint3 index;    /* threadIdx */
    operation what; /* it waits with its warp for */
    int meetings;
    std::vector<copy> copies;
    std::vector<size_t> copy_groups; /* where each ends among the copies */
    std::vector<works> groups;  /* of work that is due later; the last is still open */
    std::function<bool()> sign; /* it waits for */
};

/* A barrier in shared memory. */
struct sign {
    int32_t bytes; /* that are expected and have not come */
    uint8_t count, missing, parity, made;
};
#define MADE 0x5a

/* A barrier of some threads of a block. */
struct turn {
    int here;
    unsigned opened;
};
#define TURNS 16

/* A copy under way that tells a barrier. */
struct telling {
    uint32_t barrier;
    int bytes;
    std::function<void()> work;
};

struct cluster {
    explicit cluster(int size) : size(size), barrier(size) {
    }
    int size;
    std::barrier<> barrier;
    char *anchor[MOST_CLUSTER]; /* of the thread of the host that runs each block */
};

struct grid {
    dim3 blocks, threads;
    size_t shared;
    int cluster;
    bool early; /* its threads must wait for the work before it */
    const std::function<void()> *body;
    const std::function<void()>
        *before; /* that work, if it is not done yet; it is, once, when a thread waits */
    std::once_flag *done;
};

/* All that a thread of the host needs to run blocks. */
struct runner {
    jmp_buf at;
    char *stacks;
    fiber fibers[MOST_THREADS];
    message messages[MOST_THREADS / 32][2][32];
    fiber *current;
    const grid *now;
    int threads, living, rank;
    bool late; /* copies are */
    std::vector<telling> telling_copies;
    turn turns[TURNS];
    cluster *together;
};

alignas(1024) thread_local char anchor; /* where the memory of blocks that this thread runs is measured from */

[[noreturn]] void stop(const char *what, const char *more) {
    fprintf(stderr, "emulated GPU: %s%s\n", what, more);
    abort();
}

const char *name_of(operation what) {
    static const char *const names[] = {"syncwarp", "shfl",           "shfl_xor", "shfl_up",  "ballot",
                                        "ldmatrix", "ldmatrix.trans", "mma bf16", "mma tf32", "wgmma"};
    return names[what];
}

runner *make_runner() {
    runner *r = new runner();
    r->stacks = (char *)mmap(NULL, STACK * MOST_THREADS, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (r->stacks == MAP_FAILED) stop("no memory for stacks", "");
    return r;
}

thread_local runner *own_runner; /* made with the first block */

runner *mine() {
    return own_runner;
}

/* ------------------------------------------------------------------ fibers */

/* From a fiber back to its runner. */
void pause(runner *r, state now) {
    fiber *f = r->current;
    f->now = now;
    if (!_setjmp(f->at)) _longjmp(r->at, 1);
}

/* A fiber serves block after block. */
void serve() {
    runner *r = mine();
    for (;;) {
        (*r->now->body)();
        if (r->now->early && !r->current->waited)
            stop("a thread of a kernel that begins early never waits", "");
        pause(r, RETURNED);
    }
}

void resume(runner *r, fiber *f) {
    r->current = f;
    threadIdx = f->index;
    lane = (int)(f - r->fibers) % 32;
    if (_setjmp(r->at)) return;
    if (f->started) _longjmp(f->at, 1);
    f->started = true;
    getcontext(&f->start);
    f->start.uc_stack.ss_sp = r->stacks + STACK * (size_t)(f - r->fibers);
    f->start.uc_stack.ss_size = STACK;
    f->start.uc_link = NULL;
    makecontext(&f->start, serve, 0);
    setcontext(&f->start);
}

/* ------------------------------------------------------------------ a block */

/* Runs the threads of a warp until none can go on. Whether any ran. */
bool run_warp(runner *r, int warp, bool reversed) {
    const int first = warp * 32, count = std::min(32, r->threads - first);
    bool ran = false;
    for (;;) {
        int waiting = 0, there = 0;
        operation what = SYNCWARP;
        for (int i = 0; i < count; i++) {
            fiber *f = &r->fibers[first + (reversed ? count - 1 - i : i)];
            if (f->now == WAITS_FOR_SIGN && f->sign()) f->now = RUNS;
            if (f->now == RUNS) {
                resume(r, f);
                ran = true;
            }
            if (f->now == RETURNED) continue;
            there++;
            if (f->now != WAITS_FOR_WARP) continue;
            waiting++;
            if (waiting > 1 && what != f->what)
                stop("threads of a warp meet for different operations: ", name_of(what));
            what = f->what;
        }
        if (!waiting || waiting < there) return ran;
        if (there < 32 && what != SYNCWARP) stop("threads of a warp are missing from ", name_of(what));
        for (int i = 0; i < count; i++)
            if (r->fibers[first + i].now == WAITS_FOR_WARP) r->fibers[first + i].now = RUNS;
    }
}

/* Lets all go on that wait for the block, if everybody does. */
bool open_barrier(runner *r) {
    int waiting = 0, there = 0;
    for (int i = 0; i < r->threads; i++) {
        there += r->fibers[i].now != RETURNED;
        waiting += r->fibers[i].now == WAITS_FOR_BLOCK;
    }
    r->living = there;
    if (waiting < there) return false;
    for (int i = 0; i < r->threads; i++)
        if (r->fibers[i].now == WAITS_FOR_BLOCK) r->fibers[i].now = RUNS;
    return true;
}

void place_threads(runner *r, const grid &g, uint3 block) {
    blockIdx = block;
    blockDim = g.threads;
    gridDim = g.blocks;
    for (int i = 0; i < r->threads; i++) {
        const unsigned x = (unsigned)i % g.threads.x, y = (unsigned)i / g.threads.x % g.threads.y;
        fiber *f = &r->fibers[i];
        f->now = RUNS;
        f->waited = false;
        f->index = {x, y, (unsigned)i / (g.threads.x * g.threads.y)};
        f->copies.clear();
        f->copy_groups.clear();
        f->groups.assign(1, {});
        f->meetings = 0;
    }
}

void bring(const telling &c);

/* Whether a copy was still under way, which has come now: the last that was begun. */
bool bring_one(runner *r) {
    if (r->telling_copies.empty()) return false;
    const telling last = r->telling_copies.back();
    r->telling_copies.pop_back();
    bring(last);
    return true;
}

void run_block(const grid &g, uint3 block, int rank, cluster *together) {
    if (!own_runner) own_runner = make_runner();
    runner *r = own_runner;
    const unsigned number = block.x + block.y + block.z;
    r->now = &g;
    r->threads = (int)(g.threads.x * g.threads.y * g.threads.z);
    r->living = r->threads;
    r->rank = rank;
    r->together = together;
    r->late = number / 2 % 2;
    for (char *space : {memory, tiles, shared}) memset(space, 0xff, g.shared);
    place_threads(r, g, block);
    r->telling_copies.clear();
    memset(r->turns, 0, sizeof r->turns);
    const int warps = (r->threads + 31) / 32;
    const bool reversed = number % 2;
    while (r->living) {
        bool ran = false;
        for (int w = 0; w < warps; w++) ran |= run_warp(r, reversed ? warps - 1 - w : w, reversed);
        if (!open_barrier(r) && !ran && !bring_one(r))
            stop("a barrier that some threads of a block never reach", "");
    }
}

/* ------------------------------------------------------------------ a grid */

/* Threads of the host that run blocks. */
class crew {
  public:
    /* f(i) for i < count, each by a thread of its own. */
    void run(int count, const std::function<void(int)> &f) {
        std::unique_lock<std::mutex> lock(mutex);
        while ((int)threads.size() < count) {
            const int i = (int)threads.size();
            seen.push_back(round);
            threads.emplace_back([this, i] { work(i); }).detach();
        }
        job = &f;
        wanted = left = count;
        round++;
        begin.notify_all();
        end.wait(lock, [this] { return left == 0; });
    }

  private:
    void work(int i) {
        for (;;) {
            const std::function<void(int)> *f;
            {
                std::unique_lock<std::mutex> lock(mutex);
                begin.wait(lock, [&] { return seen[(size_t)i] != round; });
                seen[(size_t)i] = round;
                if (i >= wanted) continue;
                f = job;
            }
            (*f)(i);
            std::lock_guard<std::mutex> lock(mutex);
            if (--left == 0) end.notify_all();
        }
    }
    std::mutex mutex;
    std::condition_variable begin, end;
    std::vector<std::thread> threads;
    std::vector<uint64_t> seen;
    const std::function<void(int)> *job = NULL;
    uint64_t round = 1;
    int wanted = 0, left = 0;
};

uint3 block_at(const grid &g, uint64_t i) {
    return {(unsigned)(i % g.blocks.x), (unsigned)(i / g.blocks.x % g.blocks.y),
            (unsigned)(i / g.blocks.x / g.blocks.y)};
}

void run_clusters(crew *hosts, const grid &g, uint64_t count) {
    for (uint64_t first = 0; first < count; first += (uint64_t)g.cluster) {
        cluster together(g.cluster);
        hosts->run(g.cluster, [&](int rank) {
            together.anchor[rank] = &anchor;
            together.barrier.arrive_and_wait();
            run_block(g, block_at(g, first + (uint64_t)rank), rank, &together);
            together.barrier.arrive_and_wait(); /* the others may still read this one's memory */
        });
    }
}

thread_local int inside; /* how many grids wait for what this thread of the host does */

void run_grid(const grid &g) {
    static crew *crews[] = {new crew(), new crew()}; /* their threads end with the process */
    static std::mutex one_at_a_time[2];
    crew *hosts = crews[inside];
    const std::lock_guard<std::mutex> lock(one_at_a_time[inside]);
    const uint64_t count = (uint64_t)g.blocks.x * g.blocks.y * g.blocks.z;
    if (g.cluster > 1) return run_clusters(hosts, g, count);
    std::atomic<uint64_t> next = 0;
    const auto some = [&](int) {
        cluster alone(1);
        alone.anchor[0] = &anchor;
        for (uint64_t i = next++; i < count; i = next++) run_block(g, block_at(g, i), 0, &alone);
    };
    const unsigned cores = std::thread::hardware_concurrency();
    hosts->run(count < 4 || cores < 2 ? 1 : (int)std::min(cores, 8u), some);
}

std::mutex allowed_mutex;
std::map<const void *, int> allowed; /* bytes of shared memory that kernels may be launched with */

} // namespace

/* ------------------------------------------------------------------ what kernels call */

void wait_block() {
    pause(mine(), WAITS_FOR_BLOCK);
}

void wait_warp() {
    runner *r = mine();
    r->current->what = SYNCWARP;
    pause(r, WAITS_FOR_WARP);
}

const message *meet(operation what, const message &own) {
    runner *r = mine();
    fiber *f = r->current;
    message(*of_warp)[32] = r->messages[(f - r->fibers) / 32];
    const int which = f->meetings++ % 2; /* who is slow still reads those of the meeting before */
    of_warp[which][lane] = own;
    f->what = what;
    pause(r, WAITS_FOR_WARP);
    return of_warp[which];
}

void wait_dependency() {
    const grid *g = mine()->now;
    mine()->current->waited = true;
    if (!g->before) return;
    std::call_once(*g->done, [&] {
        inside++;
        (*g->before)();
        inside--;
    });
}

static void arrive(const copy &c) {
    if (c.valid) memcpy(c.to, c.from, c.bytes);
    else memset(c.to, 0, c.bytes);
}

void copy_later(void *to, const void *from, size_t bytes, bool valid) {
    runner *r = mine();
    const copy c = {to, from, bytes, valid};
    if ((uintptr_t)to % bytes || (uintptr_t)from % bytes)
        stop("a copy to shared memory that is not aligned", "");
    if (r->late) r->current->copies.push_back(c);
    else arrive(c);
}

void wait_copies() {
    fiber *f = mine()->current;
    for (const copy &c : f->copies) arrive(c);
    f->copies.clear();
    f->copy_groups.clear();
}

void close_copies() {
    fiber *f = mine()->current;
    f->copy_groups.push_back(f->copies.size());
}

void wait_copies_but(int groups) {
    fiber *f = mine()->current;
    while (f->copy_groups.size() > (size_t)groups) {
        const size_t first = f->copy_groups.front();
        for (size_t i = 0; i < first; i++) arrive(f->copies[i]);
        f->copies.erase(f->copies.begin(), f->copies.begin() + (ptrdiff_t)first);
        f->copy_groups.erase(f->copy_groups.begin());
        for (size_t &end : f->copy_groups) end -= first;
    }
}

uint32_t shared_address(const void *p) {
    return (uint32_t)((const char *)p - &anchor);
}

/* Not to be looked through by the compiler, which knows that `anchor` is one byte. */
__attribute__((noinline)) char *shared_at(uint32_t address) {
    return &anchor + (int32_t)address;
}

uint32_t whole_address(uint32_t last_bits) {
    const uint32_t begin = shared_address(tiles);
    return begin + ((last_bits - begin) & 0x3ffff);
}

/* ------------------------------------------------------------------ what comes later */

void later(std::function<void()> work) {
    runner *r = mine();
    if (r->late) r->current->groups.back().push_back(std::move(work));
    else work();
}

void end_group() {
    mine()->current->groups.emplace_back();
}

void wait_groups(int left) {
    fiber *f = mine()->current;
    while ((int)f->groups.size() > left + 1) {
        const works due = std::move(f->groups.front());
        f->groups.erase(f->groups.begin());
        for (const auto &work : due) work();
    }
}

/* ------------------------------------------------------------------ barriers */

static void wait_for(std::function<bool()> opened) {
    runner *r = mine();
    if (opened()) return;
    r->current->sign = std::move(opened);
    pause(r, WAITS_FOR_SIGN);
}

static sign *sign_at(uint32_t barrier) {
    sign *s = reinterpret_cast<sign *>(shared_at(barrier));
    if (barrier % 8 || s->made != MADE) stop("a barrier in shared memory that was not made", "");
    return s;
}

static void open_if_all(sign *s) {
    if (s->missing || s->bytes) return;
    s->missing = s->count;
    s->parity ^= 1;
}

void make_barrier(uint32_t barrier, int count) {
    const sign fresh = {0, (uint8_t)count, (uint8_t)count, 0, MADE};
    memcpy(shared_at(barrier), &fresh, sizeof fresh);
}

void arrive_at(uint32_t barrier, int expected_bytes) {
    sign *s = sign_at(barrier);
    if (!s->missing) stop("more threads arrive at a barrier than it counts", "");
    s->bytes += expected_bytes;
    s->missing--;
    open_if_all(s);
}

void wait_barrier(uint32_t barrier, uint32_t parity) {
    const sign *s = sign_at(barrier);
    wait_for([=] { return s->parity != parity; });
}

namespace {
void bring(const telling &c) {
    sign *s = sign_at(c.barrier);
    c.work();
    s->bytes -= c.bytes;
    open_if_all(s);
}
} // namespace

void copy_telling(uint32_t barrier, int bytes, std::function<void()> work) {
    runner *r = mine();
    const telling c = {barrier, bytes, std::move(work)};
    if (r->late) r->telling_copies.push_back(c);
    else bring(c);
}

static turn *come_to(int id, int threads) {
    if (id < 1 || id >= TURNS) stop("a barrier that a block does not have", "");
    turn *t = &mine()->turns[id];
    if (++t->here == threads) t->here = 0, t->opened++;
    return t;
}

void pass_turn(int id, int threads) {
    come_to(id, threads);
}

void wait_turn(int id, int threads) {
    const unsigned before = mine()->turns[id].opened;
    const turn *t = come_to(id, threads);
    wait_for([=] { return t->opened != before; });
}

/* ------------------------------------------------------------------ clusters */

int cluster_rank() {
    return mine()->rank;
}

int cluster_size() {
    return mine()->together->size;
}

void wait_cluster() {
    runner *r = mine();
    wait_block();
    if (r->living != r->threads) stop("a barrier of a cluster that some threads never reach", "");
    if (r->current == &r->fibers[0]) r->together->barrier.arrive_and_wait();
    wait_block();
}

/* All threads of the host have the memory of their blocks at the same distances from their anchors. */
void *in_cluster(void *own, int rank) {
    return mine()->together->anchor[rank] + ((char *)own - &anchor);
}

/* ------------------------------------------------------------------ launches */

cudaError_t set_shared(const void *kernel, int bytes) {
    if (bytes < 0 || (size_t)bytes > SHARED) return cudaErrorInvalidValue;
    const std::lock_guard<std::mutex> lock(allowed_mutex);
    allowed[kernel] = bytes;
    return cudaSuccess;
}

static bool may_launch(const void *kernel, const grid &g) {
    const unsigned threads = g.threads.x * g.threads.y * g.threads.z;
    const std::lock_guard<std::mutex> lock(allowed_mutex);
    const auto found = allowed.find(kernel);
    const size_t most = std::max((size_t)STATIC_SHARED, found == allowed.end() ? 0 : (size_t)found->second);
    return g.blocks.x && g.blocks.y && g.blocks.z && g.blocks.x <= INT32_MAX && g.blocks.y <= 65535 &&
           g.blocks.z <= 65535 && threads && threads <= MOST_THREADS && g.threads.z <= 64 && g.shared <= most &&
           g.cluster >= 1 && g.cluster <= MOST_CLUSTER && g.blocks.x % (unsigned)g.cluster == 0;
}

cudaError_t launch(cudaStream_t stream, const void *kernel, dim3 blocks, dim3 threads, size_t bytes, int size,
                   bool early, std::function<void()> body) {
    const grid g = {blocks, threads, bytes, size, early, NULL, NULL, NULL};
    if (!may_launch(kernel, g)) return fail(cudaErrorInvalidConfiguration);
    const auto run = [g, body](const std::function<void()> *before) {
        std::once_flag done;
        grid now = g;
        now.body = &body;
        now.before = before;
        now.done = &done;
        run_grid(now);
    };
    if (early) return queue_early(stream, run);
    return queue(stream, [run] { run(NULL); });
}

} // namespace emulator
