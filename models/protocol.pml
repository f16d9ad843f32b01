/*
 * The protocol of events, barrier, failure and abort between the tasks that play tapes and the
 * coordinator, as src/runner/x86_64.rs and src/coordinator/supervise.rs have it.
 *
 * A plan is drawn first: STEPS steps in one total order, each done by one of TASKS tasks; a step posts an
 * event of its own, or waits for an event that an earlier step posts. A task's tape is the total order
 * restricted to the task. So one run of spin looks at every plan of this size, under every schedule:
 * whoever waits does so by a futex, whose check of the word and going to sleep are one step, and is woken by
 * whoever adds to the word, or by the end of its patience at any moment.
 *
 * With -DDEATHS launcher and coordinator may be killed at any moment, either or both. Whoever is left
 * gives the tree up; once it is seized the kernel does (PTRACE_O_EXITKILL). Where nobody is left before that,
 * each task finds out at the end of a wait, by two words that the kernel marks, and exits.
 *
 * What is shown:
 *   - no deadlock: every run ends with all tasks parked, or with the tree given up (invalid end states);
 *   - no task plays its tail before all have arrived, and nobody is committed who has not parked (asserts);
 *   - nobody leaves the window before all have parked, and nobody does who is to be stopped before (assert);
 *   - a failure is never followed by a commit (assert);
 *   - nobody exits while there is somebody who may let it go on, and nobody is left when both are dead (asserts,
 *     invalid end states);
 *   - with fairness, every run comes to its end (ltl finishes).
 *
 * Of each part there is a broken variant, in which spin must find the defect: see scripts/check-models.
 *   -DFORWARD     a step may wait for an event that a later step posts: deadlock
 *   -DWAKE_FIRST  a post wakes before it adds: lost wake-up (only without patience: -DPATIENT)
 *   -DEAGER       the coordinator releases when all but one have arrived: a tail before the barrier
 *   -DDEAF        the coordinator does not look for failures: a failure, and nobody gives up
 *   -DLOOSE       the word to leave is set before those are stopped who must not: one of them leaves
 *   -DHASTY       a task exits when one of the two is dead: the other may have committed, or would have
 *   -DTRUSTING    a task does not look for the dead: it waits for ever when both are
 *   -DFAULTS      any record may fail (not broken: another mode)
 *
 * Futex semantics: futex(2). Spin's own words: spinroot.com/spin/Man.
 */

#ifndef TASKS
#define TASKS 3
#endif
#ifndef STEPS
#define STEPS 4
#endif

#define POST 0
#define WAIT 1

/*
 * Of three tasks the first has a tail and leaves by itself, the second has none, and the third is stopped before: all
 * ways of two of them to meet.
 */
#define HAS_TAIL (me != 1)
#define LEAVES (me != 2)
#define TAILS (TASKS - 1)
#define LEAVING 2

/* The plan: who does each step, what it is, and the event (the step that posts it). */
byte owner[STEPS];
bit kind[STEPS];
byte event_of[STEPS];

/* The control block and the events of the region. */
byte word[STEPS];
byte arrived;
bit released;
byte parked;
bit leave;
bit failed;
bit wake_arrived, wake_failed, wake_parked;

/* Who sleeps, and for what: one more than the number of a step, or one of these. */
#define AWAKE 0
#define RELEASE 100
#define LEAVE 101
byte sleeps[TASKS];
bit coordinator_sleeps;

/* Marked by the kernel when their owners die (robust futexes). */
bit launcher_dead, coordinator_dead;

/* Ghost variables, for the asserts. */
byte in_tail;
byte gone;
byte exited;
bit committed;
bit given_up;
bit is_planned;
bit seized;
/* By ptrace: no task that does not leave by itself runs an instruction of the runner any more; then: none does. */
bit is_stopped;
bit is_held;

#ifdef HASTY
#define NOBODY_IS_LEFT (!is_held && (launcher_dead || coordinator_dead))
#else
#define NOBODY_IS_LEFT (!is_held && launcher_dead && coordinator_dead)
#endif
#if defined(DEATHS) && !defined(TRUSTING)
#define LOOK_FOR_THE_DEAD \
	if \
	:: NOBODY_IS_LEFT -> goto exits \
	:: else \
	fi
#else
#define LOOK_FOR_THE_DEAD skip
#endif

inline wake_all(what) {
	d_step {
		i = 0;
		do
		:: i < TASKS ->
			if
			:: sleeps[i] == what -> sleeps[i] = AWAKE
			:: else
			fi;
			i++
		:: else -> break
		od;
		i = 0
	}
}

