#!/bin/bash
# A tree as a shell grows it: jobs.sh DIR [stopped]
#
# Every job has its own process group (`set -m`, which needs no terminal). There are pipelines, nested
# subshells, a coprocess, process substitutions, a loop that reads with a timeout, a trap, a zombie whose
# parent does not know of it, and, on demand, a stopped job. The files that the test programs meet by are
# described in src/lib.rs.

set -u -m

directory=$1
failures=

fail() { failures+="$*"$'\n'; }

check() {
    local what=$1 found=$2 wanted=$3
    [[ $found == "$wanted" ]] || fail "$what: $found, not $wanted"
}

# The process group of a task.
group_of() {
    local line
    read -r line <"/proc/$1/stat"
    # After the name, which may hold anything: state, parent, group.
    set -- ${line##*) }
    printf '%s' "$3"
}

# The wait statuses of the zombies that are children of a task.
zombies_of() {
    local parent=$1 folder line
    for folder in /proc/[0-9]*; do
        line=
        read -r line <"$folder/stat"
        set -- ${line##*) }
        # The last field is the status.
        [[ ${1-} == Z && ${2-} == "$parent" ]] && printf '%s' "${line##* }"
    done 2>/dev/null
}

main() {
    local pipeline nested loop parent_of_zombie stopped_job=
    coproc ECHO { while read -r line; do echo "echo $line"; done; }
    exec 7> >(tr a-z A-Z | cat >"$directory/upper")

    sleep 1000 | cat | cat >/dev/null &
    pipeline=$!
    (
        sleep 1000 &
        (sleep 1000; true) &
        wait
    ) &
    nested=$!
    (while :; do read -r -t 0.2 && break; done < <(exec sleep 1000)) &
    loop=$!
    # What sleeps here has a child that it has never heard of.
    (
        # Later than the exec: the shell would bury it.
        bash -c 'sleep 0.5; exit 3' &
        exec sleep 1000
    ) &
    parent_of_zombie=$!
    if [[ ${2-} == stopped ]]; then
        sleep 1000 &
        stopped_job=$!
        kill -STOP "$stopped_job"
    fi
    trap 'echo trapped >>"$directory/trapped"' USR2
    local groups=() pid
    for pid in "$pipeline" "$nested" "$loop" "$parent_of_zombie" $stopped_job; do
        groups+=("$(group_of "$pid")")
    done
    until [[ $(zombies_of "$parent_of_zombie") ]]; do
        sleep 0.1
    done
    sleep 0.5
    : >"$directory/ready"

    # The coprocess says nothing unasked: this only waits, without a child that would come and go.
    while [[ ! -e $directory/go ]]; do
        read -r -t 0.1 -u "${ECHO[0]}" line && fail "the coprocess said $line"
    done

    local answer= now=()
    echo ping >&"${ECHO[1]}"
    read -r -t 20 -u "${ECHO[0]}" answer
    check coprocess "$answer" "echo ping"

    kill -USR2 $$
    answer=
    read -r answer <"$directory/trapped"
    check trap "$answer" trapped
    rm "$directory/trapped"

    for pid in "$pipeline" "$nested" "$loop" "$parent_of_zombie" $stopped_job; do
        now+=("$(group_of "$pid")")
    done
    check groups "${now[*]}" "${groups[*]}"
    check zombies "$(zombies_of "$parent_of_zombie")" 768

    # Kills each job as a group, which must be what it was, and gets its status, as only a parent can.
    local index=0 status=
    for pid in "$nested" "$loop" "$parent_of_zombie" $stopped_job; do
        kill -KILL -- "-$pid" || fail "job $pid has no group"
        # A stopped job may first be reported as such.
        for _ in {1..100}; do
            wait "$pid"
            status=$?
            [[ $status == 147 ]] || break
            read -r -t 0.1 -u "${ECHO[0]}"
        done
        check "status of job $((index++))" "$status" 137
    done
    kill -KILL -- "-${groups[0]}" || fail "the pipeline has no group"
    wait "$pipeline"
    check "status of the pipeline" "$?" 137

    # All jobs had the substitution's pipe too, so its end comes only now.
    echo hello >&7
    exec 7>&-
    local tries=0
    until [[ -s $directory/upper ]] || ((++tries > 200)); do
        read -r -t 0.1 -u "${ECHO[0]}"
    done
    answer=
    read -r answer <"$directory/upper"
    check "process substitution" "$answer" HELLO

    exec {ECHO[1]}>&-
    wait "$ECHO_PID"
    check "status of the coprocess" "$?" 0

    printf '%s' "${failures:-ok$'\n'}" >"$directory/result.part"
    mv "$directory/result.part" "$directory/result"
    [[ -z $failures ]]
    exit
}

main "$@" 2>>"$directory/errors"
