/* crew.c - the threads of all CPU contexts of the process, and the queue of launches that want help. */
#include "crew.h"

#include "core/base.h"
#include "core/platform.h"

#include <stdatomic.h>

/* A layer is a chain of launches of tens to hundreds of microseconds: threads that slept between two of them would
   spend a good part of that on waking. After this long they do sleep. */
#define SPIN_NANOSECONDS 20000u

struct kas_crew_member {
    uint32_t helpers;
    struct kas_crew_member *next;
};

/* A launch under way; lies on its caller's stack. */
typedef struct task {
    void (*work)(void *user, uint32_t n);
    void *user;
    uint32_t joined; /* helpers that ever took part */
    uint32_t most;   /* helpers that may */
    _Atomic uint32_t inside; /* helpers at work */
    struct task *next;
} task;

/* Members, threads and the three below change under the process's mutex, which is taken before `lock`. */
static kas_crew_member *members;
static kas_thread **threads;
static uint32_t thread_count;

/* Made for the first member, destroyed with the last: no memory outlives the contexts. */
static kas_mutex *lock; /* tasks, closing */
static kas_condition *work_ready, *work_done;
static task *tasks;
static bool closing;
static _Atomic uint32_t news; /* grows when there is a task more, or nothing to wait for any longer */

static bool create_locks(void)
{
    lock = kas_mutex_create();
    work_ready = kas_condition_create();
    work_done = kas_condition_create();
    return lock && work_ready && work_done;
}

static void destroy_locks(void)
{
    kas_mutex_destroy(lock);
    kas_condition_destroy(work_ready);
    kas_condition_destroy(work_done);
    lock = NULL;
    work_ready = work_done = NULL;
}

/* ---- Helpers ------------------------------------------------------------------------------------------------------- */

static task *task_with_room(void)
{
    task *t = tasks;
    while (t && t->joined == t->most)
        t = t->next;
    return t;
}

/* Called and returns with the lock held. */
static void wait_for_news(void)
{
    uint32_t seen = atomic_load_explicit(&news, memory_order_relaxed);
    kas_mutex_unlock(lock);
    for (uint64_t end = kas_clock() + SPIN_NANOSECONDS; kas_clock() < end; kas_thread_pause())
        if (atomic_load_explicit(&news, memory_order_relaxed) != seen)
            break;
    kas_mutex_lock(lock);
    while (atomic_load_explicit(&news, memory_order_relaxed) == seen)
        kas_condition_wait(work_ready, lock);
}

/* With the lock held. */
static void tell_news(void)
{
    atomic_fetch_add_explicit(&news, 1, memory_order_relaxed);
    kas_condition_wake_all(work_ready);
}

static void helper_main(void *argument)
{
    (void)argument;
    kas_mutex_lock(lock);
    while (!closing) {
        task *t = task_with_room();
        if (!t) {
            wait_for_news();
            continue;
        }
        uint32_t n = ++t->joined;
        t->inside++;
        kas_mutex_unlock(lock);
        t->work(t->user, n);
        kas_mutex_lock(lock);
        t->joined = t->most; /* nothing is left of it: nobody else need look */
        if (--t->inside == 0)
            kas_condition_wake_all(work_done);
    }
    kas_mutex_unlock(lock);
}

static void remove_task(task *t)
{
    task **link = &tasks;
    while (*link != t)
        link = &(*link)->next;
    *link = t->next;
}

static void wait_for_helpers(task *t)
{
    for (uint64_t end = kas_clock() + SPIN_NANOSECONDS; kas_clock() < end; kas_thread_pause())
        if (atomic_load_explicit(&t->inside, memory_order_acquire) == 0)
            return;
    kas_mutex_lock(lock);
    while (t->inside != 0)
        kas_condition_wait(work_done, lock);
    kas_mutex_unlock(lock);
}

void kas_crew_run(const kas_crew_member *member, void (*work)(void *user, uint32_t n), void *user)
{
    if (member->helpers == 0) {
        work(user, 0);
        return;
    }
    task own = {.work = work, .user = user, .most = member->helpers};
    kas_mutex_lock(lock);
    own.next = tasks;
    tasks = &own;
    tell_news();
    kas_mutex_unlock(lock);
    work(user, 0);
    kas_mutex_lock(lock);
    remove_task(&own);
    kas_mutex_unlock(lock);
    wait_for_helpers(&own);
}

/* ---- Roster -------------------------------------------------------------------------------------------------------- */

static void end_threads(void)
{
    kas_mutex_lock(lock);
    closing = true;
    tell_news();
    kas_mutex_unlock(lock);
    for (uint32_t i = 0; i < thread_count; i++)
        kas_thread_join(threads[i]);
    thread_count = 0;
    closing = false;
}

/* Nobody is left, or nobody came in. */
static void close_crew(void)
{
    if (thread_count != 0)
        end_threads();
    kas_release(threads);
    threads = NULL;
    destroy_locks();
}

static bool start_threads(uint32_t wanted)
{
    if (wanted <= thread_count)
        return true;
    kas_thread **more = kas_alloc(wanted, sizeof(*more));
    if (!more)
        return false;
    for (uint32_t i = 0; i < thread_count; i++)
        more[i] = threads[i];
    kas_release(threads);
    threads = more;
    while (thread_count < wanted) {
        threads[thread_count] = kas_thread_start(helper_main, NULL);
        if (!threads[thread_count])
            return false;
        thread_count++;
    }
    return true;
}

kas_crew_member *kas_crew_enrol(uint32_t helpers)
{
    kas_crew_member *member = kas_alloc(1, sizeof(*member));
    if (!member)
        return NULL;
    member->helpers = helpers;
    kas_mutex_lock(kas_process_mutex());
    if ((members || create_locks()) && start_threads(helpers)) {
        member->next = members;
        members = member;
    } else {
        if (!members)
            close_crew();
        kas_release(member);
        member = NULL;
    }
    kas_mutex_unlock(kas_process_mutex());
    return member;
}

void kas_crew_leave(kas_crew_member *member)
{
    if (!member)
        return;
    kas_mutex_lock(kas_process_mutex());
    kas_crew_member **link = &members;
    while (*link != member)
        link = &(*link)->next;
    *link = member->next;
    if (!members)
        close_crew();
    kas_mutex_unlock(kas_process_mutex());
    kas_release(member);
}