inline wake_coordinator(bit_) {
	/* lock or, then FUTEX_WAKE. */
	bit_ = 1;
	coordinator_sleeps = 0
}

/*
 * Sleeps if the condition on the word still holds: the kernel checks it and enqueues in one step. A
 * patient one wakes by itself at any time; what it does then is look again.
 */
inline sleep_unless(done, what) {
	if
	:: atomic { !(done) -> sleeps[me] = what };
#ifdef PATIENT
		sleeps[me] == AWAKE || given_up
#else
		if
		:: sleeps[me] == AWAKE
		:: sleeps[me] = AWAKE;	/* the time is up */
			LOOK_FOR_THE_DEAD
		:: given_up
		fi
#endif
	:: atomic { done -> skip }
	fi
}

#ifdef FAULTS
#define MAY_FAIL :: true -> goto fails
#else
#define MAY_FAIL
#endif

proctype Task(byte me) {
	byte at = 0;
	byte i;
	byte count;
	is_planned;

	/* The tape. */
	do
	:: given_up -> goto dead
	:: !given_up && at == STEPS -> break
	:: !given_up && at < STEPS && owner[at] != me -> at++
	:: !given_up && at < STEPS && owner[at] == me && kind[at] == POST ->
		if
		MAY_FAIL
		:: true ->
#ifdef WAKE_FIRST
			wake_all(at + 1);
			word[at]++
#else
			word[at]++;
			wake_all(at + 1)
#endif
		fi;
		at++
	:: !given_up && at < STEPS && owner[at] == me && kind[at] == WAIT ->
		do
		:: given_up -> goto dead
		:: word[event_of[at]] != 0 -> break
		:: word[event_of[at]] == 0 && !given_up -> sleep_unless(word[event_of[at]] != 0, event_of[at] + 1)
		od;
		at++
	od;

	/* Arrive: lock xadd; the last one tells the coordinator. */
	atomic { arrived++; count = arrived };
	if
	:: count == TASKS -> wake_coordinator(wake_arrived)
	:: else
	fi;
	count = 0;
	/* Who has no tail parks at once. */
	do
	:: !HAS_TAIL -> break
	:: HAS_TAIL && given_up -> goto dead
	:: HAS_TAIL && released -> break
	:: HAS_TAIL && !released && !given_up -> sleep_unless(released, RELEASE)
	od;

	/* The tail waits for nobody. */
	if
	:: HAS_TAIL ->
		atomic { assert(arrived == TASKS); in_tail++ };
		if
		MAY_FAIL
		:: true
		fi
	:: else
	fi;

	/* Park. */
	atomic { parked++; count = parked };
	if
	:: count == TASKS -> wake_coordinator(wake_parked)
	:: else
	fi;
	count = 0;
	do
	:: committed || given_up -> goto dead
	:: is_stopped && !LEAVES && !committed && !given_up -> (committed || given_up)
	:: leave && (LEAVES || !is_stopped) && !committed && !given_up -> break
	:: !leave && (LEAVES || !is_stopped) && !committed && !given_up -> sleep_unless(leave || (is_stopped && !LEAVES), LEAVE)
	od;
	/* munmap, and the fault behind it. */
	atomic {
		if
		:: given_up -> goto dead
		:: else
		fi;
		assert(LEAVES && parked == TASKS && !failed);
		gone++
	};
	(committed || given_up);
	goto dead;

fails:
	/* lock cmpxchg: the first failure is kept and told; the others only wait. */
	if
	:: atomic { !failed -> failed = 1 }; wake_coordinator(wake_failed)
	:: atomic { failed -> skip }
	fi;

waits:
	/* For its end. */
#if defined(DEATHS) && !defined(TRUSTING)
	do
	:: committed || given_up -> goto dead
	:: else -> LOOK_FOR_THE_DEAD; (committed || given_up || NOBODY_IS_LEFT)
	od;
exits:
	atomic { assert(launcher_dead && coordinator_dead && !committed); exited++ };
#else
	(committed || given_up);
#endif
dead:
	skip
}

#ifdef DEATHS
#define DIES :: coordinator_dead -> goto end
#define SEES_DEATH :: launcher_dead && !coordinator_dead -> goto give_up
#else
#define DIES
#define SEES_DEATH
#endif

