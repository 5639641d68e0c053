/*
 * crew.h - the threads that help callers with their launches. One crew serves every context of the process: contexts
 * side by side share its threads instead of each bringing its own, and a launch never waits for a thread that is busy
 * elsewhere.
 */
#ifndef KAS_CPU_CREW_H
#define KAS_CPU_CREW_H

#include <stdbool.h>
#include <stdint.h>

typedef struct kas_crew_member kas_crew_member;

/*
 * Enrols a context that wants up to `helpers` threads beside the calling one; the crew has as many threads as its most
 * demanding context. NULL, with nothing enrolled, when a thread cannot be started.
 */
kas_crew_member *kas_crew_enrol(uint32_t helpers);
/* Accepts NULL. The last one to leave ends the threads. */
void kas_crew_leave(kas_crew_member *member);

/*
 * Calls work(user, 0) on this thread and work(user, n) with other n up to the member's helpers on those that are free;
 * returns when all calls have. Calls share the work among themselves: one that finds none left just returns.
 * Allocates nothing.
 */
void kas_crew_run(const kas_crew_member *member, void (*work)(void *user, uint32_t n), void *user);

#endif
