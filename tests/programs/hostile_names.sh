#!/bin/bash
# Names that would be markup and script if a page took them for that: hostile_names.sh DIR
#
# The task is called so, and a file that it has open lies in folders that are. The files that the test programs
# meet by are described in src/lib.rs.

set -u

directory=$1
name='<b id=x>&amp;"'
folder=$directory/names/'<'/'script><script>window.hacked=1<'

printf '%s' "$name" >"/proc/$$/comm"
mkdir -p "$folder"
exec 7>"$folder/script>"
mkfifo "$directory/names/silence"
exec 9<>"$directory/names/silence"

: >"$directory/ready"
until [[ -e $directory/go ]]; do
    # A moment: nobody writes to this FIFO.
    read -r -t 0.05 -u 9
done

found=ok
[[ $(</proc/$$/comm) == "$name" ]] || found="the name is $(</proc/$$/comm)"
[[ $(readlink "/proc/$$/fd/7") == "$folder/script>" ]] || found="the file is $(readlink "/proc/$$/fd/7")"
printf '%s\n' "$found" >"$directory/result.part"
mv "$directory/result.part" "$directory/result"
[[ $found == ok ]]
