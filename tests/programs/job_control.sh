#!/bin/bash
# Job control of a shell: job_control.sh DIR
#
# Jobs that run, that were stopped from outside, that stopped themselves, that are pipelines, and one that has
# ended without anybody having asked. `jobs` says the same of them after the restore, and then `fg`, `bg`,
# `wait` and `kill` do with them what they always do. The files that the test programs meet by are described in
# src/lib.rs.

set -u -m

directory=$1
failures=

fail() { failures+="$*"$'\n'; }

check() {
    local what=$1 found=$2 wanted=$3
    [[ $found == "$wanted" ]] || fail "$what: $found, not $wanted"
}

# A moment without a child that would come and go: nobody writes to this FIFO.
mkfifo "$directory/silence"
exec 9<>"$directory/silence"
moment() { read -r -t 0.05 -u 9; }

# A job that ends, with a status, when it is told to.
worker() {
    local name=$1 status=$2
    until [[ -e $directory/end.$name ]]; do
        moment
    done
    exit "$status"
}

# The state of a task, as a letter.
state_of() {
    local line
    read -r line <"/proc/$1/stat"
    set -- ${line##*) }
    printf '%s' "$1"
}

# The table of jobs, as far as a subshell can see it: nothing is taken for told.
# Without the signs of the current job and the one before: a shell that is told of a stop once more, as CRIU's
# restore does, takes that job for the current one.
table() {
    local text
    text="all:$(jobs -l) running:$(jobs -r) stopped:$(jobs -s) leaders:$(jobs -p)"
    text=${text//]+/] }
    printf '%s' "${text//]-/] }"
}

await() {
    local what=$1 tries=0
    shift
    until "$@"; do
        ((++tries > 400)) && fail "$what: not in time" && return
        moment
    done
}

# Whether nothing changes by itself any more. Seldom bash believes again for a moment that a job runs which has
# stopped.
has_settled() {
    local once
    once=$(table)
    sleep 0.3
    [[ $(table) == "$once" ]] && is_stopped %2 && is_stopped %5 && is_stopped %6
}
is_stopped() { [[ $(jobs -s "$1" 2>&1) == *Stopped* ]]; }
runs() { [[ $(state_of "$1") != T ]]; }

main() {
    worker running 3 &
    worker stopped 4 &
    local stopped=$!
    sleep 1000 | cat | cat >/dev/null &
    worker later 5 &
    local later=$!
    worker suspended 8 &
    local suspended=$!
    (
        kill -STOP "$BASHPID"
        worker itself 9
    ) &
    local itself=$!
    # Last: its number is free as soon as it has ended.
    (exit 6) &
    local ended=$!
    kill -STOP %2
    kill -TSTP %5
    local job
    for job in %2 %5 %6; do
        await "job $job stops" is_stopped "$job"
    done
    await "a job ends" eval '[[ ! -e /proc/$ended ]]'
    await "the table of jobs settles" has_settled
    local before
    before=$(table)
    : >"$directory/ready"
    while [[ ! -e $directory/go ]]; do
        moment
    done

    check "table of jobs" "$(table)" "$before"
    for job in "$stopped" "$suspended" "$itself"; do
        check "state of $job" "$(state_of "$job")" T
    done

    # To the background, each by another name: by number, by text, the current one.
    bg %2 >/dev/null || fail "bg %2: $?"
    await "bg %2" runs "$stopped"
    : >"$directory/end.stopped"
    wait %2
    check "status of %2" "$?" 4
    bg '%?itself' >/dev/null || fail "bg %?itself: $?"
    await "bg %?itself" runs "$itself"
    : >"$directory/end.itself"
    wait "$itself"
    check "status of %?itself" "$?" 9

    # To the foreground, where it ends.
    : >"$directory/end.suspended"
    fg %5 >/dev/null
    check "status of fg %5" "$?" 8

    wait "$ended"
    check "status of the one that had ended" "$?" 6

    # What was running can be stopped and go on now.
    kill -TSTP %4
    await "job %4 stops" is_stopped %4
    kill -CONT %4
    await "job %4 goes on" runs "$later"
    : >"$directory/end.later"
    wait "$later"
    check "status of %4" "$?" 5

    kill -TERM %3
    wait %3
    check "status of the pipeline" "$?" 143
    : >"$directory/end.running"
    wait -n
    check "status of the next to end" "$?" 3
    jobs >/dev/null
    check "jobs that are left" "$(jobs -l)" ""

    printf '%s' "${failures:-ok$'\n'}" >"$directory/result.part"
    mv "$directory/result.part" "$directory/result"
    [[ -z $failures ]]
    exit
}

main "$@" 2>>"$directory/errors"
