#!/bin/sh
# The physical mark: copy an instance's archive, unpack it, start its processes, wait until it is ready. Nothing is
# decrypted, checked, fenced, routed or recorded.
# usage: plain.sh ARCHIVES TARGET BIN NAME PORT
set -eu
archives=$1 target=$2/$4 bin=$3 name=$4 port=$5
mkdir -p "$target/state/db"
cp "$archives/$name.tar" "$target/$name.tar"
tar -xf "$target/$name.tar" -C "$target"
mv "$target/dumps/db.sqlite" "$target/state/db/notes.db"
export NOTES_DB="$target/state/db/notes.db" NOTES_FILES="$target/state/files" NOTES_INSTANCE="$name" NOTES_VERSION=v1.0.0
export NOTES_LISTEN="127.0.0.1:$port"
NOTES_SECRET=$(cat "$archives/$name.secret")
export NOTES_SECRET
"$bin/notes-api" >"$target/api.log" 2>&1 &
echo $! >>"$2/pids"
until curl -fs -o /dev/null "http://$NOTES_LISTEN/readiness"; do sleep 0.05; done
"$bin/notes-worker" >"$target/worker.log" 2>&1 &
echo $! >>"$2/pids"