proctype Coordinator() {
	byte i;
	is_planned;
	do
	DIES
	SEES_DEATH
#ifndef DEAF
	:: wake_failed -> goto give_up
#endif
#ifdef EAGER
	:: arrived >= TASKS - 1 -> break
#endif
	:: wake_arrived -> break
	:: else ->
		/* FUTEX_WAIT on the word with all bits: it sleeps unless one has been set since. */
		if
		:: atomic { !(wake_arrived || wake_failed) -> coordinator_sleeps = 1 };
			(!coordinator_sleeps || launcher_dead || coordinator_dead)
		:: atomic { wake_arrived || wake_failed -> skip }
		fi;
#ifdef DEAF
		if
		:: wake_failed && !wake_arrived -> (wake_arrived)
		:: else
		fi
#endif
	od;
	/* All are seized, then released. Who dies from here on takes the tree along, until it is committed. */
	atomic {
		if
		:: coordinator_dead -> goto end
		:: else -> seized = 1
		fi
	};
	released = 1;
	wake_all(RELEASE);
	do
	DIES
	SEES_DEATH
	:: wake_failed -> goto give_up
	:: wake_parked && !wake_failed -> break
	:: else ->
		if
		:: atomic { !(wake_parked || wake_failed) -> coordinator_sleeps = 1 };
			(!coordinator_sleeps || launcher_dead || coordinator_dead)
		:: atomic { wake_parked || wake_failed -> skip }
		fi
	od;
	/* PTRACE_INTERRUPT of those who do not leave by themselves, and their stops; then the word for the others. */
#ifdef LOOSE
	leave = 1;
	wake_all(LEAVE);
	is_stopped = 1;
#else
	is_stopped = 1;
	atomic {
		if
		:: coordinator_dead || given_up -> goto end
		:: else -> leave = 1
		fi
	};
	wake_all(LEAVE);
#endif
	/* The stops of those who have left. */
	(gone == LEAVING || coordinator_dead || given_up);
	is_held = 1;
	atomic {
		if
		:: coordinator_dead || given_up -> goto end
		:: else
		fi;
		assert(parked == TASKS && in_tail == TAILS && gone == LEAVING && !failed && exited == 0);
		committed = 1
	};
	goto end;
give_up:
	/* SIGKILL to everybody. */
	atomic {
		assert(!committed);
		if
		:: !coordinator_dead -> given_up = 1
		:: else
		fi
	};
end:
	skip
}

#ifdef DEATHS
/* SIGKILL of the coordinator: the kernel kills all that it has seized and not let go. */
proctype KillCoordinator() {
	is_planned;
	if
	:: atomic {
			true -> coordinator_dead = 1;
			if
			:: seized && !committed -> given_up = 1
			:: else
			fi
		}
	:: true
	fi
}

/* The launcher gives the tree up when the coordinator is dead and nothing is committed; it may be killed, too. */
proctype Launcher() {
	is_planned;
	if
	:: atomic { coordinator_dead && !committed -> given_up = 1 }
	:: launcher_dead = 1
	:: atomic { committed || given_up -> skip }
	fi
}
#endif

init {
	byte step = 0;
	byte task;
	byte other;
	byte used = 0;
	atomic {
		/* A plan. Steps are drawn in the one total order. */
		do
		:: step == STEPS -> break
		:: step < STEPS ->
			/* Tasks are alike: those that have no step yet are taken in their order. */
			select(task : 0 .. used);
			owner[step] = task;
			if
			:: task == used && used < TASKS - 1 -> used++
			:: else
			fi;
			if
			:: kind[step] = POST; event_of[step] = step
			:: true ->
				kind[step] = WAIT;
#ifdef FORWARD
				select(other : 0 .. STEPS - 1);
#else
				/* Only what an earlier step posts. */
				if
				:: step > 0 -> select(other : 0 .. step - 1)
				:: else -> kind[step] = POST; other = step
				fi;
#endif
				event_of[step] = other
			fi;
			step++
		od;
		/* Waits are for posts. */
		step = 0;
		do
		:: step == STEPS -> break
		:: step < STEPS ->
			if
			:: kind[step] == WAIT && kind[event_of[step]] != POST -> kind[step] = POST; event_of[step] = step
			:: else
			fi;
			step++
		od;
		task = 0;
		do
		:: task == TASKS -> break
		:: task < TASKS -> run Task(task); task++
		od;
		run Coordinator();
#ifdef DEATHS
		run KillCoordinator();
		run Launcher();
#endif
		step = 0; task = 0; other = 0; used = 0;
		is_planned = 1
	}
}

#ifdef LIVENESS
ltl finishes { <> (committed || given_up || exited == TASKS) }
#endif
